//! A flame graph as SVG, drawn by inferno: one file to look at in any browser, with zoom and search.

use std::collections::BTreeMap;
use std::io;

use inferno::flamegraph::color::{BackgroundColor, Color, PaletteMap};
use inferno::flamegraph::{self, Options, TextTruncateDirection};

use super::frames::{Frame, Kind};
use super::{Exhibit, Exporter, caption, held, xml};

/// The SVG format as an [`Exporter`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Svg;

impl Exporter for Svg {
    /// Widths are bytes of what is outstanding. With nothing outstanding, a picture that says so.
    fn write(&self, what: &Exhibit<'_>, w: &mut dyn io::Write) -> io::Result<()> {
        let mut drawing = Drawing::default();
        for (path, sample) in held::paths(what.profile) {
            drawing.add(&path, sample.outstanding_bytes);
        }
        let caption = Caption {
            title: caption::title(what.report),
            subtitle: caption::subtitle(what),
            notes: caption::notes(what),
            nothing: "Nothing allocated in the window is still held.".into(),
        };
        drawing.draw(&caption, w)
    }
}

/// What is written around a flame graph.
#[derive(Clone, Debug, Default)]
pub(crate) struct Caption {
    /// Above it.
    pub(crate) title: String,
    /// Below that: one line.
    pub(crate) subtitle: String,
    /// For whoever reads the file.
    pub(crate) notes: Vec<String>,
    /// In its place when there is nothing to draw.
    pub(crate) nothing: String,
}

/// What one stack is in a picture.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Width {
    bytes: u64,
    /// How much more it is than it was; `None` where nothing is compared.
    change: Option<i64>,
}

/// A flame graph to be.
#[derive(Debug, Default)]
pub(crate) struct Drawing {
    /// Stacks as inferno reads them, frames marked with their kind.
    stacks: BTreeMap<String, Width>,
    palette: PaletteMap,
}

impl Drawing {
    /// Adds a stack, root first.
    pub(crate) fn add(&mut self, path: &[Frame], bytes: u64) {
        let stack = self.stack(path);
        let width = self.stacks.entry(stack).or_default();
        width.bytes = width.bytes.saturating_add(bytes);
    }

    /// Adds a stack that is compared with what it was: as wide as the larger of both, so that what went
    /// is seen too, red where it grew and blue where it shrank.
    pub(crate) fn compare(&mut self, path: &[Frame], before: u64, after: u64) {
        let stack = self.stack(path);
        let width = self.stacks.entry(stack).or_default();
        let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        let change = signed(after).saturating_sub(signed(before));
        width.bytes = width.bytes.saturating_add(before.max(after));
        width.change = Some(width.change.unwrap_or(0).saturating_add(change));
    }

    fn stack(&mut self, path: &[Frame]) -> String {
        let mut stack = String::new();
        for frame in path {
            let marked = marked(frame);
            if self.palette.get(&marked).is_none() {
                self.palette.insert(&marked, colour(frame));
            }
            if !stack.is_empty() {
                stack.push(';');
            }
            stack.push_str(&marked);
        }
        stack
    }

    /// Draws it.
    ///
    /// Errors: `w` cannot be written.
    pub(crate) fn draw(mut self, caption: &Caption, w: &mut dyn io::Write) -> io::Result<()> {
        let (lines, factor) = self.lines();
        if lines.is_empty() {
            return nothing(caption, w);
        }
        let mut options = Options::default();
        options.title = xml::text(&caption.title);
        options.subtitle = Some(xml::text(&caption.subtitle)).filter(|text| !text.is_empty());
        options.notes = xml::comment(&caption.notes.join(" "));
        "bytes".clone_into(&mut options.count_name);
        "Frame:".clone_into(&mut options.name_type);
        options.factor = factor;
        options.palette_map = Some(&mut self.palette);
        options.bgcolors = Some(BackgroundColor::Flat(Color::new(255, 255, 255)));
        options.text_truncate_direction = TextTruncateDirection::Right;
        // A leak that is small beside another is seen when one zooms in; inferno's own is 0.01 %.
        options.min_width = 0.001;
        // They are sorted by stack. inferno would sort them with their counts, and then find names such as
        // `a` and `a !` in no order.
        options.no_sort = true;
        flamegraph::from_lines(&mut options, lines.iter().map(String::as_str), w)
    }

    /// Lines for inferno, sorted, and what to multiply their counts by: it adds up in 64 bits.
    fn lines(&self) -> (Vec<String>, f64) {
        let total: u128 = self.stacks.values().map(|width| u128::from(width.bytes)).sum();
        // Past 2^53 numbers are not exact as drawn anyway.
        let shift = (128 - total.leading_zeros()).saturating_sub(62);
        let line = |(stack, width): (&String, &Width)| {
            let bytes = width.bytes >> shift;
            if bytes == 0 {
                return None;
            }
            Some(match width.change {
                None => format!("{stack} {bytes}"),
                Some(change) => {
                    // inferno takes the difference of two counts, and the second for the width.
                    let first = i128::from(bytes) - i128::from(change >> shift);
                    format!("{stack} {} {bytes}", first.max(0))
                }
            })
        };
        (self.stacks.iter().filter_map(line).collect(), 2_f64.powi(shift.cast_signed()))
    }
}

/// The frame's name with a mark of its kind, by which its colour is found. inferno takes marks off what it
/// shows; as each frame has one, none that is part of a name is taken for it.
fn marked(frame: &Frame) -> String {
    let mark = match frame.kind {
        Kind::Kernel => 'k',
        Kind::User => 'j',
        Kind::Module | Kind::Cache => 'w',
        Kind::Ledger | Kind::Group | Kind::Owner => 'i',
    };
    format!("{}_[{mark}]", xml::text(&frame.name))
}

/// A colour for each kind, its brightness by the name, so that neighbours can be told apart and a function
/// looks the same wherever it is. Apart in brightness too, for those who do not see all colours.
fn colour(frame: &Frame) -> Color {
    let (red, green, blue) = match frame.kind {
        Kind::Ledger => (150, 150, 150),
        Kind::Group => (190, 190, 190),
        Kind::Owner => (214, 214, 214),
        Kind::User => (134, 205, 112),
        Kind::Kernel => (243, 169, 78),
        Kind::Module => (205, 120, 190),
        Kind::Cache => (116, 170, 226),
    };
    // FNV-1a.
    let hash = frame.name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let lighter = u8::try_from((hash >> 32) % 28).unwrap_or(0);
    let [red, green, blue] = [red, green, blue].map(|part: u8| part.saturating_add(lighter));
    Color::new(red, green, blue)
}

/// inferno has nothing but an error for it.
fn nothing(caption: &Caption, w: &mut dyn io::Write) -> io::Result<()> {
    let [title, subtitle, nothing] =
        [&caption.title, &caption.subtitle, &caption.nothing].map(|text| xml::escaped(text));
    let notes = xml::comment(&caption.notes.join(" "));
    write!(
        w,
        r##"<?xml version="1.0" standalone="no"?>
<svg version="1.1" width="1200" height="120" viewBox="0 0 1200 120" xmlns="http://www.w3.org/2000/svg">
<!-- NOTES: {notes} -->
<rect width="100%" height="100%" fill="#ffffff"/>
<g font-family="monospace" font-size="12" text-anchor="middle">
<text id="title" x="50%" y="24" font-size="17">{title}</text>
<text id="subtitle" x="50%" y="48">{subtitle}</text>
<text id="nothing" x="50%" y="84">{nothing}</text>
</g>
</svg>
"##
    )
}

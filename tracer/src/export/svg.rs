//! A flame graph as SVG, drawn by inferno: one file to look at in any browser, with zoom and search.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use inferno::flamegraph::color::{BackgroundColor, Color, PaletteMap, StrokeColor};
use inferno::flamegraph::{self, Options, TextTruncateDirection};

use super::frames::{Frame, Kind};
use super::{Exhibit, Exporter, caption, changes, held, xml};
use crate::report::ledger::Ledger;

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
            subtitle: subtitle(what),
            notes: caption::notes(what),
            nothing: "Nothing allocated in the window is still held.".into(),
        };
        drawing.draw(&caption, w)
    }
}

/// inferno has one root, and so one sum, of which it gives percentages.
fn subtitle(what: &Exhibit<'_>) -> String {
    let books: BTreeSet<Ledger> =
        what.profile.samples.iter().filter(|s| s.outstanding_bytes > 0).map(held::book).collect();
    if books.len() < 2 {
        return caption::subtitle(what);
    }
    caption::fitting(format!("percentages are of all books together; {}", caption::subtitle(what)))
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
        // Neighbours of one name are two frames.
        options.stroke_color = StrokeColor::Color(Color::new(255, 255, 255));
        // The frame below all others.
        self.palette.insert("", Color::new(232, 232, 232));
        options.palette_map = Some(&mut self.palette);
        options.bgcolors = Some(BackgroundColor::Flat(Color::new(255, 255, 255)));
        options.text_truncate_direction = TextTruncateDirection::Right;
        // A leak that is small beside another is seen when one zooms in; inferno's own is 0.01 %.
        options.min_width = 0.001;
        // They are sorted by stack. inferno would sort them with their counts, and then find names such as
        // `a` and `a !` in no order.
        options.no_sort = true;
        let stacks = lines.iter().map(|(line, ..)| line.as_str());
        if lines.iter().all(|(.., change)| change.is_none()) {
            return flamegraph::from_lines(&mut options, stacks, w);
        }
        let height = options.frame_height as u64;
        let mut drawn = Vec::new();
        flamegraph::from_lines(&mut options, stacks, &mut drawn)?;
        let drawn = String::from_utf8(drawn).map_err(io::Error::other)?;
        let changed = lines.iter().filter_map(|(line, bytes, change)| {
            let (stack, _) = line.rsplit_once(' ')?;
            Some(changes::Line { stack, bytes: *bytes, change: change.unwrap_or(0) })
        });
        let changed: Vec<_> = changed.collect();
        w.write_all(changes::coloured(&drawn, &changed, height).as_bytes())
    }

    /// Lines for inferno, sorted, each with its width and change, and what to multiply their counts by: it adds up, and
    /// multiplies by 150, in 64 bits.
    fn lines(&self) -> (Vec<(String, u64, Option<i64>)>, f64) {
        let total: u128 = self.stacks.values().map(|width| u128::from(width.bytes)).sum();
        // Past 2^53 numbers are not drawn exactly anyway.
        let shift = (128 - total.leading_zeros()).saturating_sub(53);
        let line = |(stack, width): (&String, &Width)| {
            let bytes = width.bytes >> shift;
            if bytes == 0 {
                return None;
            }
            Some((format!("{stack} {bytes}"), bytes, width.change.map(|change| change >> shift)))
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use roxmltree::{Document, ParsingOptions};

    use super::*;
    use crate::export::folded::Folded;
    use crate::report::{Owner, Report, frames, sample};

    fn svg(report: &Report) -> String {
        let mut out = Vec::new();
        let profile = sample::profile(report);
        Svg.write(&Exhibit { report, profile: &profile }, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn parse(text: &str) -> Document<'_> {
        let options = ParsingOptions { allow_dtd: true, ..ParsingOptions::default() };
        Document::parse_with_options(text, options).unwrap()
    }

    /// Titles of all frames, each with its width: `load_msg (7,286,272 bytes, 97.25%)`.
    fn titles(document: &Document<'_>) -> BTreeSet<String> {
        let titles = document.descendants().filter(|node| node.has_tag_name("title"));
        titles.filter_map(|node| node.text()).map(str::to_owned).collect()
    }

    fn by_id<'a>(document: &'a Document<'_>, id: &str) -> &'a str {
        let node = document.descendants().find(|node| node.attribute("id") == Some(id));
        node.and_then(|node| node.text()).unwrap_or_default()
    }

    /// No element that runs anything, but inferno's own script.
    fn is_harmless(document: &Document<'_>) {
        let scripts = document.descendants().filter(|node| node.has_tag_name("script")).count();
        assert!(scripts <= 1);
        let known = [
            "svg",
            "defs",
            "linearGradient",
            "stop",
            "style",
            "script",
            "rect",
            "text",
            "g",
            "title",
        ];
        for node in document.descendants().filter(roxmltree::Node::is_element) {
            assert!(known.contains(&node.tag_name().name()), "{node:?}");
            let handlers = node.attributes().filter(|a| a.name().starts_with("on"));
            assert!(handlers.into_iter().all(|a| a.value() == "init(evt)"), "{node:?}");
            assert!(node.attribute("href").is_none(), "{node:?}");
        }
    }

    #[test]
    fn the_incident() {
        let text = svg(&sample::incident());
        let document = parse(&text);
        is_harmless(&document);
        assert_eq!(
            by_id(&document, "title"),
            "kubelet[1165] (kubelet.service) grows kmalloc-512: node7, 30 s"
        );
        insta::assert_snapshot!(by_id(&document, "subtitle"), @"7.1 MiB not freed; kubelet[1165] grows by 235 KiB/s; 2.7 % of the bytes divided among stacks by sampling");
        let titles = titles(&document);
        for title in [
            "all (7,492,096 bytes, 100%)",
            "load_msg (7,286,272 bytes, 97.25%)",
            "os.(*File).Open (205,824 bytes, 2.75%)",
            "[kmalloc-512] (205,824 bytes, 2.75%)",
        ] {
            assert!(titles.contains(title), "{titles:#?}");
        }
        assert!(text.contains("NOTES: kubelet (pid 1165"), "{text}");
    }

    #[test]
    fn kinds_have_colours() {
        let kinds = [Kind::User, Kind::Kernel, Kind::Module, Kind::Cache, Kind::Owner, Kind::Group];
        let colours: BTreeSet<_> = kinds
            .into_iter()
            .map(|kind| {
                let colour = colour(&Frame { kind, name: "same".into() });
                (colour.r, colour.g, colour.b)
            })
            .collect();
        assert_eq!(colours.len(), kinds.len());
        let mut report = sample::incident();
        report.stacks[0].user = frames(["load_msg"]);
        let text = svg(&report);
        for kind in [Kind::User, Kind::Kernel] {
            let Color { r, g, b } = colour(&Frame { kind, name: "load_msg".into() });
            assert!(text.contains(&format!("fill=\"rgb({r},{g},{b})\"")), "{kind:?}");
        }
    }

    #[test]
    fn nothing_is_a_picture_that_says_so() {
        let text = svg(&sample::nothing());
        let document = parse(&text);
        is_harmless(&document);
        assert_eq!(by_id(&document, "title"), "Kernel memory: node7, 30 s");
        assert!(by_id(&document, "nothing").contains("still held"));
    }

    #[test]
    fn hostile_names_are_only_text() {
        let mut report = sample::incident();
        let script = "<script>alert(1)</script>";
        let owner = Owner {
            kind: "process".into(),
            comm: Some(script.into()),
            pid: Some(1),
            cgroup: Some("/a\"b'c]]>--&lt;\u{0}\u{fffe}".into()),
            ..Owner::default()
        };
        report.verdict.owner = Some(owner.clone());
        report.stacks[0].owner = owner.into();
        report.stacks[0].kernel = frames(["a_[k]", "]]></style>", "-->", "\u{ffff}"]);
        report.verdict.summary = format!("{script} -- --> ");
        report.notes = vec!["use --size".into(), "-".into()];
        let text = svg(&report);
        let document = parse(&text);
        is_harmless(&document);
        let titles = titles(&document);
        let cgroup = r#"[/a"b'c]]>--&lt:\x00\u{fffe}]"#;
        for name in [&*format!("{script}-1"), "a_[k]", "]]></style>", cgroup] {
            let title = format!("{name} (7,286,272 bytes, 97.25%)");
            assert!(titles.contains(&title), "{title}: {titles:#?}");
        }
        assert!(by_id(&document, "title").starts_with(&format!("{script}[1]")));
    }

    /// The picture that inferno's own program makes of the folded stacks.
    fn through_folded(report: &Report) -> String {
        let mut lines = Vec::new();
        let profile = sample::profile(report);
        Folded.write(&Exhibit { report, profile: &profile }, &mut lines).unwrap();
        let mut options = Options::default();
        "bytes".clone_into(&mut options.count_name);
        options.min_width = 0.001;
        let mut out = Vec::new();
        flamegraph::from_reader(&mut options, &*lines, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn folded_stacks_make_the_same_picture() {
        let mut report = sample::incident();
        report.stacks.extend([sample::msg_stack(7), sample::msg_stack(8)]);
        report.stacks[2].cache = "page order-0 unmovable".into();
        report.stacks[3].outstanding_bytes = 1_000_000;
        report.stacks[3].user = frames(["main", "load_msg"]);
        let several = svg(&report);
        assert!(
            by_id(&parse(&several), "subtitle")
                .starts_with("percentages are of all books together; ")
        );
        assert!(!svg(&sample::incident()).contains("all books together"));
        for report in [sample::incident(), report] {
            let (ours, theirs) = (svg(&report), through_folded(&report));
            assert_eq!(titles(&parse(&ours)), titles(&parse(&theirs)));
            let rectangles = |text: &str| {
                let document = parse(text);
                let rows = document.descendants().filter(|node| node.has_tag_name("rect"));
                let place = |node: &roxmltree::Node<'_, '_>| {
                    node.attribute("width")
                        .zip(node.attribute("height"))
                        .map(|(w, h)| format!("{w} {h}"))
                };
                let mut rows: Vec<String> = rows.skip(1).filter_map(|node| place(&node)).collect();
                rows.sort_unstable();
                rows
            };
            assert_eq!(rectangles(&ours), rectangles(&theirs));
        }
    }

    #[test]
    fn changes_are_red_and_blue_and_nothing_that_went_is_lost() {
        let mut drawing = Drawing::default();
        let path = |name: &str| vec![Frame { kind: Kind::Kernel, name: name.into() }];
        drawing.compare(&path("grew"), 100, 300);
        drawing.compare(&path("went"), 500, 0);
        drawing.compare(&path("same"), 50, 50);
        let mut out = Vec::new();
        drawing.draw(&Caption::default(), &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let document = parse(&text);
        let colour = |name: &str| {
            let title = document
                .descendants()
                .find(|node| node.has_tag_name("title") && node.text().unwrap().starts_with(name));
            let frame = title.unwrap().parent().unwrap();
            let shape = frame.children().find(|node| node.has_tag_name("rect")).unwrap();
            shape.attribute("fill").unwrap().to_owned()
        };
        assert!(colour("grew").starts_with("rgb(255,"), "{}", colour("grew"));
        assert!(colour("went").ends_with(",255)"), "{}", colour("went"));
        assert_eq!(colour("same"), "rgb(250,250,250)");
        assert!(titles(&document).contains("went (500 bytes, 58.82%; -58.82%)"));
    }

    #[test]
    fn every_frame_has_the_change_of_what_is_above_it() {
        let mut drawing = Drawing::default();
        let path = |names: [&str; 3]| {
            names.map(|name| Frame { kind: Kind::Kernel, name: name.into() }).to_vec()
        };
        drawing.compare(&path(["daemon", "leaks", "[cache]"]), 100, 300);
        drawing.compare(&path(["daemon", "mends", "[cache]"]), 60, 10);
        drawing.compare(&path(["other", "still", "[cache]"]), 40, 40);
        let mut out = Vec::new();
        drawing.draw(&Caption::default(), &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let document = parse(&text);
        let frames: BTreeSet<(String, String)> = document
            .descendants()
            .filter(|node| node.has_tag_name("title"))
            .map(|title| {
                let mut shapes = title.parent().unwrap().children();
                let shape = shapes.find(|node| node.has_tag_name("rect")).unwrap();
                let fill = shape.attribute("fill").unwrap();
                (title.text().unwrap().to_owned(), fill.to_owned())
            })
            .collect();
        // Of 400 bytes in width.
        let expected = [
            ("[cache] (300 bytes, 75.00%; +50.00%)", "rgb(255,100,100)"),
            ("[cache] (40 bytes, 10.00%)", "rgb(250,250,250)"),
            ("[cache] (60 bytes, 15.00%; -12.50%)", "rgb(213,213,255)"),
            ("all (400 bytes, 100%; +37.50%)", "rgb(255,138,138)"),
            ("daemon (360 bytes, 90.00%; +37.50%)", "rgb(255,138,138)"),
            ("leaks (300 bytes, 75.00%; +50.00%)", "rgb(255,100,100)"),
            ("mends (60 bytes, 15.00%; -12.50%)", "rgb(213,213,255)"),
            ("other (40 bytes, 10.00%)", "rgb(250,250,250)"),
            ("still (40 bytes, 10.00%)", "rgb(250,250,250)"),
        ];
        let expected = expected.map(|(title, fill)| (title.to_owned(), fill.to_owned()));
        assert_eq!(frames, BTreeSet::from(expected));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn any_names_and_numbers_make_a_document(
            name in any::<String>(),
            kernel in prop::collection::vec(any::<String>(), 0..5),
            bytes in any::<u64>(),
            more in any::<u64>(),
        ) {
            let mut report = sample::incident();
            let owner = Owner { kind: "process".into(), comm: Some(name.clone()), ..Owner::default() };
            report.stacks[0].owner = owner.into();
            report.stacks[0].kernel = frames(&kernel);
            report.stacks[0].outstanding_bytes = bytes;
            report.stacks[1].cache.clone_from(&name);
            report.stacks[1].outstanding_bytes = more;
            report.host.hostname.clone_from(&name);
            report.verdict.summary.clone_from(&name);
            report.notes = vec![name];
            let text = svg(&report);
            is_harmless(&parse(&text));
        }

        #[test]
        fn any_change_is_drawn(pairs in prop::collection::vec((any::<String>(), any::<u64>(), any::<u64>()), 1..6)) {
            let mut drawing = Drawing::default();
            for (name, before, after) in &pairs {
                drawing.compare(&[crate::export::frames::kernel_function(name)], *before, *after);
            }
            let mut out = Vec::new();
            drawing.draw(&Caption::default(), &mut out).unwrap();
            is_harmless(&parse(&String::from_utf8(out).unwrap()));
        }
    }
}

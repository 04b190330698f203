//! Lines of a page: wrapped, shortened, aligned and painted.

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use super::Style;

/// Few, so that each means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Paint {
    Plain,
    Bold,
    /// What needs action.
    Alarm,
    /// What weakens the answer.
    Warn,
    /// What can be read last.
    Dim,
}

impl Paint {
    fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Bold => "1",
            Self::Alarm => "1;31",
            Self::Warn => "33",
            Self::Dim => "2",
        }
    }
}

/// What is printed so far.
#[derive(Debug)]
pub(crate) struct Page {
    text: String,
    width: usize,
    colour: bool,
}

impl Page {
    /// Columns below which tables make no sense.
    const NARROWEST: usize = 60;

    pub(crate) fn new(style: Style) -> Self {
        Self { text: String::new(), width: style.width.max(Self::NARROWEST), colour: style.colour }
    }

    pub(crate) fn width(&self) -> usize {
        self.width
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// One line, cut at the page's width.
    pub(crate) fn line(&mut self, paint: Paint, line: &str) {
        let line = cut(line.trim_end(), self.width);
        let line = line.trim_end();
        let body = line.trim_start();
        // Blanks are not painted: a terminal may show bold or dim ones.
        self.text.push_str(&line[..line.len() - body.len()]);
        if self.colour && paint != Paint::Plain && !body.is_empty() {
            self.text.push_str("\u{1b}[");
            self.text.push_str(paint.code());
            self.text.push('m');
            self.text.push_str(body);
            self.text.push_str("\u{1b}[0m");
        } else {
            self.text.push_str(body);
        }
        self.text.push('\n');
    }

    /// An empty line and the heading of a section.
    pub(crate) fn heading(&mut self, heading: &str) {
        self.text.push('\n');
        self.line(Paint::Bold, heading);
    }

    /// A paragraph after `label`, its later lines indented to where its first begins.
    pub(crate) fn paragraph(&mut self, paint: Paint, label: &str, text: &str) {
        let indent = label.width();
        for (i, part) in wrap(text, self.width - indent.min(self.width / 2)).iter().enumerate() {
            let head = if i == 0 { label } else { "" };
            self.line(paint, &format!("{head:indent$}{part}"));
        }
    }
}

/// `text` in lines of at most `width` columns, broken at blanks, but not between a number and its
/// unit; a word that is longer is broken anywhere, so that none of it is lost.
pub(crate) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in words(text) {
        let mut word = word.as_str();
        let line = lines.last().map_or(0, |line| line.width());
        if line > 0 && line + 1 + word.width() <= width {
            push(&mut lines, &format!(" {word}"));
            continue;
        }
        if line > 0 {
            lines.push(String::new());
        }
        while word.width() > width {
            let head = prefix(word, width);
            // A character wider than the line would never fit; better too wide than for ever.
            let head = if head == 0 {
                word.chars().next().map_or(word.len(), char::len_utf8)
            } else {
                head
            };
            push(&mut lines, &word[..head]);
            lines.push(String::new());
            word = &word[head..];
        }
        push(&mut lines, word);
    }
    lines
}

fn push(lines: &mut [String], text: &str) {
    if let Some(line) = lines.last_mut() {
        line.push_str(text);
    }
}

/// Words, with a number and a short unit (`97 %`, `6.9 MiB`) as one.
fn words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match words.last_mut() {
            Some(last) if is_number(last) && word.len() <= 5 => {
                last.push(' ');
                last.push_str(word);
            }
            _ => words.push(word.to_owned()),
        }
    }
    words
}

fn is_number(word: &str) -> bool {
    word.len() <= 12 && word.bytes().last().is_some_and(|b| b.is_ascii_digit())
}

/// Bytes of `text` that take at most `width` columns.
fn prefix(text: &str, width: usize) -> usize {
    let mut columns = 0;
    for (at, c) in text.char_indices() {
        columns += c.width().unwrap_or(0);
        if columns > width {
            return at;
        }
    }
    text.len()
}

/// The end of `text` that takes at most `width` columns, as the byte it starts at.
fn suffix(text: &str, width: usize) -> usize {
    let mut columns = 0;
    for (at, c) in text.char_indices().rev() {
        columns += c.width().unwrap_or(0);
        if columns > width {
            return at + c.len_utf8();
        }
    }
    0
}

/// `text` in at most `width` columns, its end lost where it is longer.
pub(crate) fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    format!("{}…", &text[..prefix(text, width.saturating_sub(1))])
}

/// `text` in at most `width` columns, its middle lost where it is longer: a path tells most by its
/// end, a process by its beginning and its pid.
pub(crate) fn shorten(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let room = width.saturating_sub(1);
    let head = &text[..prefix(text, room / 2)];
    let tail = &text[suffix(text, room - head.width().min(room))..];
    format!("{head}…{tail}")
}

/// A row of bars, one for each of at most `cells` equal parts of `values`, scaled from 0.
pub(crate) fn sparkline(values: &[u64], cells: usize) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let cells = cells.min(values.len());
    let Some(&max) = values.iter().max() else {
        return String::new();
    };
    // The last value of each part: the newest one is always shown as it is.
    let parts = (1..=cells).filter_map(|cell| values.get(cell * values.len() / cells - 1));
    parts
        .map(|&value| {
            let bar = u128::from(value) * 7 / u128::from(max.max(1));
            usize::try_from(bar).ok().and_then(|bar| BARS.get(bar)).unwrap_or(&'█')
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn wrapping_keeps_numbers_and_units_together() {
        assert_eq!(wrap("growth of 97 % now", 12), ["growth of", "97 % now"]);
        assert_eq!(wrap("a bb ccc", 4), ["a bb", "ccc"]);
        assert_eq!(wrap("abcdefghij k", 4), ["abcd", "efgh", "ij k"]);
        assert_eq!(wrap("", 4), [""]);
    }

    #[test]
    fn the_middle_goes_first() {
        assert_eq!(shorten("kubelet[1165]", 13), "kubelet[1165]");
        assert_eq!(shorten("kubelet[1165]", 11), "kubel…1165]");
        assert_eq!(shorten("日本語日本語", 6), "日…語");
        assert_eq!(shorten("ab", 1), "…");
        assert_eq!(cut("abcdef", 4), "abc…");
    }

    #[test]
    fn sparklines_scale_from_zero() {
        assert_eq!(sparkline(&[0, 1, 2, 3, 4, 5, 6, 7], 8), "▁▂▃▄▅▆▇█");
        assert_eq!(sparkline(&[5, 5, 5], 8), "███");
        assert_eq!(sparkline(&[0, 0], 8), "▁▁");
        assert_eq!(sparkline(&[], 8), "");
        assert_eq!(sparkline(&(0..20).collect::<Vec<_>>(), 5), "▂▃▅▆█");
        assert_eq!(sparkline(&[u64::MAX, 0], 1), "▁");
    }

    proptest! {
        // From 3 on, as a character can take that many columns (U+17D8); a page has at least 60.
        #[test]
        fn nothing_is_too_wide(text in "\\PC{0,40}", width in 3_usize..30) {
            prop_assert!(cut(&text, width).width() <= width);
            prop_assert!(shorten(&text, width).width() <= width);
            prop_assert!(wrap(&text, width).iter().all(|line| line.width() <= width));
        }

        #[test]
        fn wrapping_loses_nothing(text in "\\PC{0,60}", width in 2_usize..30) {
            let squeeze = |text: &str| text.split_whitespace().collect::<String>();
            prop_assert_eq!(squeeze(&wrap(&text, width).concat()), squeeze(&text));
        }
    }
}

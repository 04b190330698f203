//! Text fit for XML: names from outside may hold what no XML document can.

use crate::report::sanitize;

/// `text` without what XML 1.0 forbids even as a reference (its `Char`: no control characters but three, and
/// neither U+FFFE nor U+FFFF): shown as in a terminal. To be escaped by whoever writes it.
pub(crate) fn text(text: &str) -> String {
    sanitize::terminal(text).into_owned()
}

/// The same, escaped, for an element or an attribute.
pub(crate) fn escaped(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for c in text(name).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// The same for a comment, which may neither hold `--` nor end in `-`: dashes in a row are parted.
pub(crate) fn comment(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for c in escaped(name).chars() {
        if c == '-' && out.ends_with('-') {
            out.push(' ');
        }
        out.push(c);
    }
    if out.ends_with('-') {
        out.push(' ');
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(document: &str) -> roxmltree::Document<'_> {
        roxmltree::Document::parse(document).unwrap()
    }

    #[test]
    fn what_xml_forbids_is_shown() {
        assert_eq!(text("a\u{0}\u{b}\u{fffe}\u{ffff}"), r"a\x00\x0b\u{fffe}\u{ffff}");
        assert_eq!(escaped(r#"<a b="c">&'"#), "&lt;a b=&quot;c&quot;&gt;&amp;&#39;");
        assert_eq!(comment("--size --> ---"), "- -size - -&gt; - - - ");
    }

    proptest! {
        #[test]
        fn a_parser_reads_back_any_text(name in any::<String>()) {
            let (name, comment) = (&name, comment(&name));
            let document = format!("<a b=\"{0}\">{0}<!--{comment}--></a>", escaped(name));
            let root = read(&document);
            let root = root.root_element();
            prop_assert_eq!(root.attribute("b"), Some(&*text(name)));
            prop_assert_eq!(root.text().unwrap_or_default(), text(name));
        }
    }
}

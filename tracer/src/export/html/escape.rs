//! Text from outside in a document: it is never markup, whatever it holds.

use std::borrow::Cow;

/// For the content of an element, or of an attribute in quotes. What would not be seen, or turn text around,
/// becomes visible, as on a terminal.
pub(super) use crate::export::xml::escaped as text;

/// A JSON document for a `script` element: in one, `</script>`, `<!--` and `]]>` mean something to the
/// parser of the page, and nothing that means something can be written without these characters. In JSON
/// they are only ever inside a string, where the escapes stand for the same.
pub(super) fn json(document: &str) -> Cow<'_, str> {
    let unwanted = ['<', '>', '&', '\u{2028}', '\u{2029}'];
    if !document.contains(unwanted) {
        return Cow::Borrowed(document);
    }
    let mut out = String::with_capacity(document.len() + 64);
    for c in document.chars() {
        match c {
            '<' => out.push_str(r"\u003c"),
            '>' => out.push_str(r"\u003e"),
            '&' => out.push_str(r"\u0026"),
            '\u{2028}' => out.push_str(r"\u2028"),
            '\u{2029}' => out.push_str(r"\u2029"),
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_is_text() {
        assert_eq!(
            text(r#"<b a="x" c='y'>&amp;"#),
            "&lt;b a=&quot;x&quot; c=&#39;y&#39;&gt;&amp;amp;"
        );
        assert_eq!(text("a\0b\u{202e}c"), r"a\x00b\u{202e}c");
    }

    #[test]
    fn json_cannot_end_its_element_and_means_the_same() {
        let names = ["</script><!--<script>", "]]>", "&lt;", "a\u{2028}b\u{2029}"];
        let document = serde_json::to_string(&names).unwrap();
        let safe = json(&document);
        assert!(!safe.contains(['<', '>', '&', '\u{2028}', '\u{2029}']), "{safe}");
        assert_eq!(serde_json::from_str::<Vec<String>>(&safe).unwrap(), names);
    }
}

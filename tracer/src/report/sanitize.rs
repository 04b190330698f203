//! Names from outside, made safe to print.
//!
//! A process may call itself anything: its name can hold a newline that forges a row, an escape
//! sequence that repaints the terminal, or a bidi override that makes one name read as another.
//! Cgroup paths and symbols are no better. Every such string passes through here on its way out.

use std::borrow::Cow;
use std::fmt::Write as _;

/// `name` with all that a terminal would obey, or not show, as a visible escape: `\n`, `\x1b`,
/// `\u{202e}`.
///
/// Backslashes stay as they are: systemd escapes unit names with them (`dev-disk\x2d1.device`),
/// and those names have to stay fit for copying.
pub fn terminal(name: &str) -> Cow<'_, str> {
    replace(name, is_unsafe)
}

/// `name` fit for a frame of the folded format, where `;` parts frames and a newline parts stacks.
///
/// The count of a line is what follows its last space, so a plain space may stay.
pub fn folded(name: &str) -> Cow<'_, str> {
    replace(name, |c| c == ';' || is_unsafe(c))
}

/// What begins an order to GitHub's runner, wherever in a line of output it is (`ActionCommand.TryParse` of
/// actions/runner). In JSON only a string can hold it.
const ORDER: &str = "##[";

/// A JSON document whose strings hold nothing that a terminal would obey, when somebody looks at the
/// file. What a parser reads from it stays the same: these are JSON's own escapes.
///
/// JSON itself escapes only what is below U+0020. Anything unsafe above can only be inside a string.
pub fn json(document: &str) -> Cow<'_, str> {
    let unwanted = |c: char| c > '~' && is_unsafe(c);
    if !document.contains(unwanted) && !document.contains(ORDER) {
        return Cow::Borrowed(document);
    }
    let mut out = String::with_capacity(document.len() + 32);
    for c in document.replace(ORDER, r"#\u0023[").chars() {
        if unwanted(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a `String` cannot fail.
                let _ = write!(out, r"\u{unit:04x}");
            }
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

fn replace(name: &str, unwanted: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !name.contains(&unwanted) {
        return Cow::Borrowed(name);
    }
    let mut out = String::with_capacity(name.len() + 8);
    for c in name.chars() {
        if unwanted(c) {
            push_visible(&mut out, c);
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

fn push_visible(out: &mut String, c: char) {
    match c {
        '\n' => out.push_str(r"\n"),
        '\r' => out.push_str(r"\r"),
        '\t' => out.push_str(r"\t"),
        // An escape would hold no ';' either, but this is what people read most easily.
        ';' => out.push(':'),
        // Writing to a `String` cannot fail.
        c if u32::from(c) <= 0xff => drop(write!(out, r"\x{:02x}", u32::from(c))),
        c => drop(write!(out, r"\u{{{:x}}}", u32::from(c))),
    }
}

/// Whether `c` steers a terminal, reorders the text around it, or cannot be seen.
fn is_unsafe(c: char) -> bool {
    c.is_control() || is_bidi(c) || is_invisible(c)
}

/// Unicode's `Bidi_Control`.
fn is_bidi(c: char) -> bool {
    matches!(c,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Unicode's `Default_Ignorable_Code_Point`, plus the line and paragraph separators, the
/// interlinear marks and the format characters of notations: all of zero width, or seen as a gap.
fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200d}' | '\u{2028}' | '\u{2029}'
        | '\u{2060}'..='\u{2065}' | '\u{206a}'..='\u{206f}' | '\u{3164}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
        | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
        // No characters at all, by Unicode: XML 1.0 refuses documents that hold the first two of them.
        || matches!(u32::from(c) & 0xffff, 0xfffe | 0xffff)
        || matches!(c, '\u{fdd0}'..='\u{fdef}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn json_keeps_its_meaning() {
        let name = "##[error]a\n;\u{1b}[31m\u{7f}\u{9b}\u{202e}\u{e0001}\u{fffd}é\u{1f980}";
        let document = serde_json::to_string(&[name]).unwrap();
        let safe = json(&document);
        assert!(!safe.chars().any(is_unsafe) && !safe.contains(ORDER), "{safe}");
        assert_eq!(serde_json::from_str::<Vec<String>>(&safe).unwrap(), [name]);
        assert!(safe.contains('é') && safe.contains('\u{1f980}'));
    }

    #[test]
    fn plain_names_are_untouched() {
        for name in
            ["kubelet", "kworker/u8:2-ext4", r"dev-disk\x2d1.device", "日本", "a b", "\u{fffd}"]
        {
            assert!(matches!(terminal(name), Cow::Borrowed(same) if same == name));
            assert!(matches!(folded(name), Cow::Borrowed(same) if same == name));
        }
    }

    #[test]
    fn controls_become_visible() {
        assert_eq!(terminal("a\n;\u{1b}[31mx\u{fffd}"), "a\\n;\\x1b[31mx\u{fffd}");
        assert_eq!(folded("a\n;\u{1b}[31mx\u{fffd}"), "a\\n:\\x1b[31mx\u{fffd}");
        assert_eq!(terminal("\r\t\0\u{7f}\u{9b}"), r"\r\t\x00\x7f\x9b");
    }

    #[test]
    fn bidi_and_zero_width_become_visible() {
        assert_eq!(terminal("gpj\u{202e}exe"), r"gpj\u{202e}exe");
        assert_eq!(terminal("ku\u{200b}belet\u{feff}"), r"ku\u{200b}belet\u{feff}");
        assert_eq!(terminal("a\u{2028}b\u{e0041}"), r"a\u{2028}b\u{e0041}");
    }

    #[test]
    fn bytes_that_are_not_utf8_stay_well_formed() {
        let comm = String::from_utf8_lossy(b"k\xff\xfe\x1bubelet").into_owned();
        assert_eq!(terminal(&comm), "k\u{fffd}\u{fffd}\\x1bubelet");
    }

    /// Strings that hold much of what hurts, which `any::<String>()` seldom draws.
    fn hostile() -> impl Strategy<Value = String> {
        let nasty = prop::sample::select(vec![
            '\n', '\r', '\t', '\0', '\u{1b}', ';', ' ', '\u{7f}', '\u{85}', '\u{9b}', '\u{ad}',
            '\u{200b}', '\u{202e}', '\u{2028}', '\u{2066}', '\u{feff}', '\u{fffd}', '\\', 'n',
        ]);
        prop::collection::vec(prop_oneof![3 => nasty, 1 => any::<char>()], 0..40)
            .prop_map(String::from_iter)
    }

    proptest! {
        #[test]
        fn nothing_unsafe_is_left(name in hostile()) {
            let shown = terminal(&name);
            prop_assert!(!shown.contains(is_unsafe));
            prop_assert!(!shown.contains(char::is_control));
            prop_assert_eq!(terminal(&shown), &*shown);
        }

        #[test]
        fn folded_never_breaks_a_line_or_a_frame(name in hostile()) {
            let frame = folded(&name);
            prop_assert!(!frame.contains(|c| c == ';' || is_unsafe(c)));
            prop_assert!(frame.lines().count() <= 1);
            prop_assert_eq!(folded(&frame), &*frame);
        }

        #[test]
        fn other_characters_are_kept(name in hostile()) {
            let kept: String = name.chars().filter(|&c| !is_unsafe(c)).collect();
            let shown = terminal(&name);
            // A subsequence: nothing that was fit to print is dropped or moved.
            let mut rest = shown.chars();
            prop_assert!(kept.chars().all(|c| rest.any(|d| d == c)));
        }
    }
}

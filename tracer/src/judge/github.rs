//! Annotations for GitHub: workflow commands, a line each, which its runner reads from a step's output.

use std::fmt::Write as _;

use super::{text, words};
use crate::report::judgement::Judgement;
use crate::report::sanitize::terminal;

/// Annotations that are shown of a step, by level: GitHub drops what is more.
const MOST: usize = 10;

/// An `::error::` for each condition that holds, a `::warning::` for each suppression that is good for
/// nothing, at its line.
pub fn annotations(judgement: &Judgement) -> Vec<String> {
    let mut lines = Vec::new();
    for outcome in judgement.held().take(MOST) {
        let mut message = text::said(outcome);
        for line in outcome.guilty.iter().flat_map(text::account).chain(text::sums(judgement)) {
            // Writing to a String cannot fail.
            let _ = write!(message, "\n{line}");
        }
        let _ = write!(message, "\n  reproduce  {}", judgement.reproduce);
        let title = format!("kleak: {} holds", outcome.expression);
        lines.push(command("error", &[("title", &title)], &message));
    }
    for unused in judgement.unused_suppressions.iter().take(MOST) {
        let place = words::place(&unused.file, unused.line, &unused.reason);
        let message = format!("{place}: {}", terminal(&unused.why));
        let properties = [
            ("file", unused.file.as_str()),
            ("line", &unused.line.to_string()),
            ("title", "kleak: unused suppression"),
        ];
        lines.push(command("warning", &properties, &message));
    }
    lines
}

/// A workflow command. What is escaped, and how, is of GitHub's own `@actions/core` (`command.ts`).
fn command(name: &str, properties: &[(&str, &str)], message: &str) -> String {
    let properties: Vec<String> =
        properties.iter().map(|(key, value)| format!("{key}={}", property(value))).collect();
    format!("::{name} {}::{}", properties.join(","), data(message))
}

fn data(text: &str) -> String {
    let text: String =
        text.split('\n').map(|line| terminal(line).into_owned()).collect::<Vec<_>>().join("\n");
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

/// A line that GitHub's runner takes for no command of its older form, which may begin anywhere in it.
pub fn inert(line: &str) -> String {
    let line = line.replace("##[", "## [");
    if line.trim_start().starts_with("::") { format!("| {line}") } else { line }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Name, properties, message.
    type Parsed = (String, Vec<(String, String)>, String);

    /// As GitHub's runner reads it (`ActionCommand.TryParseV2`).
    fn parse(line: &str) -> Option<Parsed> {
        let rest = line.trim_start().strip_prefix("::")?;
        let (head, message) = rest.split_once("::")?;
        let (name, properties) = head.split_once(' ').unwrap_or((head, ""));
        let unescaped = |text: &str| {
            text.replace("%0D", "\r")
                .replace("%0A", "\n")
                .replace("%3A", ":")
                .replace("%2C", ",")
                .replace("%25", "%")
        };
        let properties = properties.split(',').filter_map(|pair| {
            let (key, value) = pair.split_once('=')?;
            Some((key.to_owned(), unescaped(value)))
        });
        let message = message.replace("%0D", "\r").replace("%0A", "\n").replace("%25", "%");
        Some((name.to_owned(), properties.collect(), message))
    }

    proptest! {
        #[test]
        fn any_text_stays_in_its_place(value in any::<String>(), message in any::<String>()) {
            let line = command("error", &[("title", &value), ("file", "a")], &message);
            prop_assert_eq!(line.lines().count(), 1);
            prop_assert!(!line.contains(char::is_control));
            let (name, properties, read) = parse(&line).unwrap();
            prop_assert_eq!(name, "error");
            let shown = |text: &str| {
                text.split('\n').map(|line| terminal(line).into_owned()).collect::<Vec<_>>().join("\n")
            };
            prop_assert_eq!(properties, vec![("title".to_owned(), shown(&value)), ("file".to_owned(), "a".to_owned())]);
            prop_assert_eq!(read, shown(&message));
        }

        #[test]
        fn no_line_is_a_command(line in "[ \t]{0,3}(::|##\\[)?(error|stop-commands)[ \\PC]{0,9}(::|\\])?\\PC{0,9}") {
            let line = inert(&line);
            prop_assert!(!line.trim_start().starts_with("::"));
            prop_assert!(!line.contains("##["));
        }
    }
}

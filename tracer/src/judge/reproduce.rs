//! The command line that watches and judges the same again.

use std::borrow::Cow;
use std::fmt::Write as _;

use super::{Condition, Rules};
use crate::report::profile::Profile;
use crate::report::{Filter, Report, sanitize};

/// The smallest and the largest class of `kmalloc`: with both, no size was asked for.
const ALL_SIZES: [u64; 2] = [8, 4 << 20];

/// One line, quoted for a shell.
pub(super) fn command_line(report: &Report, profile: &Profile, rules: &Rules<'_>) -> String {
    let filter = &report.filter;
    let mut words = vec!["kleak".to_owned(), "trace".to_owned()];
    let mut option = |name: &str, value: Option<&str>| {
        words.push(name.to_owned());
        words.extend(value.map(str::to_owned));
    };
    let all_sizes = ALL_SIZES.iter().all(|size| filter.size_classes.contains(size));
    if !filter.size_classes.is_empty() && !all_sizes {
        let sizes: Vec<String> = filter.size_classes.iter().map(u64::to_string).collect();
        option("--size", Some(&sizes.join(",")));
    }
    for cache in &filter.caches {
        option("--cache", Some(cache));
    }
    if names_kinds(filter, all_sizes) {
        option("--kind", Some(&filter.kinds.join(",")));
    }
    let pid = filter.pid.map(|pid| pid.to_string());
    let owners = [
        ("--pid", pid.as_ref()),
        ("--comm", filter.comm.as_ref()),
        ("--cgroup", filter.cgroup.as_ref()),
        ("--pod", filter.pod.as_ref()),
    ];
    for (name, value) in owners {
        if let Some(value) = value {
            option(name, Some(value));
        }
    }
    // A command that kleak ended itself would not end by itself again.
    let ended = report.command.as_ref().is_none_or(|command| command.signal.is_some());
    if ended {
        option("--duration", Some(&seconds(report.window_s.ceil())));
    }
    if filter.min_age_s > 0.0 {
        option("--min-age", Some(&seconds(filter.min_age_s)));
    }
    if filter.stacks != "auto" && !filter.stacks.is_empty() {
        option("--stacks", Some(&filter.stacks));
    }
    if profile.samples.iter().any(|sample| !sample.user.is_empty()) {
        option("--user-stacks", None);
    }
    if filter.by != "process"
        && !filter.by.is_empty()
        && rules.conditions.iter().any(Condition::is_of_share)
    {
        option("--by", Some(&filter.by));
    }
    for condition in rules.conditions {
        option("--fail-on", Some(&condition.to_string()));
    }
    let mut files: Vec<&str> = rules.suppressions.all.iter().map(|one| one.file.as_str()).collect();
    files.dedup();
    for file in files {
        option("--suppressions", Some(file));
    }
    if let Some(baseline) = rules.baseline {
        option("--baseline", Some(baseline.file()));
    }
    if let Some(command) = &report.command {
        words.push("--".to_owned());
        words.extend(command.argv.iter().cloned());
    }
    words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
}

/// Whether `--kind` was given, or says the same as what was.
fn names_kinds(filter: &Filter, all_sizes: bool) -> bool {
    let has = |kind: &str| filter.kinds.iter().any(|name| name == kind);
    let both = has("kmalloc") && has("cache") && all_sizes && !filter.caches.is_empty();
    has("page") || has("percpu") || both || (has("cache") && filter.caches.is_empty())
}

/// As `--duration` takes it.
fn seconds(s: f64) -> String {
    if s >= 1.0 && s.fract() == 0.0 {
        format!("{s:.0}s")
    } else {
        format!("{:.0}ms", (s * 1000.0).max(1.0))
    }
}

/// A word that a shell reads as it was. What a terminal would obey is written as `$'\x1b'`, which bash,
/// zsh and POSIX shells of 2024 know.
pub(super) fn quoted(word: &str) -> Cow<'_, str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./,:=+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return Cow::Borrowed(word);
    }
    if matches!(sanitize::terminal(word), Cow::Borrowed(_)) {
        // It refuses nothing but a NUL, which is no part of any argument.
        return shlex::try_quote(word).unwrap_or(Cow::Borrowed("''"));
    }
    let mut out = String::from("$'");
    for c in word.chars() {
        match c {
            '\'' => out.push_str(r"\'"),
            '\\' => out.push_str(r"\\"),
            '\n' => out.push_str(r"\n"),
            c if matches!(sanitize::terminal(c.encode_utf8(&mut [0; 4])), Cow::Borrowed(_)) => {
                out.push(c);
            }
            c => {
                for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                    // Three octal digits: a digit that follows is not taken for a fourth. Writing to a
                    // String cannot fail.
                    let _ = write!(out, r"\{byte:03o}");
                }
            }
        }
    }
    out.push('\'');
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::quoted;

    #[test]
    fn words_are_quoted_when_they_have_to_be() {
        for (word, expected) in [
            ("./run-tests", "./run-tests"),
            ("", "''"),
            ("objects>100", "'objects>100'"),
            ("two words", "'two words'"),
            ("a\nb", r"$'a\nb'"),
            ("\u{1b}[2J'", r"$'\033[2J\''"),
        ] {
            assert_eq!(quoted(word), expected, "{word:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_shell_reads_what_was_meant(words in prop::collection::vec("[^\0]{0,12}", 1..8)) {
            let line: Vec<_> = words.iter().map(|word| quoted(word)).collect();
            let line = line.join(" ");
            prop_assert!(!line.contains(char::is_control));
            let script = format!("printf '%s\\0' {line}");
            let output = Command::new("bash").env("LC_ALL", "C.UTF-8").args(["-c", &script]).output().unwrap();
            let read: Vec<_> = output.stdout.split(|byte| *byte == 0).collect();
            let expected: Vec<_> = words.iter().map(String::as_bytes).collect();
            prop_assert_eq!(&read[..read.len() - 1], &expected[..]);
        }
    }
}

//! The suppression file: TOML, a `[[suppress]]` each. What it does not know is an error, as a pattern
//! that is silently ignored would make a build green or red for no reason that anybody sees.

use globset::{Glob, GlobMatcher};
use serde::Deserialize;
use toml::Spanned;

use super::condition;
use super::suppress::{Day, Suppression, Suppressions};
use crate::report::sanitize::terminal;

/// What a `[[suppress]]` may hold.
const ALLOWED: &str = "a [[suppress]] has `reason`, one or more of `stack`, `comm`, `unit`, `cgroup`, \
    `pod` and `cache`, and may have `max` and `until`";

/// Why a file is none of suppressions.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}:{line}: {what}", terminal(file))]
pub struct FileError {
    file: String,
    line: u64,
    what: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    suppress: Vec<Spanned<Entry>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    reason: Option<Spanned<String>>,
    stack: Option<Spanned<Stack>>,
    comm: Option<Spanned<String>>,
    unit: Option<Spanned<String>>,
    cgroup: Option<Spanned<String>>,
    pod: Option<Spanned<String>>,
    cache: Option<Spanned<String>>,
    max: Option<Spanned<Max>>,
    until: Option<Spanned<Until>>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a pattern of a function, or a list of them from the leaf outwards")]
enum Stack {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "an amount of memory, such as \"64KiB\", or a number of bytes")]
enum Max {
    Text(String),
    Bytes(u64),
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a day, such as \"2027-01-31\"")]
enum Until {
    Text(String),
    Date(toml::value::Datetime),
}

/// Reads the text of `file`, whose name is for what is said of it.
///
/// Errors: say where, what, and what is allowed.
pub fn parse(text: &str, file: &str) -> Result<Suppressions, FileError> {
    let reader = Reader { text, file };
    let document: Document = toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        // The parser's own words; of a key that it does not know it names those that it does.
        let what = terminal(error.message().trim()).into_owned();
        reader.error(at, format!("{what}; {ALLOWED}"))
    })?;
    let entries = document.suppress.into_iter().map(|entry| reader.entry(entry));
    Ok(Suppressions { all: entries.collect::<Result<_, _>>()? })
}

struct Reader<'a> {
    text: &'a str,
    file: &'a str,
}

impl Reader<'_> {
    fn entry(&self, entry: Spanned<Entry>) -> Result<Suppression, FileError> {
        let start = entry.span().start;
        let entry = entry.into_inner();
        let reason = match entry.reason {
            None => return Err(self.error(start, format!("it has no `reason`; {ALLOWED}"))),
            Some(reason) if reason.get_ref().trim().is_empty() => {
                let what = "`reason` is empty: say why this is not to fail a build".to_owned();
                return Err(self.error(reason.span().start, what));
            }
            Some(reason) => reason.into_inner().trim().to_owned(),
        };
        let stack = match entry.stack {
            None => Vec::new(),
            Some(stack) => {
                let at = stack.span().start;
                let globs = match stack.into_inner() {
                    Stack::One(glob) => vec![glob],
                    Stack::Many(globs) => globs,
                };
                if globs.is_empty() {
                    let what = "`stack` is an empty list: name a function, or leave it out";
                    return Err(self.error(at, what.to_owned()));
                }
                globs.iter().map(|glob| self.glob("stack", glob, at)).collect::<Result<_, _>>()?
            }
        };
        let glob = |key, text: Option<Spanned<String>>| {
            text.map(|text| self.glob(key, text.get_ref(), text.span().start)).transpose()
        };
        let suppression = Suppression {
            file: self.file.to_owned(),
            line: self.line(start),
            reason,
            stack,
            comm: glob("comm", entry.comm)?,
            unit: glob("unit", entry.unit)?,
            cgroup: glob("cgroup", entry.cgroup)?,
            pod: glob("pod", entry.pod)?,
            cache: glob("cache", entry.cache)?,
            max: entry.max.map(|max| self.max(max)).transpose()?,
            until: entry.until.map(|until| self.until(until)).transpose()?,
        };
        let names = [
            &suppression.comm,
            &suppression.unit,
            &suppression.cgroup,
            &suppression.pod,
            &suppression.cache,
        ];
        if suppression.stack.is_empty() && names.iter().all(|name| name.is_none()) {
            let what = format!("it says not what to suppress; {ALLOWED}");
            return Err(self.error(start, what));
        }
        Ok(suppression)
    }

    fn glob(&self, key: &str, text: &str, at: usize) -> Result<GlobMatcher, FileError> {
        let shown = terminal(text);
        if text.is_empty() {
            let what = format!("`{key}` is empty; use * for anything");
            return Err(self.error(at, what));
        }
        let glob = Glob::new(text).map_err(|error| {
            let what = format!(
                "`{key}` is no pattern: {shown}: {}; * and ? and [a-z] and {{a,b}} are known",
                error.kind()
            );
            self.error(at, what)
        })?;
        Ok(glob.compile_matcher())
    }

    fn max(&self, max: Spanned<Max>) -> Result<u64, FileError> {
        let at = max.span().start;
        let (bytes, shown) = match max.into_inner() {
            Max::Bytes(bytes) => (Some(bytes), bytes.to_string()),
            Max::Text(text) => (condition::size(&text).and_then(whole), text),
        };
        bytes.filter(|bytes| *bytes > 0).ok_or_else(|| {
            let shown = terminal(&shown);
            let what = format!("`max` is no amount of memory: {shown}; write it as in \"64KiB\"");
            self.error(at, what)
        })
    }

    fn until(&self, until: Spanned<Until>) -> Result<Day, FileError> {
        let at = until.span().start;
        let text = match until.into_inner() {
            Until::Text(text) => text,
            Until::Date(date) => date.to_string(),
        };
        Day::parse(&text).ok_or_else(|| {
            let shown = terminal(&text);
            let what = format!("`until` is no day: {shown}; write it as in \"2027-01-31\"");
            self.error(at, what)
        })
    }

    fn error(&self, at: usize, what: String) -> FileError {
        FileError { file: self.file.to_owned(), line: self.line(at), what }
    }

    /// Lines are counted from 1.
    fn line(&self, at: usize) -> u64 {
        let before = self.text.as_bytes().iter().take(at);
        before.filter(|byte| **byte == b'\n').count() as u64 + 1
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a cast from float keeps within the bounds of u64, and a size is not negative"
)]
fn whole(bytes: f64) -> Option<u64> {
    (bytes >= 1.0).then_some(bytes as u64)
}

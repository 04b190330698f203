//! The kernel's log: `/dev/kmsg` where it may be read, else what a system logger wrote of it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use super::{Host, HostError};

/// Most bytes taken of a log; of a longer file, the last ones.
const MOST_BYTES: u64 = 4 << 20;
/// Longer than any record (`PRINTK_MESSAGE_MAX` in `kernel/printk/internal.h` is 2 KiB; its
/// dictionary comes on top).
const RECORD_BYTES: usize = 16 << 10;
/// Where loggers write what the kernel says, the richest first.
const FILES: [&str; 5] =
    ["var/log/kern.log", "var/log/messages", "var/log/syslog", "var/log/dmesg", "dmesg"];

/// A line of the kernel's.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Line {
    /// Seconds after boot; `None` where the logger wrote a date instead.
    pub at_s: Option<f64>,
    /// What it says.
    pub text: String,
}

/// What was read of the log.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Log {
    /// From where: a path of that machine.
    pub source: String,
    /// Oldest first.
    pub lines: Vec<Line>,
}

/// Reads the kernel's log: `/dev/kmsg`, else the first file of a logger's that can be read.
///
/// # Errors
///
/// When none can; the error is `/dev/kmsg`'s, unless it is not there and another was refused.
pub fn read(host: &Host) -> Result<Log, HostError> {
    let device = host.join("dev/kmsg");
    let mut failed = match records(&device) {
        Ok(text) => return Ok(Log { source: "/dev/kmsg".to_owned(), lines: parse(&text) }),
        Err(cause) => HostError::Read { path: device, cause },
    };
    for file in FILES {
        let path = host.join(file);
        match tail(&path) {
            Ok(text) => return Ok(Log { source: format!("/{file}"), lines: parse(&text) }),
            Err(cause) => {
                let error = HostError::Read { path, cause };
                if failed.is_missing() && !error.is_missing() {
                    failed = error;
                }
            }
        }
    }
    Err(failed)
}

/// All records of the device, or the text of the file that stands in for it in a saved tree.
fn records(path: &Path) -> io::Result<String> {
    // So that the end of the log is not waited at, and a pipe's writer not either.
    let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if file.metadata()?.is_file() {
        return text_of_tail(file);
    }
    let mut text = Vec::new();
    let mut record = vec![0; RECORD_BYTES];
    while text.len() < usize::try_from(MOST_BYTES).unwrap_or(usize::MAX) {
        match file.read(&mut record) {
            Ok(0) => break,
            Ok(length) => {
                text.extend_from_slice(record.get(..length).unwrap_or_default());
                if text.last() != Some(&b'\n') {
                    text.push(b'\n');
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            // Records were overwritten before they were read: the next read goes on after them.
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn tail(path: &Path) -> io::Result<String> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    text_of_tail(file)
}

fn text_of_tail(mut file: File) -> io::Result<String> {
    let length = file.metadata()?.len();
    let cut = length > MOST_BYTES;
    if cut {
        file.seek(SeekFrom::Start(length - MOST_BYTES))?;
    }
    let mut bytes = Vec::new();
    file.take(MOST_BYTES).read_to_end(&mut bytes)?;
    let mut text = String::from_utf8_lossy(&bytes).into_owned();
    if cut {
        // Half a line.
        text.drain(..text.find('\n').map_or(text.len(), |end| end + 1));
    }
    Ok(text)
}

/// Parses a log in any of its forms, line by line: records of `/dev/kmsg`
/// (`4,1234,98765432,-;text`, with ` KEY=value` lines after it; `Documentation/ABI/testing/dev-kmsg`),
/// `dmesg`'s (`[   98.765432] text`) and a logger's (`Nov  3 10:00:01 node kernel: text`). Lines of a
/// logger's that are not the kernel's are left out.
pub fn parse(text: &str) -> Vec<Line> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Line> {
    // Not `trim`: a leading blank marks the dictionary of a record.
    if line.is_empty() || line.starts_with(' ') {
        return None;
    }
    if let Some((head, text)) = line.split_once(';')
        && let Some(at_s) = record_time(head)
    {
        return Some(Line { at_s: Some(at_s), text: text.to_owned() });
    }
    if let Some(stamped) = stamped(line) {
        return Some(stamped);
    }
    if let Some((_, text)) = line.split_once(" kernel: ") {
        return Some(stamped(text).unwrap_or_else(|| Line { at_s: None, text: text.to_owned() }));
    }
    None
}

/// Seconds in the head of a record, `priority,sequence,microseconds,flags[,…]`.
fn record_time(head: &str) -> Option<f64> {
    let mut fields = head.split(',');
    fields.next()?.parse::<u32>().ok()?;
    fields.next()?.parse::<u64>().ok()?;
    let micros = fields.next()?.parse::<u64>().ok()?;
    fields.next()?;
    Some(micros as f64 / 1e6)
}

/// `[   98.765432] text`, also with dmesg's `<4>` before it.
fn stamped(line: &str) -> Option<Line> {
    let line = match line.strip_prefix('<').and_then(|rest| rest.split_once('>')) {
        Some((level, rest)) if level.bytes().all(|byte| byte.is_ascii_digit()) => rest,
        _ => line,
    };
    let (time, text) = line.strip_prefix('[')?.split_once(']')?;
    let at_s = time.trim().parse::<f64>().ok().filter(|at| at.is_finite());
    // `dmesg -T` writes a date.
    let is_date = at_s.is_none() && time.contains(':') && time.contains(' ');
    (at_s.is_some() || is_date)
        .then(|| Line { at_s, text: text.strip_prefix(' ').unwrap_or(text).to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OOM: &str = "Memory cgroup out of memory: Kill process 7 (a)";

    #[test]
    fn every_form_gives_the_same_text() {
        let forms = [
            format!("3,812,98765432,-;{OOM}\n SUBSYSTEM=memory\n DEVICE=+a\n"),
            format!("6,812,98765432,-,caller=T1;{OOM}\n"),
            format!("[   98.765432] {OOM}\n"),
            format!("<3>[   98.765432] {OOM}\n"),
            format!("Nov  3 10:00:01 node kernel: [   98.765432] {OOM}\n"),
        ];
        for form in forms {
            let expected = Line { at_s: Some(98.765_432), text: OOM.to_owned() };
            assert_eq!(parse(&form), [expected], "{form}");
        }
        for form in [
            format!("Nov  3 10:00:01 node kernel: {OOM}\n"),
            format!("2024-11-03T10:00:01.123456+00:00 node kernel: {OOM}\n"),
            format!("[Sun Nov  3 10:00:01 2024] {OOM}\n"),
        ] {
            assert_eq!(parse(&form), [Line { at_s: None, text: OOM.to_owned() }], "{form}");
        }
    }

    #[test]
    fn what_others_log_is_left_out() {
        let text = "Nov  3 10:00:01 node kubelet[7]: Out of memory: Killed process\n\nhello\n";
        assert_eq!(parse(text), []);
        // A record may hold a semicolon, and a process may log what looks like one.
        assert_eq!(parse("6,1,2,-;a;b")[0].text, "a;b");
        assert_eq!(parse("a,b;c"), []);
    }

    #[test]
    fn a_tree_may_have_any_of_the_files() {
        let tree = tempfile::tempdir().unwrap();
        let host = Host::new(tree.path());
        assert!(read(&host).unwrap_err().is_missing());
        std::fs::create_dir_all(host.join("var/log")).unwrap();
        std::fs::write(host.join("var/log/messages"), format!("x node kernel: {OOM}\n")).unwrap();
        let log = read(&host).unwrap();
        assert_eq!((log.source.as_str(), log.lines.len()), ("/var/log/messages", 1));
        std::fs::create_dir_all(host.join("dev")).unwrap();
        std::fs::write(host.join("dev/kmsg"), "6,1,2,-;hello\n").unwrap();
        assert_eq!(read(&host).unwrap().source, "/dev/kmsg");
    }

    #[test]
    fn of_a_long_file_the_end_is_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let line = "[    1.000000] 0123456789\n";
        let lines = usize::try_from(MOST_BYTES).unwrap() / line.len() + 1000;
        std::fs::write(file.path(), line.repeat(lines) + "[    2.000000] last\n").unwrap();
        let parsed = parse(&tail(file.path()).unwrap());
        assert_eq!(parsed.last().unwrap().text, "last");
        assert!(parsed.len() < lines && parsed.iter().rev().skip(1).all(|l| l.text.len() == 10));
    }

    proptest! {
        #[test]
        fn never_panics(text in "(?s).{0,300}") {
            parse(&text);
        }

        #[test]
        fn never_panics_on_what_looks_like_it(text in "[0-9,;.<>\\[\\] a:\n-]{0,80}") {
            parse(&text);
        }
    }
}

//! What a file is that is no recording.

use std::io::{self, BufRead, Read as _};

/// So much of a file tells.
const ENOUGH: u64 = 4096;

/// A few words on what begins so.
///
/// Errors: it cannot be read.
pub(super) fn describe(file: &mut impl BufRead) -> io::Result<String> {
    let mut start = Vec::new();
    file.take(ENOUGH).read_to_end(&mut start)?;
    Ok(of(&start).to_owned())
}

fn of(start: &[u8]) -> &'static str {
    let text = String::from_utf8_lossy(start);
    let words = text.trim_start_matches('\u{feff}').trim_start();
    let has = |word: &str| text.contains(word);
    match start {
        [] => "it is empty",
        [_, 0x2a, 0x4d, 0x18, ..] if has("kleak.recording/") => {
            "it is the beginning of one, and not even that is whole"
        }
        [0x1f, 0x8b, ..] => "it is compressed by gzip; unpack it first, if one is in it",
        [0xfd, b'7', b'z', b'X', b'Z', ..] => {
            "it is compressed by xz; unpack it first, if one is in it"
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            "it is compressed by zstd, but not by kleak; if it is a recording that was compressed again, \
             unpack it once"
        }
        [0x7f, b'E', b'L', b'F', ..] => "it is a program",
        [b'P', b'K', 3, 4, ..] => "it is a zip archive; unpack it first, if one is in it",
        _ if words.starts_with("{\"schema\":\"kleak.recording/") => {
            "it is what is in one, unpacked; give the file itself"
        }
        _ if words.starts_with('{') && has("kleak.report/") => {
            "it is a report in JSON, which cannot be grouped anew; recordings are written by \
             kleak trace --save FILE"
        }
        _ if words.starts_with('{') || words.starts_with('[') => "it is JSON",
        _ if words.starts_with('<') && has("<svg") => "it is a picture (SVG)",
        _ if words.starts_with('<') => "it is a page (HTML or XML)",
        _ if start.starts_with(&[0; 16]) => {
            "it begins with zeros, as a file does that was never written out"
        }
        _ if !text.contains('\u{fffd}') && !text.contains('\0') => {
            "it is text; recordings are written by kleak trace --save FILE"
        }
        _ => "recordings are written by kleak trace --save FILE",
    }
}

#[cfg(test)]
mod tests {
    use super::of;

    #[test]
    fn files_are_recognised() {
        for (start, word) in [
            (b"".as_slice(), "empty"),
            (b"\x50\x2a\x4d\x18\x40\0\0\0kleak.recording/1 of", "beginning"),
            (&[0x1f, 0x8b, 8], "gzip"),
            (&[0x28, 0xb5, 0x2f, 0xfd, 1], "zstd"),
            (b"{\"schema\":\"kleak.report/1\"}", "a report in JSON"),
            (b"{\n  \"schema\": \"kleak.report/1\"", "a report in JSON"),
            (b"{\"schema\":\"kleak.recording/1\"", "unpacked"),
            (b"[1]", "JSON"),
            (b"<?xml?><svg", "SVG"),
            (b"<!DOCTYPE html>", "HTML"),
            (b"kubelet grows", "text"),
            (b"\xff\xfe\x01", "kleak trace --save"),
            (&[0; 64], "zeros"),
        ] {
            assert!(of(start).contains(word), "{start:?}: {}", of(start));
        }
    }
}

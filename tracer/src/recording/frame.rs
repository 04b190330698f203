//! Zstandard frames (RFC 8878): the one that says what the file is, and those of data.

use std::io::{self, BufRead, Read, Seek, SeekFrom, Write};

use zstd::stream::{read::Decoder, write::Encoder};

use super::format::{Body, Head};

/// How a frame of data begins, as bytes (RFC 8878, 3.1.1).
pub(super) const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// How a skippable frame begins but for the lowest four bits, which are free (3.1.2).
const SKIPPABLE: [u8; 4] = [0x50, 0x2a, 0x4d, 0x18];
/// What the text of the first frame begins with, the version after it.
pub(super) const TITLE: &str = "kleak.recording/";
/// Longest text of a first frame that is taken for one.
pub(super) const LONGEST_TITLE: u32 = 4096;
/// Longest first line of a frame.
const LONGEST_HEAD: usize = 4096;
/// Most that a frame may hold when unpacked. One of 100,000 groups holds some 20 MB.
const MOST_UNPACKED: u64 = 256 << 20;
/// zstd's own default. At 10 it takes five times as long, on a node that is short of time, and saves a
/// seventh.
const LEVEL: i32 = 3;

/// The first frame of a file.
pub(super) fn title(version: &str) -> Vec<u8> {
    let text = format!("{TITLE}1 of kleak {version}. Print it with: kleak report FILE\n");
    let length = u32::try_from(text.len()).unwrap_or(0);
    let mut frame = SKIPPABLE.to_vec();
    frame.extend(length.to_le_bytes());
    frame.extend(text.as_bytes());
    frame
}

/// Whether a skippable frame begins so.
pub(super) fn is_skippable(magic: [u8; 4]) -> bool {
    [magic[0] & 0xf0, magic[1], magic[2], magic[3]] == SKIPPABLE
}

/// A frame of data.
///
/// Errors: it is more than would be read again.
pub(super) fn pack(head: &Head, body: &Body) -> io::Result<Vec<u8>> {
    pack_within(MOST_UNPACKED, head, body)
}

fn pack_within(most: u64, head: &Head, body: &Body) -> io::Result<Vec<u8>> {
    let mut encoder = Encoder::new(Vec::new(), LEVEL)?;
    encoder.include_checksum(true)?;
    // The serialiser writes a few bytes at a time.
    let limited = Limited { to: encoder, left: most };
    let mut lines = io::BufWriter::with_capacity(64 << 10, limited);
    serde_json::to_writer(&mut lines, head)?;
    lines.write_all(b"\n")?;
    // A block of its own: most frames fit one, and of one that is cut nothing can be unpacked.
    lines.flush()?;
    serde_json::to_writer(&mut lines, body)?;
    lines.write_all(b"\n")?;
    lines.into_inner().map_err(io::IntoInnerError::into_error)?.to.finish()
}

/// What takes only so many bytes.
struct Limited<W> {
    to: W,
    left: u64,
}

impl<W: Write> Write for Limited<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() as u64 > self.left {
            return Err(io::Error::other("it would be larger than a recording may be"));
        }
        let written = self.to.write(bytes)?;
        self.left = self.left.saturating_sub(written as u64);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// The first line of the frame that `packed` is at, as yet unchecked.
pub(super) fn peek(packed: impl BufRead) -> io::Result<Head> {
    let mut decoder = Decoder::with_buffer(packed)?.single_frame();
    let mut line = Vec::new();
    let mut piece = [0; 512];
    while !line.contains(&b'\n') {
        let length = decoder.read(&mut piece)?;
        line.extend(piece.get(..length).unwrap_or_default());
        if length == 0 || line.len() > LONGEST_HEAD {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
    serde_json::from_slice(line).map_err(Into::into)
}

/// What unpacking a frame came to.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    /// It is not what was written.
    #[error("it is damaged ({0})")]
    Damaged(io::Error),
    #[error("it is larger than any recording ({} MiB unpacked)", MOST_UNPACKED >> 20)]
    TooLarge,
    #[error("it is not what kleak writes ({0})")]
    Foreign(serde_json::Error),
    #[error("it does not fit together: {0}")]
    Misfit(super::decode::Misfit),
}

/// The frame that `packed` is at, its checksum compared.
pub(super) fn unpack(packed: impl BufRead) -> Result<(Head, Body), Unreadable> {
    let decoder = Decoder::with_buffer(packed).map_err(Unreadable::Damaged)?.single_frame();
    let mut text = Vec::new();
    let mut within = decoder.take(MOST_UNPACKED + 1);
    within.read_to_end(&mut text).map_err(Unreadable::Damaged)?;
    if text.len() as u64 > MOST_UNPACKED {
        return Err(Unreadable::TooLarge);
    }
    let end = text.iter().position(|byte| *byte == b'\n').unwrap_or(text.len());
    let (first, rest) = text.split_at(end);
    let head = serde_json::from_slice(first).map_err(Unreadable::Foreign)?;
    let body = serde_json::from_slice(rest).map_err(Unreadable::Foreign)?;
    Ok((head, body))
}

/// Whether the frame that `packed` is at is what was written.
pub(super) fn is_whole(packed: impl BufRead) -> bool {
    let Ok(decoder) = Decoder::with_buffer(packed) else { return false };
    let mut within = decoder.single_frame().take(MOST_UNPACKED + 1);
    io::copy(&mut within, &mut io::sink()).is_ok_and(|length| length <= MOST_UNPACKED)
}

/// Where a frame ends, by its own account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Before this place in the file.
    At(u64),
    /// The file ends before it.
    Missing,
    /// It is no frame as kleak writes them.
    Nowhere,
}

/// Where the frame that begins at `offset` ends (3.1.1.1, 3.1.1.2); each of its blocks, of at most 128 KiB of
/// data, takes one off `steps`.
///
/// Errors: the file cannot be read.
pub(super) fn end(file: &mut (impl Read + Seek), offset: u64, steps: &mut u64) -> io::Result<End> {
    file.seek(SeekFrom::Start(offset))?;
    let Some([a, b, c, d, descriptor]) = take(file)? else { return Ok(End::Missing) };
    let (reserved, checksum) = (descriptor & 0x08 != 0, descriptor & 0x04 != 0);
    // Without a checksum nobody could tell whether it is whole.
    if [a, b, c, d] != MAGIC || reserved || !checksum {
        return Ok(End::Nowhere);
    }
    let single_segment = descriptor & 0x20 != 0;
    let window = u64::from(!single_segment);
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let size = [u64::from(single_segment), 2, 4, 8][usize::from(descriptor >> 6)];
    let mut at = offset + 5 + window + dictionary + size;
    loop {
        let Some(left) = steps.checked_sub(1) else { return Ok(End::Nowhere) };
        *steps = left;
        file.seek(SeekFrom::Start(at))?;
        let Some([low, middle, high]) = take(file)? else { return Ok(End::Missing) };
        let header = u32::from_le_bytes([low, middle, high, 0]);
        let size = u64::from(header >> 3);
        let content = match header >> 1 & 3 {
            0 | 2 if size <= 128 << 10 => size,
            // One byte that is repeated.
            1 if size <= 128 << 10 => 1,
            _ => return Ok(End::Nowhere),
        };
        at += 3 + content;
        if header & 1 == 1 {
            break;
        }
    }
    file.seek(SeekFrom::Start(at))?;
    Ok(match take::<4>(file)? {
        Some(_) => End::At(at + 4),
        None => End::Missing,
    })
}

/// The next bytes; `None` when the file ends before.
pub(super) fn take<const LENGTH: usize>(file: &mut impl Read) -> io::Result<Option<[u8; LENGTH]>> {
    let mut bytes = [0; LENGTH];
    match file.read_exact(&mut bytes) {
        Ok(()) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::{
        Kind,
        testing::{body, head, incident},
    };

    #[test]
    fn no_more_is_written_than_is_read() {
        let evidence = incident(5);
        let (head, body) = (head(1, Kind::Final, &evidence), body(&evidence));
        let packed = pack(&head, &body).unwrap();
        let mut text = Vec::new();
        Decoder::with_buffer(packed.as_slice()).unwrap().read_to_end(&mut text).unwrap();
        let length = text.len() as u64;
        assert_eq!(pack_within(length, &head, &body).unwrap(), packed);
        let error = pack_within(length - 1, &head, &body).unwrap_err();
        assert!(error.to_string().contains("larger than a recording may be"), "{error}");
    }

    #[test]
    fn a_frame_that_is_cut_says_what_it_was() {
        let evidence = incident(5);
        let packed = pack(&head(1, Kind::Final, &evidence), &body(&evidence)).unwrap();
        for length in [packed.len() / 2, packed.len() - 1] {
            assert_eq!(peek(&packed[..length]).unwrap().kind, Kind::Final);
        }
    }
}

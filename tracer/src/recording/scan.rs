//! Where the frames of a file are, found again after what is damaged.

use std::io::{self, BufRead, Read, Seek, SeekFrom};

use super::{
    Damage,
    frame::{self, End},
    reader::Place,
};

/// Blocks of frames that are looked at where the file is damaged, beginning anew at each place that looks like
/// a frame's beginning: each is of at most 128 KiB, so this is 128 GiB. Sound frames cost none.
const MOST_STEPS: u64 = 1 << 20;
/// Places of damage after which nothing more is looked for.
const MOST_DAMAGE: usize = 256;

/// What is in a file.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Version by the first frame; `None` when it is not ours.
    pub(super) version: Option<u64>,
    pub(super) frames: Vec<Place>,
    pub(super) damage: Vec<Damage>,
}

/// Finds the frames.
///
/// Errors: the file cannot be read.
pub(super) fn frames(file: &mut (impl BufRead + Seek)) -> io::Result<Found> {
    let mut found = Found::default();
    let mut steps = MOST_STEPS;
    let length = file.seek(SeekFrom::End(0))?;
    let mut at = 0;
    while at < length && found.damage.len() < MOST_DAMAGE {
        let before = steps;
        match thing(file, at, length, &mut steps)? {
            Thing::Title { version, end } => {
                if at == 0 {
                    found.version = version;
                }
                at = end;
            }
            Thing::Frame { place, sound } => {
                at = place.offset + place.bytes;
                if sound {
                    steps = before;
                }
                found.frames.push(place);
            }
            Thing::Nothing { was, cut } => {
                let next = next_thing(file, at + 1, length, &mut steps)?;
                // The file's beginning is told of as such.
                if at > 0 || was.is_some() {
                    let frame = next_number(&found);
                    let cut = cut && next == length;
                    found.damage.push(Damage::Lost { frame, bytes: next - at, cut, was });
                }
                at = next;
            }
        }
    }
    if at < length {
        let frame = next_number(&found);
        found.damage.push(Damage::Lost { frame, bytes: length - at, cut: false, was: None });
    }
    Ok(found)
}

/// Number of the frame after those that were found, whole and damaged.
fn next_number(found: &Found) -> u64 {
    let last = found.frames.last().map_or(0, |last| last.head.sequence);
    let since = |damage: &&Damage| matches!(damage, Damage::Lost { frame, .. } if *frame > last);
    let damaged = found.damage.iter().rev().take_while(since).count() as u64;
    last.saturating_add(damaged).saturating_add(1)
}

/// What is at a place of the file.
enum Thing {
    Title {
        version: Option<u64>,
        end: u64,
    },
    /// When it is sound, it is where one is to be expected.
    Frame {
        place: Place,
        sound: bool,
    },
    Nothing {
        was: Option<(super::Kind, f64)>,
        cut: bool,
    },
}

fn thing(
    file: &mut (impl BufRead + Seek),
    at: u64,
    length: u64,
    steps: &mut u64,
) -> io::Result<Thing> {
    file.seek(SeekFrom::Start(at))?;
    let Some(magic) = frame::take::<4>(file)? else {
        return Ok(Thing::Nothing { was: None, cut: true });
    };
    if frame::is_skippable(magic) {
        return title(file, at, length);
    }
    if magic != frame::MAGIC {
        return Ok(Thing::Nothing { was: None, cut: false });
    }
    file.seek(SeekFrom::Start(at))?;
    let Ok(head) = frame::peek(&mut *file) else {
        return Ok(Thing::Nothing { was: None, cut: frame::end(file, at, steps)? == End::Missing });
    };
    let was = Some((head.kind, head.window_s));
    match frame::end(file, at, steps)? {
        End::At(end) => {
            let sound = follows(file, end, length)?;
            let there = sound || whole(file, at, end)?;
            let place = Place { offset: at, bytes: end - at, head };
            Ok(if there {
                Thing::Frame { place, sound }
            } else {
                Thing::Nothing { was, cut: false }
            })
        }
        End::Nowhere => Ok(Thing::Nothing { was, cut: false }),
        End::Missing => Ok(Thing::Nothing { was, cut: true }),
    }
}

/// Whether a frame may end here: the file does too, or another begins.
fn follows(file: &mut (impl Read + Seek), end: u64, length: u64) -> io::Result<bool> {
    file.seek(SeekFrom::Start(end))?;
    let next = frame::take::<4>(file)?;
    let begins = next.is_some_and(|magic| magic == frame::MAGIC || frame::is_skippable(magic));
    Ok(end == length || begins)
}

/// Whether a frame is sound, whatever comes after it.
fn whole(file: &mut (impl BufRead + Seek), at: u64, end: u64) -> io::Result<bool> {
    file.seek(SeekFrom::Start(at))?;
    Ok(frame::is_whole(file.take(end - at)))
}

fn title(file: &mut (impl BufRead + Seek), at: u64, length: u64) -> io::Result<Thing> {
    let nothing = Thing::Nothing { was: None, cut: false };
    let Some(size) = frame::take::<4>(file)?.map(u32::from_le_bytes) else { return Ok(nothing) };
    let end = at + 8 + u64::from(size);
    if size > frame::LONGEST_TITLE || end > length || !follows(file, end, length)? {
        return Ok(nothing);
    }
    file.seek(SeekFrom::Start(at + 8))?;
    let mut text = Vec::new();
    file.take(size.into()).read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    let version = text.strip_prefix(frame::TITLE).and_then(|rest| rest.split(' ').next());
    Ok(Thing::Title { version: version.and_then(|version| version.parse().ok()), end })
}

/// Where something begins next; the end of the file if nothing does.
fn next_thing(
    file: &mut (impl BufRead + Seek),
    from: u64,
    length: u64,
    steps: &mut u64,
) -> io::Result<u64> {
    let mut at = from;
    while *steps > 0 {
        file.seek(SeekFrom::Start(at))?;
        let Some(next) = next_magic(file, at)? else { break };
        let found = thing(file, next, length, steps)?;
        *steps = steps.saturating_sub(1);
        if !matches!(found, Thing::Nothing { was: None, .. }) {
            return Ok(next);
        }
        at = next + 1;
    }
    Ok(length)
}

/// The next place at which the bytes are those of a frame's beginning.
fn next_magic(file: &mut impl BufRead, from: u64) -> io::Result<Option<u64>> {
    let mut at = from;
    let mut last = [0_u8; 4];
    let mut seen = 0_u64;
    loop {
        let buffer = file.fill_buf()?;
        if buffer.is_empty() {
            return Ok(None);
        }
        let length = buffer.len();
        for byte in buffer {
            last = [last[1], last[2], last[3], *byte];
            seen += 1;
            at += 1;
            if seen >= 4 && (last == frame::MAGIC || frame::is_skippable(last)) {
                return Ok(Some(at - 4));
            }
        }
        file.consume(length);
    }
}

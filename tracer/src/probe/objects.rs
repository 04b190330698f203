//! Reading the outstanding objects while the programs are at work on them.

use aya::Ebpf;
use kleak_common::{BEING_WRITTEN, Bucket, Object, SLOTS};

use super::{Error, read, sys};

/// Buckets mapped at a time: with their objects 36 MiB, for what is mapped counts as memory of this
/// process. Whole pages of any size.
const AT_A_TIME: usize = 1 << 17;
/// A table that takes no more than this stays mapped: mapping takes several times as long as reading one
/// that holds little. It has room for a million objects.
const KEPT_BYTES: usize = 72 << 20;
/// How often an object is read that changes meanwhile.
const TRIES: usize = 8;

/// The outstanding objects, wherever the kernel side keeps them.
pub(super) enum Objects {
    /// In a hash of the kernel's.
    Hash,
    /// In our table, mapped.
    Mapped(Vec<Piece>),
    /// In our table, of so many buckets, which is too large for that.
    InPieces(usize),
}

/// Some buckets, and their objects.
pub(super) struct Piece {
    keys: sys::Shared<Bucket>,
    records: sys::Shared<Object>,
    buckets: usize,
}

impl Objects {
    /// Errors: the maps are not as they have to be.
    pub(super) fn open(ebpf: &Ebpf) -> Result<Self, Error> {
        let Some(map) = ebpf.map("BUCKETS") else { return Ok(Self::Hash) };
        let buckets = read::entries(map).ok_or_else(|| read::missing("BUCKETS"))?;
        if buckets * (size_of::<Bucket>() + SLOTS * size_of::<Object>()) > KEPT_BYTES {
            return Ok(Self::InPieces(buckets));
        }
        pieces(buckets)
            .map(|(first, count)| Piece::map(ebpf, first, count))
            .collect::<Result<_, _>>()
            .map(Self::Mapped)
    }

    /// Calls `see` with the address and the record of each object. One that is there throughout is seen
    /// once; one that is entered or removed meanwhile, or changes, may be missed.
    ///
    /// Errors: the map cannot be read.
    pub(super) fn each(&self, ebpf: &Ebpf, mut see: impl FnMut(u64, &Object)) -> Result<(), Error> {
        match self {
            Self::Hash => {
                let objects = read::fd_of(ebpf, "OBJECTS")?;
                sys::walk(objects, 8, size_of::<Object>(), |key, value| {
                    if let (Some(address), Some(object)) = (sys::record(key), sys::record(value)) {
                        see(address, &object);
                    }
                })
                .map_err(|error| read::map_error("OBJECTS", &error))
            }
            Self::Mapped(pieces) => {
                for piece in pieces {
                    piece.each(&mut see);
                }
                Ok(())
            }
            Self::InPieces(buckets) => {
                for (first, count) in pieces(*buckets) {
                    Piece::map(ebpf, first, count)?.each(&mut see);
                }
                Ok(())
            }
        }
    }
}

/// The first of some buckets, and how many they are, until there are no more.
fn pieces(buckets: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..buckets).step_by(AT_A_TIME).map(move |first| (first, AT_A_TIME.min(buckets - first)))
}

impl Piece {
    fn map(ebpf: &Ebpf, first: usize, buckets: usize) -> Result<Self, Error> {
        let keys = sys::Shared::map(read::fd_of(ebpf, "BUCKETS")?, first, buckets)
            .map_err(|error| read::map_error("BUCKETS", &error))?;
        let records =
            sys::Shared::map(read::fd_of(ebpf, "OBJECTS")?, first * SLOTS, buckets * SLOTS)
                .map_err(|error| read::map_error("OBJECTS", &error))?;
        Ok(Self { keys, records, buckets })
    }

    fn each(&self, see: &mut impl FnMut(u64, &Object)) {
        for bucket in 0..self.buckets {
            let Some(keys) = self.keys.read(bucket) else { break };
            for (slot, &key) in keys.keys.iter().enumerate() {
                if key == 0 {
                    continue;
                }
                let now = || self.keys.read(bucket).map_or(0, |bucket| bucket.keys[slot]);
                let record = || self.records.read(bucket * SLOTS + slot);
                if let Some(object) = settled(key, now, record) {
                    see(key, &object);
                }
            }
        }
    }
}

/// The object of a key that stays while it is read, twice alike.
fn settled(
    key: u64,
    mut key_now: impl FnMut() -> u64,
    mut read: impl FnMut() -> Option<Object>,
) -> Option<Object> {
    if key & BEING_WRITTEN != 0 {
        return None;
    }
    let mut last = read()?;
    for _ in 0..TRIES {
        let again = read()?;
        if key_now() != key {
            return None;
        }
        if again == last {
            return Some(again);
        }
        last = again;
    }
    None
}

#[cfg(test)]
mod tests {
    use kleak_common::{BEING_WRITTEN, Object};

    use super::settled;

    #[test]
    fn an_object_that_changes_is_read_again() {
        let object = |site| Object { site, ..Object::default() };
        let mut reads = [object(1), object(2), object(2)].into_iter();
        assert_eq!(settled(16, || 16, || reads.next()), Some(object(2)));
        let mut site = 0;
        let mut torn = || {
            site += 1;
            Some(object(site))
        };
        assert_eq!(settled(16, || 16, &mut torn), None);
    }

    #[test]
    fn one_that_goes_or_comes_meanwhile_is_left_out() {
        let read = || Some(Object::default());
        assert_eq!(settled(16, || 0, read), None);
        assert_eq!(settled(16 | BEING_WRITTEN, || 16, read), None);
        assert_eq!(settled(16, || 16, read), Some(Object::default()));
    }
}

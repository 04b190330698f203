//! Reading the outstanding objects while the programs are at work on them.

use aya::Ebpf;
use kleak_common::{BEING_WRITTEN, Bucket, Object, SLOTS};

use super::{Error, read, sys};

/// Buckets looked at at a time: their keys and objects, 36 MiB, are mapped only so long, for what is mapped
/// counts as memory of this process. Whole pages of any size.
const AT_A_TIME: usize = 1 << 17;
/// How often an object is read that changes meanwhile.
const TRIES: usize = 8;

/// Calls `see` with the address and the record of each object. One that is there throughout is seen once;
/// one that is entered or removed meanwhile, or changes, may be missed.
///
/// Errors: the map cannot be read.
pub(super) fn each(ebpf: &Ebpf, mut see: impl FnMut(u64, &Object)) -> Result<(), Error> {
    let objects = read::fd_of(ebpf, "OBJECTS")?;
    let Some(map) = ebpf.map("BUCKETS") else {
        return sys::walk(objects, 8, size_of::<Object>(), |key, value| {
            if let (Some(address), Some(object)) = (sys::record(key), sys::record(value)) {
                see(address, &object);
            }
        })
        .map_err(|error| read::map_error("OBJECTS", &error));
    };
    let buckets = read::fd(map).ok_or_else(|| read::missing("BUCKETS"))?;
    let count = read::entries(map).ok_or_else(|| read::missing("BUCKETS"))?;
    for first in (0..count).step_by(AT_A_TIME) {
        let here = AT_A_TIME.min(count - first);
        let keys = sys::Shared::<Bucket>::map(buckets, first, here)
            .map_err(|error| read::map_error("BUCKETS", &error))?;
        let records = sys::Shared::<Object>::map(objects, first * SLOTS, here * SLOTS)
            .map_err(|error| read::map_error("OBJECTS", &error))?;
        for bucket in 0..here {
            let Some(bucket_keys) = keys.read(bucket) else { break };
            for (slot, &key) in bucket_keys.keys.iter().enumerate() {
                if key == 0 {
                    continue;
                }
                let now = || keys.read(bucket).map_or(0, |bucket| bucket.keys[slot]);
                if let Some(object) = settled(key, now, || records.read(bucket * SLOTS + slot)) {
                    see(key, &object);
                }
            }
        }
    }
    Ok(())
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

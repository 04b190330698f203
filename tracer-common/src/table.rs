//! The table of outstanding objects of kernels that have what it takes (5.17 and later): buckets
//! of keys in one array map, objects in another. Half of what BPF's own hash takes in memory and time,
//! and user space reads it in place.

/// Keys of a bucket: with the word before them they fill a cache line.
pub const SLOTS: usize = 7;

/// Buckets that an object may lie in. At the load the table is made for (see [`buckets_for`]) one object
/// in 30 does not find room in its first bucket, and none in ten thousand million in all of them.
pub const PROBES: u32 = 16;

/// Set in a key while its object is being written. Keys are even: objects are aligned to 4 bytes at least,
/// and so are per-CPU offsets.
pub const BEING_WRITTEN: u64 = 1;

/// One bucket: its objects lie at the same places of the other array, [`SLOTS`] to a bucket.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    /// Objects that would be here, had there been room, and are in a later bucket of theirs.
    pub spilled: u32,
    /// Zero.
    pub _pad: u32,
    /// Addresses of the objects; 0 where there is none.
    pub keys: [u64; SLOTS],
}

/// Buckets for so many objects: at 0.64 of the places in use all of them find room, in 64 bytes each.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "two ninths of a number that fits")]
pub const fn buckets_for(objects: u32) -> u32 {
    // A bucket takes 8 bytes a key, 8 more, and 32 bytes an object: 288.
    ((objects as u64 * 2).div_ceil(9)) as u32
}

/// Objects that fit so many buckets.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "7")]
pub const fn places_in(buckets: u32) -> u32 {
    buckets.saturating_mul(SLOTS as u32)
}

/// What the places of an address are made from.
#[inline(always)]
#[must_use]
pub fn spread(address: u64, seed: u64) -> u64 {
    let x = (address ^ seed).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (x ^ (x >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93)
}

/// Index of the bucket to look at `probe`th, from 0.
#[inline(always)]
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "the halves of a word")]
pub fn bucket_at(spread: u64, probe: u32, buckets: u32) -> u32 {
    let step = spread as u32 | 1;
    let place = ((spread >> 32) as u32).wrapping_add(probe.wrapping_mul(step));
    ((u64::from(place) * u64::from(buckets)) >> 32) as u32
}

const _: () = assert!(size_of::<Bucket>() == 64);

#[cfg(test)]
mod tests {
    extern crate std;
    use std::{vec, vec::Vec};

    use super::{PROBES, SLOTS, bucket_at, buckets_for, spread};

    /// Enters as many objects as the table is made for, laid out as slabs lay them out, and returns how
    /// many found their place at each probe, and how many none.
    fn fill(objects: u32, address: impl Fn(u64) -> u64) -> (Vec<u32>, u32) {
        let buckets = buckets_for(objects);
        let mut used = vec![0_usize; buckets as usize];
        let (mut at, mut without) = (vec![0; PROBES as usize], 0);
        for index in 0..u64::from(objects) {
            let spread = spread(address(index), 0x1234_5678_9abc_def1);
            let found = (0..PROBES).find(|&probe| {
                let bucket = &mut used[bucket_at(spread, probe, buckets) as usize];
                let room = *bucket < SLOTS;
                *bucket += usize::from(room);
                room
            });
            match found {
                Some(probe) => at[probe as usize] += 1,
                None => without += 1,
            }
        }
        (at, without)
    }

    #[test]
    fn a_full_table_holds_what_it_is_made_for() {
        const DIRECT: u64 = 0xffff_8880_0000_0000;
        let layouts: [fn(u64) -> u64; 3] = [
            |index| DIRECT + index * 512,
            // One object in each page.
            |index| DIRECT + index * 4096 + 192,
            // Slabs of eight pages here and there.
            |index| {
                DIRECT
                    + (index / 64).wrapping_mul(0x9E37_79B1) % (1 << 22) * 32_768
                    + index % 64 * 512
            },
        ];
        for layout in layouts {
            let (at, without) = fill(500_000, layout);
            assert_eq!(without, 0, "{at:?}");
            assert!(at[0] > 470_000, "{at:?}");
            assert!(at[8..].iter().all(|&count| count == 0), "{at:?}");
        }
    }

    #[test]
    fn few_objects_have_room_too() {
        for objects in [1, 2, 9, 100, 1_000] {
            let (_, without) = fill(objects, |index| 0xffff_8880_0000_0000 + index * 512);
            assert_eq!(without, 0, "{objects}");
        }
    }

    #[test]
    fn an_object_takes_64_bytes() {
        let bytes = u64::from(buckets_for(16_000_000)) * (64 + SLOTS as u64 * 32);
        assert!(bytes <= 16_000_000 * 64 + 288, "{bytes}");
    }
}

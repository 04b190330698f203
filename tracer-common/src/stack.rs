//! Stacks, as the maps hold them.

use crate::row;

/// Frames of a short stack. Of the paths through system calls hardly one is longer.
pub const SHORT_FRAMES: usize = 31;
/// Frames of a long one: as many as the kernel walks (`kernel.perf_event_max_stack` is 127).
pub const LONG_FRAMES: usize = 127;
/// Set in the id of a stack that lies in the map of long ones.
pub const LONG_STACK: i32 = 1 << 30;
/// Buffers that stacks are walked into, on each CPU: one a program that takes stacks, because interrupts
/// run others.
pub const WALKED: u32 = STACK_EVENTS * row::CHAIN;
/// Kinds of events that stacks are taken of.
pub const STACK_EVENTS: u32 = 4;
/// Bits of an id within its map.
const ID_MASK: u32 = (1 << 30) - 1;
/// Ids that a stack may have: its own and those after it, where others have it already. With 131,072
/// stacks 8 find their first id taken, and one in 10^5 times any finds the next taken too.
pub const STACK_PROBES: u32 = 4;
/// Frames hashed between two looks for the end.
const BLOCK: usize = 4;

/// A stack, leaf first, 0 after the last frame. Its key is one of the ids of its hash.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stack<const FRAMES: usize> {
    /// [`stack_hash`] of all frames: what tells it from another stack of the same id.
    pub hash: u64,
    /// Return addresses.
    pub frames: [u64; FRAMES],
}

/// What the programs walk into, and the value of the map of long stacks.
pub type LongStack = Stack<LONG_FRAMES>;
/// A short one is the beginning of what they walk into.
pub type ShortStack = Stack<SHORT_FRAMES>;

/// The hash of a stack, by which it is known. Seeded at load, because user space chooses its frames:
/// nobody outside can aim at a collision, and by chance the odds that any two of 131,072 stacks are
/// taken for each other are about 1 in 10^9.
///
/// Two lanes, as each step waits for the last one's multiplication.
#[inline(always)]
#[must_use]
pub fn stack_hash(seed: u64, frames: &[u64; LONG_FRAMES]) -> u64 {
    let (mut even, mut odd) = (seed, !seed);
    let mut at = 0;
    while at + BLOCK <= LONG_FRAMES && frames[at] != 0 {
        even = mix(even, frames[at]);
        odd = mix(odd, frames[at + 1]);
        even = mix(even, frames[at + 2]);
        odd = mix(odd, frames[at + 3]);
        at += BLOCK;
    }
    // Of the longest, what is no whole block.
    let mut rest = LONG_FRAMES / BLOCK * BLOCK;
    while rest < LONG_FRAMES {
        even = mix(even, frames[rest]);
        rest += 1;
    }
    mix(even, odd)
}

/// The id that a stack tries at the `probe`th.
#[inline(always)]
#[must_use]
pub fn stack_id(hash: u64, probe: u32) -> u32 {
    ((hash >> 32) as u32).wrapping_add(probe) & ID_MASK
}

/// The key of an object's stack in its map, and whether that is the map of long ones; `None` of no stack.
#[must_use]
pub fn stack_place(id: i32) -> Option<(u32, bool)> {
    let id = u32::try_from(id).ok()?;
    Some((id & ID_MASK, id & LONG_STACK as u32 != 0))
}

/// One multiply-and-fold step; multiplication and shifts only, which every BPF JIT has.
#[inline(always)]
pub(crate) fn mix(hash: u64, word: u64) -> u64 {
    let x = (hash ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x ^ (x >> 29)
}

#[cfg(feature = "user")]
// SAFETY: `repr(C)`, made of integers alone, without padding.
unsafe impl<const FRAMES: usize> aya::Pod for Stack<FRAMES> {}

const _: () = {
    assert!(size_of::<ShortStack>() == 256);
    assert!(size_of::<LongStack>() == 1024);
};

#[cfg(test)]
mod tests {
    use super::{LONG_FRAMES, LONG_STACK, stack_hash, stack_id, stack_place};

    fn frames(of: &[u64]) -> [u64; LONG_FRAMES] {
        let mut frames = [0; LONG_FRAMES];
        frames[..of.len()].copy_from_slice(of);
        frames
    }

    #[test]
    fn every_frame_and_its_place_are_in_the_hash() {
        let all: [u64; LONG_FRAMES] =
            core::array::from_fn(|index| 0xffff_ffff_8100_0000 + index as u64);
        for length in 1..=LONG_FRAMES {
            let whole = frames(&all[..length]);
            let hash = stack_hash(7, &whole);
            assert_ne!(hash, stack_hash(8, &whole));
            assert_ne!(hash, stack_hash(7, &frames(&all[..length - 1])));
            for at in 0..length {
                let mut other = whole;
                other[at] ^= 4;
                assert_ne!(hash, stack_hash(7, &other), "frame {at} of {length}");
                if at + 2 < length {
                    let mut swapped = whole;
                    swapped.swap(at, at + 2);
                    assert_ne!(hash, stack_hash(7, &swapped));
                }
            }
        }
    }

    #[test]
    fn an_id_names_its_map() {
        let id = stack_id(u64::MAX, 0);
        assert_eq!(stack_id(u64::MAX, 1), 0);
        let id = i32::try_from(id).unwrap();
        assert_eq!(stack_place(id), Some((id.cast_unsigned(), false)));
        assert_eq!(stack_place(id | LONG_STACK), Some((id.cast_unsigned(), true)));
        assert_eq!(stack_place(-1), None);
    }
}

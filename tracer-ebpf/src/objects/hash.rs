//! In BPF's own hash, for kernels before 5.17, which lack what the table takes.

use aya_ebpf::{bindings::BPF_NOEXIST, macros::map, maps::HashMap};
use kleak_common::{CpuState, Object};

use super::Entered;

/// `-EEXIST`: the key is there already.
const EEXIST: i32 = -17;
/// `-E2BIG`: the map is full.
const E2BIG: i32 = -7;
/// `-ENOENT`: the key is not there.
const ENOENT: i32 = -2;

/// Outstanding objects by address. `--max-objects` sets its size at load.
#[map]
static OBJECTS: HashMap<u64, Object> = HashMap::with_max_entries(1, 0);

/// Enters an object.
#[inline(always)]
pub(crate) fn enter<const ROW: u32>(
    address: u64,
    object: &Object,
    _state: &mut CpuState,
) -> Entered {
    match OBJECTS.insert(&address, object, u64::from(BPF_NOEXIST)) {
        Ok(()) => Entered::New,
        Err(EEXIST) => find(address).map_or(Entered::Busy, Entered::Held),
        Err(E2BIG) => Entered::Full,
        Err(_) => Entered::Busy,
    }
}

/// The object at an address, if it is outstanding.
#[inline(always)]
pub(crate) fn find(address: u64) -> Option<*mut Object> {
    OBJECTS.get_ptr_mut(&address)
}

/// Removes the object at an address; says whether there was one.
///
/// Errors: the map was in use by what this interrupts.
#[inline(always)]
pub(crate) fn remove<const ROW: u32>(address: u64, _state: &mut CpuState) -> Result<bool, i32> {
    // A look-up takes no lock, a removal takes the bucket's even when there is nothing to remove.
    if OBJECTS.get_ptr(&address).is_none() {
        return Ok(false);
    }
    match OBJECTS.remove(&address) {
        // An interrupted pair of programs may see a free twice.
        Ok(()) | Err(ENOENT) => Ok(true),
        Err(errno) => Err(errno),
    }
}

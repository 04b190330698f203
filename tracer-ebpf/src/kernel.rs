//! Reading kernel memory.

use aya_ebpf::helpers::bpf_probe_read_kernel;
use kleak_common::Offsets;

/// Reads a field of the struct at `base`.
///
/// Errors: the offset is unknown on this kernel (-1), or the address cannot be read (-EFAULT).
#[inline(always)]
pub(crate) fn read<T>(base: u64, offset: u32) -> Result<T, i32> {
    if offset == Offsets::UNKNOWN {
        return Err(-1);
    }
    // SAFETY: the helper checks the address and fails on one it cannot read; `T` is an integer or
    // an array of them, for which any bytes are a value.
    unsafe { bpf_probe_read_kernel(base.wrapping_add(u64::from(offset)) as *const T) }
}

//! The two bpf(2) commands that aya does not wrap, and a map's memory.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_prog_info};

use crate::host::Host;

/// Entries asked for in one call: 8,192 outstanding objects are 320 KiB of buffers.
const BATCH: u32 = 8_192;

fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> std::io::Result<()> {
    // SAFETY: `attr` is a whole, initialised `bpf_attr`, and every address that callers put into it
    // is of a buffer that outlives the call and is as long as the lengths they put beside it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as u32,
            std::ptr::from_mut(attr),
            size_of::<bpf_attr>(),
        )
    };
    if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

fn zeroed_attr() -> bpf_attr {
    // SAFETY: a union of plain integers, for which zero is a value.
    unsafe { std::mem::zeroed() }
}

/// Calls `each(key, value)` for every entry of a hash map, in batches (`BPF_MAP_LOOKUP_BATCH`,
/// from 5.6): one element at a time would be two system calls an element.
///
/// A bucket is read under its lock, so an entry that is there throughout is seen exactly once.
/// `value_size` is what the kernel copies out: for per-CPU maps, that of all possible CPUs.
pub(super) fn walk(
    map: BorrowedFd<'_>,
    key_size: usize,
    value_size: usize,
    mut each: impl FnMut(&[u8], &[u8]),
) -> std::io::Result<()> {
    let mut batch = BATCH;
    let (mut cursor, mut next) = (0_u32, 0_u32);
    let mut first = true;
    loop {
        let mut keys = vec![0_u8; key_size * batch as usize];
        let mut values = vec![0_u8; value_size * batch as usize];
        // The buffers are kept while they are large enough.
        loop {
            let mut attr = zeroed_attr();
            attr.batch.in_batch = if first { 0 } else { std::ptr::from_ref(&cursor) as u64 };
            attr.batch.out_batch = std::ptr::from_mut(&mut next) as u64;
            attr.batch.keys = keys.as_mut_ptr() as u64;
            attr.batch.values = values.as_mut_ptr() as u64;
            attr.batch.count = batch;
            // The kernel's ABI takes the descriptor as u32.
            attr.batch.map_fd = map.as_raw_fd().cast_unsigned();
            let result = bpf(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attr);
            // SAFETY: the kernel writes `count` on success and on both errors handled below.
            let count = unsafe { attr.batch.count } as usize;
            let done = match result {
                Ok(()) => false,
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && batch < 1 << 22 => {
                    // One bucket holds more than the buffer does; nothing was passed on.
                    batch *= 2;
                    break;
                }
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => continue,
                Err(error) => return Err(error),
            };
            let count = count.min(batch as usize);
            for (key, value) in
                keys.chunks_exact(key_size).zip(values.chunks_exact(value_size)).take(count)
            {
                each(key, value);
            }
            if done {
                return Ok(());
            }
            cursor = next;
            first = false;
        }
    }
}

/// Some entries of an array map, in place.
pub(super) struct Shared<T> {
    start: std::ptr::NonNull<libc::c_void>,
    count: usize,
    entry: std::marker::PhantomData<T>,
}

impl<T: aya::Pod> Shared<T> {
    /// Maps `count` entries from the `first` on, read-only. The map has to be `BPF_F_MMAPABLE`, with entries
    /// of `T`, and the first of them begin a page.
    pub(super) fn map(map: BorrowedFd<'_>, first: usize, count: usize) -> std::io::Result<Self> {
        let offset = libc::off_t::try_from(first * size_of::<T>())
            .map_err(|_| std::io::ErrorKind::InvalidInput)?;
        // SAFETY: a new mapping, which nothing else knows of. The kernel checks that it lies in the map.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                count * size_of::<T>(),
                libc::PROT_READ,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                offset,
            )
        };
        match std::ptr::NonNull::new(start) {
            Some(start) if start.as_ptr() != libc::MAP_FAILED => {
                Ok(Self { start, count, entry: std::marker::PhantomData })
            }
            _ => Err(std::io::Error::last_os_error()),
        }
    }

    /// A copy of an entry, which the kernel side may be writing: it is up to the caller to see to that.
    pub(super) fn read(&self, index: usize) -> Option<T> {
        if index >= self.count {
            return None;
        }
        std::sync::atomic::fence(std::sync::atomic::Ordering::Acquire);
        // SAFETY: within the mapping (checked).
        let entry = unsafe { self.start.cast::<T>().add(index) };
        // SAFETY: aligned, as the mapping begins a page; any bytes are a `Pod`; volatile, as they change
        // under us.
        let entry = unsafe { entry.read_volatile() };
        std::sync::atomic::fence(std::sync::atomic::Ordering::Acquire);
        Some(entry)
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: what `map` has mapped, whose entries are only ever copied out.
        let _ = unsafe { libc::munmap(self.start.as_ptr(), self.count * size_of::<T>()) };
    }
}

/// What the kernel says of a loaded program: `(run time ns, runs, recursion misses)`. The last is
/// counted from 5.12 on; older kernels leave it 0 because they have no guard to miss at.
pub(super) fn program_info(program: BorrowedFd<'_>) -> std::io::Result<(u64, u64, u64)> {
    // SAFETY: a struct of plain integers, for which zero is a value.
    let mut info: bpf_prog_info = unsafe { std::mem::zeroed() };
    let mut attr = zeroed_attr();
    attr.info.bpf_fd = program.as_raw_fd().cast_unsigned();
    attr.info.info_len = u32::try_from(size_of::<bpf_prog_info>()).unwrap_or(u32::MAX);
    attr.info.info = std::ptr::from_mut(&mut info) as u64;
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok((info.run_time_ns, info.run_cnt, info.recursion_misses))
}

/// Kernel memory of a map in bytes, as its fdinfo says (`memlock`); `None` where it does not.
pub(super) fn map_memory(map: BorrowedFd<'_>, host: &Host) -> Option<u64> {
    let path = host.proc(format!("self/fdinfo/{}", map.as_raw_fd()));
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("memlock:"))?;
    line.trim().parse().ok()
}

/// Lifts the limit on locked memory, which kernels before 5.11 charge maps to.
pub(super) fn lift_memlock() {
    // Newer kernels ignore it, and on older ones loading says what is missing.
    let _ = nix::sys::resource::setrlimit(
        nix::sys::resource::Resource::RLIMIT_MEMLOCK,
        nix::sys::resource::RLIM_INFINITY,
        nix::sys::resource::RLIM_INFINITY,
    );
}

/// Reads a record from a map's bytes; `None` when there are too few.
pub(super) fn record<T: aya::Pod>(bytes: &[u8]) -> Option<T> {
    if bytes.len() < size_of::<T>() {
        return None;
    }
    // SAFETY: long enough (checked), any alignment (unaligned read), and any bytes are a `Pod`.
    Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

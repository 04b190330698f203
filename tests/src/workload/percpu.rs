//! BPF arrays: per-CPU ones, whose every element is a per-CPU object, and plain ones, which are one
//! object each (`kernel/bpf/arraymap.c`): of kmalloc up to 32 KiB, of vmalloc above.

use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};

use anyhow::{Context as _, Result, bail};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};

use super::ArraysArgs;
use super::protocol::{self, Order};

/// `enum bpf_cmd` and `enum bpf_map_type` (`include/uapi/linux/bpf.h`).
const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_MAP_TYPE_PERCPU_ARRAY: u32 = 6;

/// Makes its arrays on `go`, closes them on `drain`.
pub(super) fn run(args: &ArraysArgs) -> Result<()> {
    // Kernels before 5.11 charge maps to the limit on locked memory; where it may not be lifted and is
    // needed, making a map says so.
    let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
    // Once for practice, see the pipes.
    make(args)?;
    protocol::ready(&[])?;
    let mut maps = Vec::new();
    loop {
        match protocol::next()? {
            Order::Go(None) => {
                maps = make_all(args)?;
                protocol::say(&format!("done count={}", maps.len()))?;
            }
            Order::Drain => {
                let count = maps.len();
                maps.clear();
                protocol::say(&format!("drained count={count}"))?;
            }
            Order::Exit => return Ok(()),
            order => bail!("{order:?}: not an order for arrays"),
        }
    }
}

fn make_all(args: &ArraysArgs) -> Result<Vec<OwnedFd>> {
    (0..args.count).map(|_| make(args)).collect()
}

/// The attributes of `BPF_MAP_CREATE` that are used, the rest of which the kernel takes as 0.
#[repr(C)]
struct Attributes {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
}

fn make(args: &ArraysArgs) -> Result<OwnedFd> {
    let map_type = if args.plain { BPF_MAP_TYPE_ARRAY } else { BPF_MAP_TYPE_PERCPU_ARRAY };
    let attributes = Attributes {
        map_type,
        key_size: 4,
        value_size: args.value_size,
        max_entries: args.entries,
    };
    // SAFETY: the kernel reads as many bytes as it is told there are.
    let fd = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_MAP_CREATE, &raw const attributes, size_of::<Attributes>())
    };
    if fd < 0 {
        return Err(io::Error::last_os_error()).context("bpf(BPF_MAP_CREATE)");
    }
    let fd = fd.try_into().context("a file descriptor")?;
    // SAFETY: the kernel has just given it to us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

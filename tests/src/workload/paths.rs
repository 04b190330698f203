//! Objects that one function allocates on behalf of several, so that their stacks alone tell them
//! apart: extended attributes on a tmpfs, set by three system calls.

use std::ffi::{CStr, CString, c_int};
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;

use anyhow::{Context as _, Result, bail, ensure};

use super::objects::{PRIVATE, check, private_tmpfs};
use super::protocol::{self, Order};
use super::{PathsArgs, WalksArgs, remember};
use crate::sysv::Queues;

/// One that only the superuser sees; tmpfs has had this kind for longest.
const ATTRIBUTE: &CStr = c"trusted.kleak";

/// Bytes of a value: with what the kernel puts before it, it takes an object of 1 KiB, while the copy
/// that each call makes of it, and frees, takes one of 512.
const VALUE: [u8; 490] = [b'k'; 490];

/// Levels of calls above one that is made by `walks`: 2^17 paths.
const LEVELS: usize = 17;

/// A file that attributes are set on.
struct Target(CString);

impl Target {
    fn make(number: usize) -> Result<Self> {
        let path = format!("{PRIVATE}/{number}");
        drop(File::create(&path).with_context(|| path.clone())?);
        Ok(Self(CString::new(path)?))
    }

    fn open(&self) -> Result<File> {
        Ok(File::open(std::ffi::OsStr::from_bytes(self.0.as_bytes()))?)
    }

    /// Sets the attribute by one of the three calls, of which the third takes the file open. If it is set already, the kernel makes a new one
    /// and frees the old.
    fn set(&self, file: &File, by: usize) -> Result<()> {
        let (path, name) = (self.0.as_ptr(), ATTRIBUTE.as_ptr());
        let (value, bytes) = (VALUE.as_ptr().cast(), VALUE.len());
        let result: c_int = match by {
            // SAFETY: strings that end in NUL, and a live buffer with its length, are only read.
            0 => unsafe { libc::setxattr(path, name, value, bytes, 0) },
            // SAFETY: as above.
            1 => unsafe { libc::lsetxattr(path, name, value, bytes, 0) },
            // SAFETY: as above.
            _ => unsafe { libc::fsetxattr(file.as_raw_fd(), name, value, bytes, 0) },
        };
        check(result).with_context(|| format!("setting {ATTRIBUTE:?}"))?;
        Ok(())
    }

    fn remove(&self) -> Result<()> {
        // SAFETY: a name that ends in NUL is only read.
        check(unsafe { libc::removexattr(self.0.as_ptr(), ATTRIBUTE.as_ptr()) })?;
        Ok(())
    }
}

/// On `go`, keeps `--count` objects, of ten seven by one path, two by another, one by the third, and
/// before each of them makes and frees `--churn`, by all three alike.
pub(super) fn run(args: &PathsArgs) -> Result<()> {
    private_tmpfs()?;
    let passing = Target::make(args.count)?;
    let targets = (0..args.count).map(Target::make).collect::<Result<Vec<_>>>()?;
    // What a first attribute takes besides.
    let file = passing.open()?;
    for target in targets.iter().chain([&passing]) {
        target.set(&file, 0)?;
        target.remove()?;
    }
    protocol::ready(&[])?;
    if !protocol::wait_for_go()? {
        return Ok(());
    }
    let mut random = 1_u32;
    for (number, target) in targets.iter().enumerate() {
        for _ in 0..args.churn {
            // The constants of POSIX's example of `rand()`; its low bits have short periods.
            random = random.wrapping_mul(1_103_515_245).wrapping_add(12_345);
            passing.set(&file, random as usize / 65_536 % 3)?;
        }
        target.set(&target.open()?, [0, 0, 0, 0, 0, 0, 0, 1, 1, 2][number % 10])?;
    }
    if args.churn > 0 {
        passing.remove()?;
    }
    protocol::say(&format!("done kept={} churned={}", args.count, args.count * args.churn))?;
    protocol::wait_for_exit()
}

/// On `go`, sends `--count` messages, each from a user call path of its own, up to 2^17 of them.
pub(super) fn walks(args: &WalksArgs) -> Result<()> {
    ensure!(args.count <= 1 << LEVELS, "there are {} paths", 1 << LEVELS);
    let queues = Queues::for_messages(args.count, 512)?;
    remember(queues.ids());
    protocol::ready(queues.ids())?;
    loop {
        match protocol::next()? {
            Order::Go(None) => {
                for path in 0..args.count {
                    queues.send_by(path, |id, message, bytes| call(path, id, message, bytes))?;
                }
                protocol::say(&format!("done count={}", args.count))?;
            }
            Order::Exit => return Ok(()),
            order => bail!("{order:?}: not an order for walks"),
        }
    }
}

/// `msgsnd(2)` as if called through functions at made-up addresses, chosen by the bits of `path`: the
/// kernel walks frame pointers, and these lead through a chain of our own.
#[cfg(target_arch = "x86_64")]
fn call(path: usize, id: i32, message: *const libc::c_void, bytes: usize) -> i64 {
    /// Where no program has anything.
    const NOWHERE: u64 = 0x1000_0000_0000;
    // Pairs of the next frame's address and the return address.
    let mut chain = [[0_u64; 2]; LEVELS];
    let start = chain.as_ptr() as u64;
    for (level, pair) in (0_u64..).zip(chain.iter_mut()) {
        let next = if level + 1 < LEVELS as u64 { start + (level + 1) * 16 } else { 0 };
        *pair = [next, NOWHERE + level * 32 + (path as u64 >> level & 1) * 16];
    }
    let result: i64;
    // SAFETY: the call reads `bytes` bytes and a `long` before them at `message`, which the caller
    // answers for. The frame pointer is put back, and nothing but the kernel's walk uses it meanwhile;
    // the kernel changes no registers but those named.
    unsafe {
        std::arch::asm!(
            "push rbp",
            "mov rbp, {chain}",
            "syscall",
            "pop rbp",
            chain = in(reg) start,
            inlateout("rax") libc::SYS_msgsnd => result,
            in("rdi") i64::from(id),
            in("rsi") message,
            in("rdx") bytes,
            in("r10") i64::from(libc::IPC_NOWAIT),
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    result
}

/// Elsewhere the kernel walks in other ways.
#[cfg(not(target_arch = "x86_64"))]
fn call(_path: usize, _id: i32, _message: *const libc::c_void, _bytes: usize) -> i64 {
    -i64::from(libc::ENOSYS)
}

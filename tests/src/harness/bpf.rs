//! What a process has loaded into the kernel, and whether it is still there.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};

use anyhow::{Context as _, Result, bail};

/// `bpf(2)` commands that open a thing by its id.
const BPF_PROG_GET_FD_BY_ID: libc::c_long = 13;
const BPF_MAP_GET_FD_BY_ID: libc::c_long = 14;
const BPF_LINK_GET_FD_BY_ID: libc::c_long = 30;

/// Ids of BPF programs, maps and links.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Programs.
    pub programs: BTreeSet<u32>,
    /// Maps.
    pub maps: BTreeSet<u32>,
    /// Links: programs that are attached.
    pub links: BTreeSet<u32>,
}

impl Loaded {
    /// Those that the kernel still has.
    pub fn still_there(&self) -> Result<Self> {
        Ok(Self {
            programs: existing(&self.programs, BPF_PROG_GET_FD_BY_ID)?,
            maps: existing(&self.maps, BPF_MAP_GET_FD_BY_ID)?,
            links: existing(&self.links, BPF_LINK_GET_FD_BY_ID)?,
        })
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What a process holds, by its descriptors. (Not by listing what the kernel has: others may load
/// programs of their own meanwhile.)
pub fn loaded_by(pid: u32) -> Result<Loaded> {
    let mut loaded = Loaded::default();
    let directory = format!("/proc/{pid}/fdinfo");
    for entry in fs::read_dir(&directory).with_context(|| directory.clone())? {
        // A descriptor may be closed while the list is read.
        let Ok(info) = fs::read_to_string(entry?.path()) else {
            continue;
        };
        for line in info.lines() {
            let Some((name, id)) = line.split_once(':') else {
                continue;
            };
            let ids = match name {
                "prog_id" => &mut loaded.programs,
                "map_id" => &mut loaded.maps,
                "link_id" => &mut loaded.links,
                _ => continue,
            };
            ids.insert(id.trim().parse().with_context(|| line.to_owned())?);
        }
    }
    Ok(loaded)
}

fn existing(ids: &BTreeSet<u32>, command: libc::c_long) -> Result<BTreeSet<u32>> {
    let mut found = BTreeSet::new();
    for id in ids {
        // The start of `union bpf_attr` for these commands: the id, then fields that may be 0.
        let attributes = [*id, 0, 0, 0];
        // SAFETY: the pointer and the size are those of a live array, which the kernel only reads.
        let fd = unsafe {
            libc::syscall(libc::SYS_bpf, command, attributes.as_ptr(), size_of_val(&attributes))
        };
        if fd >= 0 {
            let fd = i32::try_from(fd)?;
            // SAFETY: `fd` is new and nobody else's.
            drop(unsafe { OwnedFd::from_raw_fd(fd) });
            found.insert(*id);
            continue;
        }
        match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ENOENT) => {}
            error => bail!("bpf({command}) of id {id}: {error}"),
        }
    }
    Ok(found)
}

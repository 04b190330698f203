//! Whether the memory controller accounts kernel memory to a cgroup of version 1:
//! `memory.kmem.slabinfo` and `memory.kmem.usage_in_bytes`.

use std::path::Path;

use super::{HostError, read_text, release::Release, slabinfo};

/// What `memory.kmem.slabinfo` of a cgroup says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Slabinfo {
    /// `Input/output error`: kernel memory is not accounted to it (`mem_cgroup_slabinfo_read()` in
    /// `mm/memcontrol.c` of 3.10).
    Off,
    /// A table: it is, unless there is nothing in it.
    On {
        /// Caches of its own that hold objects.
        caches: u64,
        /// Objects that they hold.
        objects: u64,
    },
    /// Empty, as from 5.9 on always: it says nothing.
    Stub,
    /// It could not be read, for another reason.
    Unknown(String),
}

/// One cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accounting {
    /// `memory.kmem.slabinfo`.
    pub slabinfo: Slabinfo,
    /// `memory.kmem.usage_in_bytes`: 0 when nothing is accounted.
    pub usage_bytes: Option<u64>,
}

/// Reads both files of the cgroup at `directory` (already rooted); `None` when it has neither.
///
/// An error cannot be stored in a saved tree. What copies a file (`cp`, `rsync`, `tar`) fails on this
/// one and leaves an empty file, or none; `cat … >file 2>&1` leaves the words of the error. On a kernel
/// before 5.9 a file that was read is never empty, as it has a heading: so an empty file, or those
/// words, stand for the error (`saved`), and a missing one is unknown.
pub fn read(directory: &Path, saved: bool, release: Option<Release>) -> Option<Accounting> {
    let usage = read_text(&directory.join("memory.kmem.usage_in_bytes"));
    let text = read_text(&directory.join("memory.kmem.slabinfo"));
    let missing = |error: &HostError| error.is_missing();
    if usage.as_ref().is_err_and(missing) && text.as_ref().is_err_and(missing) {
        return None;
    }
    let slabinfo = match text {
        Ok(text) => parse(&text, saved, release),
        Err(HostError::Read { cause, .. }) if cause.raw_os_error() == Some(libc::EIO) => {
            Slabinfo::Off
        }
        Err(error) if error.is_missing() && saved => {
            Slabinfo::Unknown("the tree does not hold the file".to_owned())
        }
        Err(HostError::Read { cause, .. }) => Slabinfo::Unknown(cause.to_string()),
        Err(error) => Slabinfo::Unknown(error.to_string()),
    };
    let usage_bytes = usage.ok().and_then(|text| text.trim().parse().ok());
    Some(Accounting { slabinfo, usage_bytes })
}

/// What the text of the file stands for.
fn parse(text: &str, saved: bool, release: Option<Release>) -> Slabinfo {
    if saved && text.contains("Input/output error") {
        return Slabinfo::Off;
    }
    if text.trim().is_empty() {
        return match release {
            Some(release) if saved && !release.is_from(5, 9) => Slabinfo::Off,
            Some(release) if release.is_from(5, 9) => Slabinfo::Stub,
            Some(_) => Slabinfo::Unknown("it is empty".to_owned()),
            None => {
                Slabinfo::Unknown("it is empty, and the kernel's version is unknown".to_owned())
            }
        };
    }
    let info = slabinfo::parse(text);
    if info.caches.is_empty() && !text.contains("# name") && !text.contains("slabinfo - version") {
        return Slabinfo::Unknown("it is not a slabinfo".to_owned());
    }
    let held = || info.caches.iter().filter(|cache| cache.total_objects > 0);
    Slabinfo::On {
        caches: held().count() as u64,
        objects: held().map(|cache| cache.total_objects).fold(0, u64::saturating_add),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::release;
    use proptest::prelude::*;

    const TABLE: &str = "\
slabinfo - version: 2.1
# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : tunables <limit> <batchcount> <sharedfactor> : slabdata <active_slabs> <num_slabs> <sharedavail>
dentry               189    210    192   21    1 : tunables    0    0    0 : slabdata     10     10      0
kmalloc-64             0      0     64   64    1 : tunables    0    0    0 : slabdata      0      0      0
";

    fn centos() -> Option<Release> {
        release::parse("3.10.0-1062.el7.x86_64")
    }

    #[test]
    fn a_table_is_on_and_an_error_is_off() {
        assert_eq!(parse(TABLE, true, centos()), Slabinfo::On { caches: 1, objects: 210 });
        assert_eq!(parse(TABLE, false, None), Slabinfo::On { caches: 1, objects: 210 });
        let words = "cat: /sys/fs/cgroup/memory/kubepods/memory.kmem.slabinfo: Input/output error";
        assert_eq!(parse(words, true, centos()), Slabinfo::Off);
        assert_eq!(parse("", true, centos()), Slabinfo::Off);
        assert_eq!(parse("", true, release::parse("5.10.0")), Slabinfo::Stub);
        assert!(matches!(parse("", true, None), Slabinfo::Unknown(_)));
        // On the running system an empty file was read, and is none that failed.
        assert!(matches!(parse("", false, centos()), Slabinfo::Unknown(_)));
        assert!(matches!(parse("hello", true, centos()), Slabinfo::Unknown(_)));
    }

    #[test]
    fn a_cgroup_without_the_files_has_no_answer() {
        let tree = tempfile::tempdir().unwrap();
        assert_eq!(read(tree.path(), true, centos()), None);
        std::fs::write(tree.path().join("memory.kmem.usage_in_bytes"), "4096\n").unwrap();
        let found = read(tree.path(), true, centos()).unwrap();
        assert_eq!(found.usage_bytes, Some(4096));
        assert!(matches!(found.slabinfo, Slabinfo::Unknown(why) if why.contains("tree")));
    }

    proptest! {
        #[test]
        fn never_panics(text in "(?s).{0,200}", saved: bool) {
            parse(&text, saved, centos());
            parse(&text, saved, None);
        }
    }
}

//! `/proc/slabinfo`, format 2.x (since 2.6.10; `print_slabinfo_header()` in `mm/slab_common.c`).

use hashbrown::{HashMap, HashSet};

use super::{Host, Result, malformed, read_text};
use crate::analyse::SlabCount;

/// One slab cache.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlabCache {
    /// Its name; of several merged caches, the one the kernel shows.
    pub name: String,
    /// Objects in use. SLUB counts those in the private lists of a CPU as in use.
    pub active_objects: u64,
    /// Objects there is room for in its slabs.
    pub total_objects: u64,
    /// Bytes an object occupies, metadata of slab debugging included.
    pub object_size: u64,
    /// Objects in one slab.
    pub objects_per_slab: u64,
    /// Pages of one slab.
    pub pages_per_slab: u64,
    /// Slabs in use.
    pub active_slabs: u64,
    /// Slabs.
    pub total_slabs: u64,
}

impl SlabCache {
    /// Bytes its slabs take, with pages of `page_size` bytes. Kernels from 3.8 to 5.8 have a copy of
    /// each cache for each memory cgroup, and add them up here (`memcg_accumulate_slabinfo()` in
    /// `mm/slab_common.c`).
    pub fn slab_bytes(&self, page_size: u64) -> u64 {
        self.total_slabs.saturating_mul(self.pages_per_slab).saturating_mul(page_size)
    }
}

/// Everything `/proc/slabinfo` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlabInfo {
    /// In the kernel's order.
    pub caches: Vec<SlabCache>,
    /// Lines that could not be parsed, and were left out.
    pub malformed_lines: u64,
}

impl SlabInfo {
    /// What the analysis compares with what was traced, by name.
    pub fn counts(&self) -> HashMap<String, SlabCount> {
        counts(&self.caches)
    }

    /// The names of all caches.
    pub fn names(&self) -> HashSet<String> {
        self.caches.iter().map(|cache| cache.name.clone()).collect()
    }
}

/// Reads `/proc/slabinfo`, which only root may.
///
/// # Errors
///
/// When it cannot be read, or no line of it is a cache.
pub fn read(host: &Host) -> Result<SlabInfo> {
    let path = host.proc("slabinfo");
    let info = parse(&read_text(&path)?);
    if info.caches.is_empty() {
        return Err(malformed(&path, "no slab cache in it"));
    }
    Ok(info)
}

/// Parses the text of `/proc/slabinfo`.
pub fn parse(text: &str) -> SlabInfo {
    let mut info = SlabInfo::default();
    for line in text.lines() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') || line.starts_with("slabinfo - version:") {
            continue;
        }
        match parse_line(line) {
            Some(cache) => info.caches.push(cache),
            None => info.malformed_lines += 1,
        }
    }
    info
}

/// Objects in use and objects per slab, by name. Two caches of one name (a module may create its
/// own `foo`) are added up, as the growth of that name is.
pub fn counts(caches: &[SlabCache]) -> HashMap<String, SlabCount> {
    let mut counts: HashMap<String, SlabCount> = HashMap::with_capacity(caches.len());
    for cache in caches {
        let count = counts.entry_ref(cache.name.as_str()).or_default();
        count.active_objects = count.active_objects.saturating_add(cache.active_objects);
        count.objects_per_slab = count.objects_per_slab.max(cache.objects_per_slab);
    }
    counts
}

/// `name active total size perslab pages : tunables … : slabdata active total shared`. Numbers
/// are taken from the right of their section, because a cache's name may hold spaces.
fn parse_line(line: &str) -> Option<SlabCache> {
    let (head, rest) = line.split_once(" : tunables")?;
    let (_, slabdata) = rest.split_once(": slabdata")?;

    let mut columns = head.split_ascii_whitespace().rev();
    let mut column = || columns.next()?.parse::<u64>().ok();
    let (pages_per_slab, objects_per_slab) = (column()?, column()?);
    let (object_size, total_objects, active_objects) = (column()?, column()?, column()?);
    let mut name: Vec<&str> = columns.collect();
    name.reverse();
    if name.is_empty() {
        return None;
    }

    let mut slabs = slabdata.split_ascii_whitespace().map(|word| word.parse::<u64>().ok());
    Some(SlabCache {
        name: name.join(" "),
        active_objects,
        total_objects,
        object_size,
        objects_per_slab,
        pages_per_slab,
        active_slabs: slabs.next()??,
        total_slabs: slabs.next()??,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NODE: &str = "\
slabinfo - version: 2.1
# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : tunables <limit> <batchcount> <sharedfactor> : slabdata <active_slabs> <num_slabs> <sharedavail>
kernfs_node_cache 15525485 15526050    136   30    1 : tunables    0    0    0 : slabdata 517535 517535      0
kmalloc-512       14485664 14485664    512   32    4 : tunables    0    0    0 : slabdata 452677 452677      0
kmalloc-64        3222835 11604608     64   64    1 : tunables    0    0    0 : slabdata 181322 181322      0
";

    #[test]
    fn a_node_with_a_leak() {
        let info = parse(NODE);
        assert_eq!(info.malformed_lines, 0);
        assert_eq!(info.caches.len(), 3);
        let cache = &info.caches[1];
        assert_eq!(
            *cache,
            SlabCache {
                name: "kmalloc-512".to_owned(),
                active_objects: 14_485_664,
                total_objects: 14_485_664,
                object_size: 512,
                objects_per_slab: 32,
                pages_per_slab: 4,
                active_slabs: 452_677,
                total_slabs: 452_677,
            }
        );
        assert_eq!(cache.slab_bytes(4096), 7_416_659_968);
        let counts = info.counts();
        assert_eq!(
            counts["kmalloc-64"],
            SlabCount { active_objects: 3_222_835, objects_per_slab: 64 }
        );
        assert!(info.names().contains("kernfs_node_cache"));
    }

    #[test]
    fn names_with_spaces_and_colons() {
        let info = parse(
            "ext4 inode: cache 5 6 1000 8 2 : tunables 0 0 0 : slabdata 1 2 0\n\
             kmalloc-64(12:a b) 1 2 64 64 1 : tunables 0 0 0 : slabdata 1 1 0\n",
        );
        assert_eq!(info.malformed_lines, 0);
        assert_eq!(info.caches[0].name, "ext4 inode: cache");
        assert_eq!(info.caches[0].total_slabs, 2);
        assert_eq!(info.caches[1].name, "kmalloc-64(12:a b)");
    }

    #[test]
    fn statistics_of_slab_debugging_are_passed_over() {
        let info = parse(
            "size-32 1 2 32 113 1 : tunables 120 60 8 : slabdata 1 1 0 : globalstat 1 2 3 : cpustat 1 2\n",
        );
        assert_eq!(info.caches[0].total_slabs, 1);
    }

    #[test]
    fn malformed_lines_are_counted_and_the_rest_kept() {
        let info = parse(
            "kmalloc-8 1 2 8 512 1 : tunables 0 0 0 : slabdata 1 1 0\n\
             kmalloc-16 1 2\n\
             1 2 16 256 1 : tunables 0 0 0 : slabdata 1 1 0\n\
             kmalloc-32 -1 2 32 128 1 : tunables 0 0 0 : slabdata 1 1 0\n\
             kmalloc-64 1 2 64 64 1 : tunables 0 0 0 : slabdata x 1 0\n\
             garbage\n",
        );
        assert_eq!(info.caches.len(), 1);
        assert_eq!(info.malformed_lines, 5);
    }

    #[test]
    fn two_caches_of_one_name_are_added_up() {
        let line = "twin 3 4 8 512 1 : tunables 0 0 0 : slabdata 1 1 0\n";
        let counts = parse(&line.repeat(2)).counts();
        assert_eq!(counts["twin"], SlabCount { active_objects: 6, objects_per_slab: 512 });
    }

    #[test]
    fn an_empty_table_is_an_error() {
        let tree = tempfile::tempdir().unwrap();
        let host = Host::new(tree.path());
        std::fs::create_dir(host.proc("")).unwrap();
        std::fs::write(host.proc("slabinfo"), "slabinfo - version: 2.1\n").unwrap();
        assert!(read(&host).unwrap_err().to_string().contains("no slab cache"));
        std::fs::write(host.proc("slabinfo"), NODE).unwrap();
        assert_eq!(read(&host).unwrap().caches.len(), 3);
    }

    proptest! {
        #[test]
        fn never_panics(text in "(?s).{0,300}") {
            parse(&text).counts();
        }

        #[test]
        fn never_panics_on_what_looks_like_it(
            text in "([a-z0-9-]{0,4} ?){0,8} : tunables ([0-9x]{0,21} ?){0,4}: slabdata ([0-9x]{0,21} ?){0,4}"
        ) {
            parse(&text).counts();
        }
    }
}

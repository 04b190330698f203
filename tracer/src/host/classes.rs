//! kmalloc size classes, and the names of the caches that serve them.
//!
//! Sources: `kmalloc_info[]`, `kmalloc_type()`, `kmem_buckets_create()` in `mm/slab_common.c` and
//! `include/linux/slab.h`. Sizes of 1024 and more are named `1k`, `2k`, … since 4.20 and `1024`,
//! `2048`, … before.

use std::fs;

use hashbrown::HashSet;
use kleak_common::flavour;

use super::slabinfo::{self, SlabCache};
use super::{Host, HostError, Result};

/// The classes of SLUB with 4 KiB pages: what is assumed when the machine does not say.
const STANDARD: [u64; 13] = [8, 16, 32, 64, 96, 128, 192, 256, 512, 1024, 2048, 4096, 8192];

/// Largest kmalloc: `KMALLOC_MAX_SIZE`, `MAX_PAGE_ORDER` 10 with 4 KiB pages.
const LARGEST_BYTES: u64 = 4 << 20;

/// A size class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Class {
    /// The size it is named after: the largest request it serves.
    bytes: u64,
    /// What an object occupies: larger than `bytes` under slab debugging, and what the kmalloc
    /// tracepoint reports as `bytes_alloc`.
    slot_bytes: u64,
}

/// The kmalloc classes of a machine, and the names of all its slab caches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Classes {
    /// By size, smallest first; never empty.
    classes: Vec<Class>,
    names: HashSet<String>,
}

impl Default for Classes {
    /// The standard classes, with no cache known by name.
    fn default() -> Self {
        Self::from_names(std::iter::empty())
    }
}

impl Classes {
    /// Learns the classes of a machine from `/proc/slabinfo`, or where that is not readable from
    /// the names in `/sys/kernel/slab`.
    ///
    /// # Errors
    ///
    /// When neither can be read; [`Classes::default`] is then the best guess. The error is that
    /// of slabinfo.
    pub fn read(host: &Host) -> Result<Self> {
        match slabinfo::read(host) {
            Ok(info) => Ok(Self::from_slabinfo(&info.caches)),
            Err(error) => sysfs_names(host).map(Self::from_names).map_err(|_: HostError| error),
        }
    }

    /// Learns the classes from the rows of slabinfo.
    pub fn from_slabinfo(caches: &[SlabCache]) -> Self {
        let classes = caches.iter().filter_map(|cache| {
            let bytes = plain_class(&cache.name)?;
            Some(Class { bytes, slot_bytes: cache.object_size.max(bytes) })
        });
        Self::new(classes.collect(), caches.iter().map(|cache| cache.name.clone()).collect())
    }

    /// Learns the classes from names alone.
    pub fn from_names(names: impl IntoIterator<Item = String>) -> Self {
        let names: HashSet<String> = names.into_iter().collect();
        let classes = names
            .iter()
            .filter_map(|name| plain_class(name))
            .map(|bytes| Class { bytes, slot_bytes: bytes });
        Self::new(classes.collect(), names)
    }

    fn new(mut classes: Vec<Class>, names: HashSet<String>) -> Self {
        // A few rows are an excerpt (a saved "top ten" of slabinfo), not a kernel's whole list:
        // every kernel has at least the powers of two from 256 to 8192.
        let whole = (8..=13).all(|power| classes.iter().any(|class| class.bytes == 1 << power));
        if !whole {
            let missing = STANDARD.map(|bytes| Class { bytes, slot_bytes: bytes });
            classes.extend(missing);
        }
        // The sort is stable, so a class that was seen stays before the assumed one.
        classes.sort_by_key(|class| class.bytes);
        classes.dedup_by_key(|class| class.bytes);
        Self { classes, names }
    }

    /// The names of all slab caches; empty when they are not known.
    pub fn names(&self) -> &HashSet<String> {
        &self.names
    }

    /// The classes, bytes, smallest first.
    pub fn sizes(&self) -> impl Iterator<Item = u64> + '_ {
        self.classes.iter().map(|class| class.bytes)
    }

    /// The smallest class that serves a request of `bytes`. Above the largest cache it is a whole
    /// number of pages, a power of two, up to 4 MiB. `None` for 0 (which the kernel answers
    /// without memory) and for what kmalloc cannot serve.
    pub fn class_for(&self, bytes: u64) -> Option<u64> {
        if bytes == 0 || bytes > LARGEST_BYTES {
            return None;
        }
        let cached = self.sizes().find(|&class| class >= bytes);
        Some(cached.unwrap_or_else(|| bytes.next_power_of_two()))
    }

    /// What an object of a class occupies, bytes: the `bytes_alloc` its allocations report.
    pub fn slot_bytes(&self, class: u64) -> u64 {
        let known = self.classes.iter().find(|known| known.bytes == class);
        known.map_or(class, |known| known.slot_bytes)
    }

    /// The class whose objects occupy `slot_bytes`; the other way round.
    pub fn of_slot(&self, slot_bytes: u64) -> u64 {
        let known = self.classes.iter().find(|known| known.slot_bytes == slot_bytes);
        known.map_or(slot_bytes, |known| known.bytes)
    }

    /// [`name_of`] for an object that occupies `slot_bytes`, on this machine.
    pub fn name_of(&self, slot_bytes: u64, flavour: u8, call_site: Option<&str>) -> String {
        name_of(self.of_slot(slot_bytes), flavour, call_site, &self.names)
    }
}

/// A size as cache names and people write it: `512`, `1k`, `2M`. Bytes; `None` for 0 and nonsense.
pub fn parse_size(text: &str) -> Option<u64> {
    let (digits, unit) = match text.as_bytes().last()? {
        b'k' | b'K' => (&text[..text.len() - 1], 1 << 10),
        b'm' | b'M' => (&text[..text.len() - 1], 1 << 20),
        _ => (text, 1),
    };
    // `parse` alone would accept a sign.
    if !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(unit).filter(|&bytes| bytes > 0)
}

/// The class that a cache serves, bytes, by its name: any family of kmalloc or the bucket caches.
pub fn size_in_name(name: &str) -> Option<u64> {
    let (family, size) = name.rsplit_once('-')?;
    let known = matches!(
        family,
        "kmalloc"
            | "kmalloc-cg"
            | "kmalloc-rcl"
            | "kmalloc-no-objext"
            | "dma-kmalloc"
            | "msg_msg"
            | "memdup_user"
    );
    if known || is_random_copy(family) { parse_size(size) } else { None }
}

/// The cache for a class and flavour, as kernels since 5.14 name it: `kmalloc-cg-1k`.
pub fn cache_name(size: u64, flavour: u8) -> String {
    format!("{}-{}", family(flavour), short_size(size))
}

/// The cache that served an allocation, as far as it can be told from outside.
///
/// `size` is the class in bytes, `flavour` one of [`kleak_common::flavour`], `call_site` the
/// function that called the allocator, `existing` the names in slabinfo (may be empty).
///
/// - The bucket caches of 6.12 are chosen by call site.
/// - A flavour without a cache of its own is served by the plain one: before 5.14, with
///   `cgroup.memory=nokmem`, or without `CONFIG_ZONE_DMA`.
/// - What no cache serves came from the page allocator, and is called `kmalloc-large-16k`.
///
/// With `CONFIG_RANDOM_KMALLOC_CACHES` the plain name stands for all copies, since the copy is
/// not derivable; the analysis adds their growth up.
pub fn name_of(
    size: u64,
    flavour: u8,
    call_site: Option<&str>,
    existing: &HashSet<String>,
) -> String {
    if flavour == flavour::NORMAL
        && let Some(bucket) = call_site.and_then(bucket)
    {
        let name = format!("{bucket}-{}", short_size(size));
        if existing.contains(&name) {
            return name;
        }
    }
    let (own, plain) = (family(flavour), family(flavour::NORMAL));
    let candidates = [
        format!("{own}-{}", short_size(size)),
        format!("{own}-{size}"),
        format!("{plain}-{}", short_size(size)),
        format!("{plain}-{size}"),
    ];
    for name in &candidates {
        if existing.contains(name) {
            return name.clone();
        }
    }
    let [likely, ..] = candidates;
    if size > STANDARD[STANDARD.len() - 1] {
        format!("kmalloc-large-{}", short_size(size))
    } else {
        likely
    }
}

/// The bucket family (6.12, `CONFIG_SLAB_BUCKETS`) that a call site allocates from, when its own
/// name settles it.
///
/// - `alloc_msg` (`ipc/msgutil.c`, usually inlined into `load_msg`) takes the message itself with
///   `kmem_buckets_alloc(msg_buckets, …, GFP_KERNEL)`. Its further segments are
///   `kmalloc(…, GFP_KERNEL_ACCOUNT)`, of the accounted flavour, for which this is not asked.
/// - `memdup_user` (`mm/util.c`) allocates with `_track_caller`, so the recorded call site is its
///   *caller*, and cannot be told from the caller's own kmallocs. Of its callers only
///   `strndup_user` allocates nothing else.
/// - `vmemdup_user` is recorded where `__kvmalloc_node()` passes its caller on (not in 6.12, where
///   the call site is `__kvmalloc_node_noprof` itself), and allocates nothing else.
/// - `memdup_user_nul` is left out: in 6.12 it is a plain `kmalloc_track_caller()`.
fn bucket(call_site: &str) -> Option<&'static str> {
    match function_name(call_site) {
        "load_msg" | "alloc_msg" => Some("msg_msg"),
        "memdup_user" | "vmemdup_user" | "strndup_user" => Some("memdup_user"),
        _ => None,
    }
}

/// A symbol without offset, module and the suffixes of compiler-made copies: `load_msg` of
/// `load_msg.isra.0+0x5b/0x2a0`.
fn function_name(symbol: &str) -> &str {
    let symbol = symbol.trim();
    let end = symbol.find(['+', '.', ' ']).unwrap_or(symbol.len());
    &symbol[..end]
}

fn family(flavour: u8) -> &'static str {
    match flavour {
        flavour::ACCOUNT => "kmalloc-cg",
        flavour::RECLAIMABLE => "kmalloc-rcl",
        flavour::DMA => "dma-kmalloc",
        _ => "kmalloc",
    }
}

/// The class of a cache named `kmalloc-N`, and of no other family.
fn plain_class(name: &str) -> Option<u64> {
    parse_size(name.strip_prefix("kmalloc-")?)
}

/// Whether a family is one of the copies of plain kmalloc: `kmalloc-rnd-07`.
fn is_random_copy(family: &str) -> bool {
    let number =
        family.strip_prefix("kmalloc-rnd-").or_else(|| family.strip_prefix("kmalloc-part-"));
    number.is_some_and(|number| number.len() == 2 && number.bytes().all(|b| b.is_ascii_digit()))
}

/// A size as the kernel puts it into names: `512`, `1k`, `2M`.
fn short_size(bytes: u64) -> String {
    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;
    if bytes >= MIB && bytes.is_multiple_of(MIB) {
        format!("{}M", bytes / MIB)
    } else if bytes >= KIB && bytes.is_multiple_of(KIB) {
        format!("{}k", bytes / KIB)
    } else {
        bytes.to_string()
    }
}

/// Names in `/sys/kernel/slab`, which everybody may list.
fn sysfs_names(host: &Host) -> Result<Vec<String>> {
    let path = host.sys("kernel/slab");
    let failed = |cause| HostError::Read { path: path.clone(), cause };
    let entries = fs::read_dir(&path).map_err(failed)?;
    Ok(entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(list: &[&str]) -> HashSet<String> {
        list.iter().map(|&name| name.to_owned()).collect()
    }

    /// A kernel of 6.12 or later with bucket caches.
    fn modern() -> HashSet<String> {
        let families =
            ["kmalloc", "kmalloc-cg", "kmalloc-rcl", "dma-kmalloc", "msg_msg", "memdup_user"];
        families
            .iter()
            .flat_map(|family| STANDARD.map(|size| format!("{family}-{}", short_size(size))))
            .collect()
    }

    #[test]
    fn sizes_as_names_write_them() {
        assert_eq!(parse_size("512"), Some(512));
        assert_eq!(parse_size("1k"), Some(1024));
        assert_eq!(parse_size("8K"), Some(8192));
        assert_eq!(parse_size("4M"), Some(4 << 20));
        for nonsense in [
            "",
            "k",
            "0",
            "0k",
            "+8",
            "-8",
            "1.5k",
            "1kB",
            "cg-512",
            "99999999999999999999",
            "18446744073709551615M",
            "１",
        ] {
            assert_eq!(parse_size(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn sizes_in_names_of_every_family() {
        for (name, size) in [
            ("kmalloc-512", 512),
            ("kmalloc-1024", 1024),
            ("kmalloc-cg-1k", 1024),
            ("kmalloc-rcl-96", 96),
            ("dma-kmalloc-8k", 8192),
            ("kmalloc-rnd-15-512", 512),
            ("kmalloc-part-03-64", 64),
            ("kmalloc-no-objext-64", 64),
            ("msg_msg-512", 512),
            ("memdup_user-32", 32),
        ] {
            assert_eq!(size_in_name(name), Some(size), "{name}");
        }
        for name in
            ["bio-312", "dentry", "kmalloc-rnd-1-512", "kmalloc_buckets", "kmalloc-", "-512"]
        {
            assert_eq!(size_in_name(name), None, "{name}");
        }
    }

    #[test]
    fn requests_find_their_class() {
        let classes = Classes::default();
        for (bytes, class) in [
            (1, 8),
            (8, 8),
            (65, 96),
            (97, 128),
            (129, 192),
            (500, 512),
            (512, 512),
            (513, 1024),
            (8192, 8192),
            (8193, 16_384),
            (70_000, 131_072),
            (4 << 20, 4 << 20),
        ] {
            assert_eq!(classes.class_for(bytes), Some(class), "{bytes}");
        }
        assert_eq!(classes.class_for(0), None);
        assert_eq!(classes.class_for((4 << 20) + 1), None);
    }

    #[test]
    fn classes_are_learned_from_the_machine() {
        // arm64 before 6.5: no class below 128 and no 192.
        let sizes = ["128", "256", "512", "1k", "2k", "4k", "8k"];
        let arm = Classes::from_names(sizes.iter().map(|size| format!("kmalloc-{size}")));
        assert_eq!(arm.class_for(8), Some(128));
        assert_eq!(arm.class_for(192), Some(256));
        // 64 KiB pages: caches up to 128 KiB.
        let big = Classes::from_names(modern().into_iter().chain(["kmalloc-128k".to_owned()]));
        assert_eq!(big.class_for(100_000), Some(128 << 10));
    }

    #[test]
    fn an_excerpt_of_slabinfo_is_completed() {
        let excerpt = Classes::from_names(["kmalloc-512".to_owned(), "kmalloc-64".to_owned()]);
        assert_eq!(excerpt.sizes().collect::<Vec<_>>(), STANDARD);
        assert_eq!(excerpt.names().len(), 2);
    }

    #[test]
    fn slab_debugging_makes_slots_larger_than_classes() {
        let caches: Vec<SlabCache> = STANDARD
            .iter()
            .map(|&size| SlabCache {
                name: cache_name(size, flavour::NORMAL),
                object_size: size + 384,
                ..SlabCache::default()
            })
            .collect();
        let classes = Classes::from_slabinfo(&caches);
        assert_eq!(classes.class_for(500), Some(512));
        assert_eq!(classes.slot_bytes(512), 896);
        assert_eq!(classes.of_slot(896), 512);
        assert_eq!(classes.name_of(896, flavour::NORMAL, None), "kmalloc-512");
        assert_eq!(classes.of_slot(512), 128);
        assert_eq!(Classes::default().of_slot(512), 512);
    }

    #[test]
    fn names_by_flavour() {
        assert_eq!(cache_name(512, flavour::NORMAL), "kmalloc-512");
        assert_eq!(cache_name(512, flavour::ACCOUNT), "kmalloc-cg-512");
        assert_eq!(cache_name(512, flavour::RECLAIMABLE), "kmalloc-rcl-512");
        assert_eq!(cache_name(512, flavour::DMA), "dma-kmalloc-512");
        assert_eq!(cache_name(1024, flavour::ACCOUNT), "kmalloc-cg-1k");
        assert_eq!(cache_name(96, 200), "kmalloc-96");
        assert_eq!(cache_name(2 << 20, flavour::NORMAL), "kmalloc-2M");
    }

    #[test]
    fn messages_come_from_their_bucket_where_there_is_one() {
        let modern = modern();
        for site in [
            "load_msg",
            "alloc_msg",
            "load_msg.isra.0",
            "alloc_msg.constprop.0+0x3f/0x90",
            "load_msg+0x5b",
        ] {
            assert_eq!(name_of(512, flavour::NORMAL, Some(site), &modern), "msg_msg-512", "{site}");
        }
        // The further segments of a long message.
        assert_eq!(name_of(512, flavour::ACCOUNT, Some("load_msg"), &modern), "kmalloc-cg-512");
        let older = names(&["kmalloc-512", "kmalloc-cg-512"]);
        assert_eq!(name_of(512, flavour::ACCOUNT, Some("load_msg"), &older), "kmalloc-cg-512");
        assert_eq!(name_of(512, flavour::NORMAL, Some("load_msg"), &older), "kmalloc-512");
    }

    #[test]
    fn only_certain_call_sites_are_memdup_user() {
        let modern = modern();
        for site in ["strndup_user", "vmemdup_user+0x12/0x80"] {
            assert_eq!(name_of(512, flavour::NORMAL, Some(site), &modern), "memdup_user-512");
        }
        for site in ["memdup_user_nul", "__kvmalloc_node_noprof", "key_alloc", "load_msgs", ""] {
            assert_eq!(name_of(512, flavour::NORMAL, Some(site), &modern), "kmalloc-512", "{site}");
        }
    }

    #[test]
    fn a_flavour_without_a_cache_is_served_by_the_plain_one() {
        let old = names(&["kmalloc-512", "kmalloc-1024", "dma-kmalloc-512"]);
        assert_eq!(name_of(512, flavour::ACCOUNT, None, &old), "kmalloc-512");
        assert_eq!(name_of(512, flavour::DMA, None, &old), "dma-kmalloc-512");
        assert_eq!(name_of(1024, flavour::RECLAIMABLE, None, &old), "kmalloc-1024");
        // Nothing is known: the flags decide.
        assert_eq!(name_of(512, flavour::ACCOUNT, None, &HashSet::new()), "kmalloc-cg-512");
    }

    #[test]
    fn large_allocations_have_no_cache() {
        assert_eq!(name_of(16_384, flavour::NORMAL, None, &modern()), "kmalloc-large-16k");
        let pages_of_64k = names(&["kmalloc-16k"]);
        assert_eq!(name_of(16_384, flavour::ACCOUNT, None, &pages_of_64k), "kmalloc-16k");
    }

    #[test]
    fn sysfs_stands_in_for_slabinfo() {
        let tree = tempfile::tempdir().unwrap();
        let host = Host::new(tree.path());
        assert!(Classes::read(&host).unwrap_err().to_string().contains("slabinfo"));
        fs::create_dir_all(host.sys("kernel/slab/kmalloc-cg-512")).unwrap();
        let classes = Classes::read(&host).unwrap();
        assert!(classes.names().contains("kmalloc-cg-512"));
        assert_eq!(classes.class_for(500), Some(512));
    }

    proptest! {
        #[test]
        fn never_panics(name in ".{0,40}", other in ".{0,40}", size: u64, flavour: u8) {
            let existing = HashSet::from([other.clone()]);
            parse_size(&name);
            size_in_name(&name);
            name_of(size, flavour, Some(&name), &existing);
            Classes::from_names([name, other]).class_for(size);
        }

        #[test]
        fn a_class_is_enough_and_is_its_own_class(bytes in 1..=LARGEST_BYTES) {
            let classes = Classes::default();
            let class = classes.class_for(bytes).unwrap();
            prop_assert!(class >= bytes && class < bytes * 8 + 8);
            prop_assert_eq!(classes.class_for(class), Some(class));
        }

        #[test]
        fn names_and_sizes_round_trip(power in 3..23_u32, flavour in 0..4_u8) {
            prop_assert_eq!(size_in_name(&cache_name(1 << power, flavour)), Some(1 << power));
        }
    }
}

//! `/proc/meminfo`.

use super::{Host, Result, malformed, read_text};

/// Defines [`MemInfo`] and the table from the kernel's keys to its fields in one place, so that
/// the two cannot drift apart.
macro_rules! mem_info {
    ($($(#[$doc:meta])* $field:ident = $key:literal),* $(,)?) => {
        /// Memory of the machine, all in bytes. A field is `None` where this kernel does not have
        /// it (`MemAvailable` came with 3.14, `Percpu` with 4.19, `KReclaimable` with 4.20).
        ///
        /// Source: `meminfo_proc_show()` in `fs/proc/meminfo.c`.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct MemInfo { $($(#[$doc])* pub $field: Option<u64>,)* }

        impl MemInfo {
            fn set(&mut self, key: &str, bytes: u64) {
                match key {
                    $($key => self.$field = Some(bytes),)*
                    _ => {}
                }
            }
        }
    };
}

mem_info! {
    /// Usable memory: what the kernel manages.
    mem_total = "MemTotal",
    /// Free pages.
    mem_free = "MemFree",
    /// What can be had without swapping, as the kernel estimates it.
    mem_available = "MemAvailable",
    /// Cache of block devices.
    buffers = "Buffers",
    /// Page cache, tmpfs included.
    cached = "Cached",
    /// Swapped out and still (or again) in memory.
    swap_cached = "SwapCached",
    /// Size of swap.
    swap_total = "SwapTotal",
    /// Unused swap.
    swap_free = "SwapFree",
    /// Anonymous pages used recently.
    active_anon = "Active(anon)",
    /// Anonymous pages not used recently.
    inactive_anon = "Inactive(anon)",
    /// File pages used recently.
    active_file = "Active(file)",
    /// File pages not used recently: what kubelet subtracts from usage.
    inactive_file = "Inactive(file)",
    /// Pages that cannot be reclaimed.
    unevictable = "Unevictable",
    /// Locked by `mlock`.
    mlocked = "Mlocked",
    /// Mapped anonymous pages: heaps and stacks of processes.
    anon_pages = "AnonPages",
    /// Mapped file pages.
    mapped = "Mapped",
    /// tmpfs and shared memory.
    shmem = "Shmem",
    /// Reclaimable slab and other reclaimable kernel memory.
    kernel_reclaimable = "KReclaimable",
    /// All slab.
    slab = "Slab",
    /// Slab that shrinkers can free.
    slab_reclaimable = "SReclaimable",
    /// Slab that they cannot.
    slab_unreclaimable = "SUnreclaim",
    /// Kernel stacks of all threads.
    kernel_stack = "KernelStack",
    /// Page tables of processes.
    page_tables = "PageTables",
    /// Page tables of virtual machines and the like.
    secondary_page_tables = "SecPageTables",
    /// vmalloc in use.
    vmalloc_used = "VmallocUsed",
    /// Per-CPU memory, all CPUs together.
    percpu = "Percpu",
    /// Withdrawn for memory errors.
    hardware_corrupted = "HardwareCorrupted",
    /// Transparent huge pages.
    anon_huge_pages = "AnonHugePages",
    /// Set aside for hugetlbfs, all sizes.
    hugetlb = "Hugetlb",
    /// Size of the default huge page.
    huge_page_size = "Hugepagesize",
    /// Huge pages of the default size that nobody uses; the kernel says how many.
    huge_pages_free = "HugePages_Free",
}

/// Reads `/proc/meminfo`.
///
/// # Errors
///
/// When it cannot be read, or holds no `MemTotal`, without which it is something else.
pub fn read(host: &Host) -> Result<MemInfo> {
    let path = host.proc("meminfo");
    let info = parse(&read_text(&path)?);
    if info.mem_total.is_none() {
        return Err(malformed(&path, "no MemTotal"));
    }
    Ok(info)
}

/// Parses the text of `/proc/meminfo`. Lines that are not `Key: number kB` are passed over:
/// counts without a unit (`HugePages_Total`) are not bytes, but for `HugePages_Free`, which are so many
/// huge pages.
pub fn parse(text: &str) -> MemInfo {
    let mut info = MemInfo::default();
    let mut free_huge_pages = None;
    for line in text.lines() {
        let Some((key, value)) = line.split_once(':') else {
            continue;
        };
        let mut words = value.split_ascii_whitespace();
        let number = words.next().and_then(|word| word.parse::<u64>().ok());
        if let (Some(number), Some("kB"), None) = (number, words.next(), words.next())
            && let Some(bytes) = number.checked_mul(1024)
        {
            info.set(key.trim(), bytes);
        } else if key == "HugePages_Free" {
            free_huge_pages = number;
        }
    }
    info.huge_pages_free =
        free_huge_pages.zip(info.huge_page_size).and_then(|(pages, size)| pages.checked_mul(size));
    info
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NODE: &str = "\
MemTotal:       65833796 kB
MemFree:          425000 kB
MemAvailable:    4926556 kB
Active(anon):     298556 kB
Inactive(file):  1096356 kB
AnonPages:        570244 kB
KReclaimable:    3389184 kB
Slab:           61672216 kB
SReclaimable:    3389184 kB
SUnreclaim:     58283032 kB
KernelStack:        9024 kB
VmallocTotal:   34359738367 kB
Percpu:           981248 kB
HugePages_Total:       2
Hugepagesize:       2048 kB
";

    #[test]
    fn a_node_full_of_slab() {
        let info = parse(NODE);
        assert_eq!(info.mem_total, Some(65_833_796 * 1024));
        assert_eq!(info.mem_available, Some(4_926_556 * 1024));
        assert_eq!(info.slab, Some(61_672_216 * 1024));
        assert_eq!(info.slab_unreclaimable, Some(58_283_032 * 1024));
        assert_eq!(info.inactive_file, Some(1_096_356 * 1024));
        assert_eq!(info.kernel_stack, Some(9024 * 1024));
        assert_eq!(info.percpu, Some(981_248 * 1024));
        assert_eq!(info.page_tables, None);
        assert_eq!(info.huge_pages_free, None);
        let free = parse("HugePages_Free:        3\nHugepagesize:       2048 kB\n");
        assert_eq!(free.huge_pages_free, Some(6 << 20));
    }

    #[test]
    fn malformed_lines_leave_their_field_unknown() {
        let info = parse(
            "MemTotal: many kB\nSlab 12 kB\nPercpu: 1\nShmem: 18446744073709551615 kB\n:\n\n",
        );
        assert_eq!(info, MemInfo::default());
    }

    #[test]
    fn a_tree_without_meminfo_is_an_error() {
        let tree = tempfile::tempdir().unwrap();
        let host = Host::new(tree.path());
        assert!(read(&host).unwrap_err().is_missing());
        std::fs::create_dir(host.proc("")).unwrap();
        std::fs::write(host.proc("meminfo"), "hello\n").unwrap();
        assert!(read(&host).unwrap_err().to_string().contains("MemTotal"));
        std::fs::write(host.proc("meminfo"), NODE).unwrap();
        assert_eq!(read(&host).unwrap(), parse(NODE));
    }

    proptest! {
        #[test]
        fn never_panics(text in "(?s).{0,300}") {
            parse(&text);
        }

        #[test]
        fn any_number_round_trips(kilobytes in 0..u64::MAX / 1024) {
            let info = parse(&format!("Slab: {kilobytes:>10} kB\n"));
            prop_assert_eq!(info.slab, Some(kilobytes * 1024));
        }
    }
}

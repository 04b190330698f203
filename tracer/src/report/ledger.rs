//! Books of different allocators. What one allocator makes of its memory is memory of the other:
//! slab caches and per-CPU chunks consist of pages. So nothing is ever added up over two of them.

use std::collections::BTreeMap;
use std::fmt;

use kleak_common::{kind, origin};

use super::human;

/// Whose books.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Ledger {
    /// The slab allocator's: kmalloc and named caches.
    #[default]
    Slab,
    /// The page allocator's.
    Pages,
    /// The per-CPU allocator's.
    PerCpu,
}

impl Ledger {
    /// Of an object of that [`kind`].
    #[must_use]
    pub const fn of_kind(kind: u8) -> Self {
        match kind {
            kind::PAGE => Self::Pages,
            kind::PERCPU => Self::PerCpu,
            _ => Self::Slab,
        }
    }

    /// By the name of a row's cache: [`page_cache`] and [`percpu_cache`] make names that no slab
    /// cache has, as those hold no blank.
    #[must_use]
    pub fn of_cache(cache: &str) -> Self {
        if cache.starts_with(PAGE) {
            Self::Pages
        } else if cache.starts_with(PERCPU) {
            Self::PerCpu
        } else {
            Self::Slab
        }
    }

    /// What it counts, for a sentence.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Slab => "slab memory",
            Self::Pages => "pages",
            Self::PerCpu => "per-CPU memory",
        }
    }
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

const PAGE: &str = "page order-";
const PERCPU: &str = "percpu ";

/// What blocks of pages are called in the place of a cache: `page order-0 unmovable`, with the
/// migrate types of `/proc/pagetypeinfo`, and who made something else of them: `(slab)`.
#[must_use]
pub fn page_cache(order: u32, migrate_type: u8, origin: u8) -> String {
    // `enum migratetype` and `migratetype_names` (include/linux/mmzone.h, mm/page_alloc.c), 4.4 to
    // 7.2; an allocation asks for one of the first three.
    let kind = match migrate_type {
        0 => "unmovable",
        1 => "movable",
        2 => "reclaimable",
        _ => "other",
    };
    let made = match origin {
        origin::SLAB => " (slab)",
        origin::LARGE_KMALLOC => " (large kmalloc)",
        origin::VMALLOC => " (vmalloc)",
        origin::PERCPU => " (percpu)",
        _ => "",
    };
    format!("{PAGE}{order} {kind}{made}")
}

/// What per-CPU memory is called: `percpu 64`, by the bytes on each CPU.
#[must_use]
pub fn percpu_cache(bytes: u64) -> String {
    format!("{PERCPU}{bytes}")
}

/// Whose books say more of pages by this name: those of the allocator that took them.
#[must_use]
pub fn made_into(cache: &str) -> Option<Ledger> {
    if Ledger::of_cache(cache) != Ledger::Pages {
        None
    } else if cache.ends_with(" (slab)") || cache.ends_with(" (large kmalloc)") {
        Some(Ledger::Slab)
    } else if cache.ends_with(" (percpu)") {
        Some(Ledger::PerCpu)
    } else {
        None
    }
}

/// Sums of bytes by ledger: what a reader may be shown of several rows.
#[must_use]
pub fn sums<'a>(rows: impl Iterator<Item = (&'a str, u64)>) -> BTreeMap<Ledger, u64> {
    let mut sums: BTreeMap<Ledger, u64> = BTreeMap::new();
    for (cache, bytes) in rows {
        let sum = sums.entry(Ledger::of_cache(cache)).or_default();
        *sum = sum.saturating_add(bytes);
    }
    sums
}

/// The same in words: `3.0 MiB`, or `3.0 MiB of slab memory and 9.0 MiB of pages`.
#[must_use]
pub fn words(sums: &BTreeMap<Ledger, u64>) -> String {
    if sums.len() <= 1 {
        return human::bytes(sums.values().sum());
    }
    let each: Vec<String> = sums
        .iter()
        .map(|(ledger, bytes)| format!("{} of {ledger}", human::bytes(*bytes)))
        .collect();
    each.join(" and ")
}

/// What a reader of a verdict has to know of pages by this name, beside who took them.
#[must_use]
pub fn remark(cache: &str) -> Option<&'static str> {
    if Ledger::of_cache(cache) != Ledger::Pages {
        return None;
    }
    if cache.contains(" movable") {
        Some("these are movable pages, of processes and of the page cache, not kernel objects")
    } else {
        match made_into(cache)? {
            Ledger::Slab => {
                Some("these hold slab objects: --kind kmalloc,cache tells whose those are")
            }
            Ledger::PerCpu => Some("these hold per-CPU memory: --kind percpu tells whose that is"),
            Ledger::Pages => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Ledger, page_cache, percpu_cache, remark, sums, words};
    use kleak_common::origin;

    #[test]
    fn names_tell_the_ledger() {
        assert_eq!(page_cache(0, 0, origin::DIRECT), "page order-0 unmovable");
        assert_eq!(page_cache(9, 1, origin::UNKNOWN), "page order-9 movable");
        assert_eq!(page_cache(3, 2, origin::SLAB), "page order-3 reclaimable (slab)");
        assert_eq!(percpu_cache(64), "percpu 64");
        assert_eq!(Ledger::of_cache("page order-10 movable"), Ledger::Pages);
        assert_eq!(Ledger::of_cache("percpu 8"), Ledger::PerCpu);
        for slab in ["kmalloc-512", "dentry", "page", "percpu", "pages", "", "unknown"] {
            assert_eq!(Ledger::of_cache(slab), Ledger::Slab, "{slab}");
        }
    }

    #[test]
    fn nothing_is_added_up_over_two_ledgers() {
        let rows = [("kmalloc-512", 1024), ("page order-0 unmovable", 4096), ("dentry", 1024)];
        assert_eq!(words(&sums(rows.into_iter())), "2.0 KiB of slab memory and 4.0 KiB of pages");
        assert_eq!(words(&sums(rows.into_iter().take(1))), "1.0 KiB");
        assert_eq!(words(&sums([].into_iter())), "0 B");
    }

    #[test]
    fn what_is_not_the_kernel_s_own_is_said() {
        assert!(remark("page order-9 movable").is_some_and(|text| text.contains("not kernel")));
        assert!(
            remark("page order-1 unmovable (slab)").is_some_and(|t| t.contains("--kind kmalloc"))
        );
        assert_eq!(remark("page order-0 unmovable"), None);
        assert_eq!(remark("kmalloc-512"), None);
    }
}

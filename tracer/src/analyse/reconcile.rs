//! What the slab allocator itself says: whether its caches grew by as much as was traced.

use std::collections::{BTreeMap, BTreeSet};

use hashbrown::HashMap;

use super::facts::{Series, SiteView};
use super::{Evidence, SlabCount, growth, sentence};
use crate::report::{CacheRow, ledger::Ledger};

/// Caches that the kernel splits a kmalloc class into by call site (`SLAB_BUCKETS`, 6.12): the
/// tracepoint cannot tell them from the class.
const BUCKETS: [&str; 2] = ["msg_msg", "memdup_user"];

/// Traced growth over the kernel's that counts as agreement.
const AGREES: std::ops::RangeInclusive<f64> = 0.85..=1.2;

/// How traced growth and the kernel's own compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Agreement {
    /// The kernel has no count of this cache, or it could not be read.
    Unknown,
    /// Both are within the noise.
    TooSmall,
    /// They agree.
    Agrees,
    /// The cache grew by more than was traced.
    Short,
    /// It grew by somewhat less than was traced.
    Over,
    /// It grew by less than half: frees were missed, or as many older objects were freed.
    /// `significant`: it grew all the same, beyond the noise.
    Refuted { significant: bool },
}

/// A cache, traced and by the kernel's count.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Check {
    /// Whose books it is in: the slab allocator's are kept by cache, the page allocator's by no use
    /// of pages at all, the per-CPU allocator's in one sum.
    pub ledger: Ledger,
    /// Outstanding at any age.
    pub held: u64,
    /// Of those, at sites whose frees are not seen.
    pub unfollowed: u64,
    /// Allocated in the window.
    pub allocated: u64,
    /// Bytes an object occupies.
    pub size: u64,
    /// All that is outstanding of it, for how far it is off where it is estimated.
    pub series: Series,
    /// By the kernel's count.
    pub growth: Option<i64>,
    /// Objects from before the window that were freed in it, where that is known.
    pub older: Option<u64>,
    /// Traced over the kernel's, where that is above the noise.
    pub explained: Option<f64>,
    /// What follows.
    pub agreement: Agreement,
    /// Compared over all caches of its size class, because only so do they agree.
    pub by_class: bool,
    /// Compared without the sites whose frees are not seen, because only so do they agree.
    pub excluding: bool,
}

/// Every cache that was allocated from, all owners together.
pub(super) fn check(evidence: &Evidence, sites: &[SiteView]) -> BTreeMap<String, Check> {
    let mut checks: BTreeMap<String, Check> = BTreeMap::new();
    for site in sites {
        let check = checks.entry(site.cache.clone()).or_insert(Check {
            ledger: site.ledger,
            held: 0,
            unfollowed: 0,
            allocated: 0,
            size: 0,
            series: Series::default(),
            growth: None,
            older: None,
            explained: None,
            agreement: Agreement::Unknown,
            by_class: false,
            excluding: false,
        });
        check.held = check.held.saturating_add(site.series.held);
        if site.unfollowed.is_some() {
            check.unfollowed = check.unfollowed.saturating_add(site.series.held);
        }
        check.allocated = check.allocated.saturating_add(site.series.allocated);
        check.size = check.size.max(site.series.size);
        check.series.objects = check.series.objects.saturating_add(site.series.objects);
        check.series.scale = check.series.scale.max(site.series.scale);
        check.series.by_block |= site.series.by_block;
    }
    let mut by_class: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for (name, check) in &checks {
        if let Some(class) = class(name) {
            let (held, unfollowed) = by_class.entry(class.to_owned()).or_default();
            *held = held.saturating_add(check.held);
            *unfollowed = unfollowed.saturating_add(check.unfollowed);
        }
    }
    let percpu = percpu(evidence, sites);
    for (name, check) in &mut checks {
        match check.ledger {
            Ledger::Slab => {}
            Ledger::Pages => continue,
            Ledger::PerCpu => {
                (check.explained, check.agreement) = percpu;
                continue;
            }
        }
        // Two standard errors of what is estimated are noise too.
        let noise = check.series.standard_error().unwrap_or(0.0) * 2.0;
        let noise = i64::try_from(growth::whole(noise)).unwrap_or(i64::MAX);
        let kernel = |names: &BTreeSet<&str>| {
            let mut kernel = Kernel::of(evidence, names, check.size)?;
            kernel.floor = kernel.floor.saturating_add(noise);
            Some(kernel)
        };
        let own = kernel(&aliases(name, evidence));
        if let Some(own) = &own {
            check.growth = Some(own.growth);
            check.older = own.older;
            check.explained = own.explained(check.held);
            check.agreement = own.agreement(check.held);
        }
        if matches!(check.agreement, Agreement::Agrees | Agreement::TooSmall) {
            continue;
        }
        let all = class(name).and_then(|class| {
            let all = kernel(&class_names(class, evidence))?;
            let (held, unfollowed) = by_class.get(class).copied()?;
            Some((all, held, unfollowed))
        });
        if let Some((all, held, _)) = &all
            && all.agreement(*held) == Agreement::Agrees
        {
            check.agreement = Agreement::Agrees;
            check.explained = all.explained(*held);
            check.by_class = true;
            continue;
        }
        // What was freed unseen is not there, whatever was traced.
        let without = |held: u64, unfollowed: u64| held.saturating_sub(unfollowed);
        let fits = |kernel: &Kernel, held: u64| {
            matches!(kernel.agreement(held), Agreement::Agrees | Agreement::TooSmall)
        };
        let followed = without(check.held, check.unfollowed);
        if check.unfollowed > 0
            && let Some(own) = own.as_ref().filter(|own| fits(own, followed))
        {
            check.agreement = Agreement::Agrees;
            check.explained = own.explained(followed);
            check.excluding = true;
        } else if let Some((all, held, unfollowed)) = &all
            && *unfollowed > 0
            && fits(all, without(*held, *unfollowed))
        {
            check.agreement = Agreement::Agrees;
            check.explained = all.explained(without(*held, *unfollowed));
            (check.by_class, check.excluding) = (true, true);
        }
    }
    checks
}

/// Pages that the per-CPU allocator keeps populated beyond what is in use, for each CPU
/// (`PCPU_EMPTY_POP_PAGES_HIGH`, mm/percpu.c, 4.14 to 7.2), and as many begun and not full.
const PERCPU_SPARE_PAGES: i64 = 8;

/// How all per-CPU memory compares with `Percpu` of `/proc/meminfo`, which counts whole populated
/// pages: what fits into them makes it grow by nothing, so it never refutes what was traced.
fn percpu(evidence: &Evidence, sites: &[SiteView]) -> (Option<f64>, Agreement) {
    let Some(growth) = evidence.percpu_growth_bytes else { return (None, Agreement::Unknown) };
    let held =
        sites.iter().filter(|site| site.ledger == Ledger::PerCpu).fold(0_u64, |sum, site| {
            sum.saturating_add(site.series.held.saturating_mul(site.series.size))
        });
    let floor = PERCPU_SPARE_PAGES * 4096 * i64::from(evidence.cpus.max(1));
    let kernel = Kernel { growth, older: None, floor, queued: 0 };
    let agreement = match kernel.agreement(held) {
        Agreement::Refuted { .. } => Agreement::Over,
        other => other,
    };
    (kernel.explained(held), agreement)
}

/// Rows of the report, largest residue first: what the owners shown hold, beside how far all owners
/// together explain what the kernel counts.
pub(super) fn rows(
    evidence: &Evidence,
    checks: &BTreeMap<String, Check>,
    shown: &[&SiteView],
) -> Vec<CacheRow> {
    let mut held: BTreeMap<&str, Series> = BTreeMap::new();
    for site in shown {
        held.entry(&site.cache).or_default().add(&site.series);
    }
    let mut rows: Vec<CacheRow> = held
        .into_iter()
        .filter_map(|(name, series)| {
            let check = checks.get(name)?;
            Some(CacheRow {
                name: name.to_owned(),
                aliases: evidence.aliases.get(name).cloned().unwrap_or_default(),
                object_size_bytes: check.size,
                outstanding_objects: series.objects,
                outstanding_bytes: series.bytes,
                slabinfo_growth_objects: check.growth,
                older_frees_objects: check.older,
                standard_error_objects: series.standard_error().map(growth::whole),
                estimated: series.estimated(),
                explained: check.explained,
            })
        })
        .collect();
    rows.sort_by(|a, b| {
        let size = |row: &CacheRow| (row.outstanding_bytes, row.outstanding_objects);
        size(b).cmp(&size(a))
    });
    rows
}

/// What the comparison says that a reader has to know.
pub(super) fn notes(checks: &BTreeMap<String, Check>) -> Vec<String> {
    let mut notes = Vec::new();
    let percpu = checks.values().find(|check| check.ledger == Ledger::PerCpu);
    match percpu.map(|check| check.agreement) {
        Some(Agreement::Short) => notes.push(
            "Percpu of /proc/meminfo grew by more than the per-CPU memory that was traced: it counts \
             whole pages, of which the rest may be free."
                .to_owned(),
        ),
        Some(Agreement::Over) => notes.push(
            "Percpu of /proc/meminfo grew by less than the per-CPU memory that was traced: there was \
             room in pages that it counted before."
                .to_owned(),
        ),
        _ => {}
    }
    for (name, check) in checks.iter().filter(|(_, check)| check.ledger == Ledger::Slab) {
        let (held, growth) = (sentence::count(check.held), sentence::signed(check.growth));
        if check.by_class {
            notes.push(format!(
                "{name} agrees with slabinfo only together with the other caches of its size: the \
                 kernel serves some callers of kmalloc from caches of their own."
            ));
            continue;
        }
        match check.agreement {
            Agreement::Refuted { .. } => notes.push(format!(
                "{name}: {held} objects look outstanding, but by slabinfo the cache grew by \
                 {growth}{}",
                match check.older {
                    Some(older) => format!(
                        ", and {} from before the window were freed. Frees were missed, as by RCU \
                         and in bulk: they show in no tracepoint.",
                        sentence::count(older)
                    ),
                    None => ". Either frees were missed (by RCU and in bulk they show in no \
                             tracepoint), or as many objects from before the window were freed."
                        .to_owned(),
                }
            )),
            Agreement::Short => notes.push(format!(
                "{name}: by slabinfo the cache grew by {growth} objects, of which {held} were \
                 traced. The rest was allocated in bulk, was not tracked, waits for RCU to free it, \
                 or lies in the allocator's own lists."
            )),
            Agreement::Over => notes.push(format!(
                "{name}: {held} objects look outstanding, by slabinfo the cache grew by {growth}."
            )),
            Agreement::Unknown | Agreement::TooSmall | Agreement::Agrees => {}
        }
    }
    notes
}

/// Growth of some caches by the kernel's count.
struct Kernel {
    growth: i64,
    /// Objects from before the window freed in it: without those frees it would have grown by as many
    /// more.
    older: Option<u64>,
    /// Objects in lists of the CPUs that slabinfo counts as in use.
    floor: i64,
    /// Objects that slabinfo counts and that wait for RCU to free them, at most.
    queued: i64,
}

impl Kernel {
    fn of(evidence: &Evidence, names: &BTreeSet<&str>, size: u64) -> Option<Self> {
        let (before, after) = (&evidence.slab_before, &evidence.slab_after);
        if names.is_empty() || before.is_empty() || after.is_empty() {
            return None;
        }
        // Frees of what was not tracked count among them, and those of the tracked do not.
        let known = evidence.older_frees.as_ref().filter(|_| evidence.loss.untracked_objects == 0);
        let older = |name: &&str| known.and_then(|known| known.get(*name)).copied().unwrap_or(0);
        let older = known.map(|_| names.iter().map(older).fold(0, u64::saturating_add));
        let queued = |name: &&str| evidence.queued.get(*name).copied().unwrap_or(0);
        let queued = names.iter().map(queued).fold(0, u64::saturating_add);
        let queued = i64::try_from(queued).unwrap_or(i64::MAX);
        let mut kernel = Self { growth: 0, older, floor: 0, queued };
        for name in names {
            let count = |map: &HashMap<String, SlabCount>| map.get(*name).copied();
            let (was, is) = (count(before).unwrap_or_default(), count(after).unwrap_or_default());
            let grown = i128::from(is.active_objects) - i128::from(was.active_objects);
            let grown = i64::try_from(grown).unwrap_or(i64::MAX);
            kernel.growth = kernel.growth.saturating_add(grown);
            let floor = floor(evidence.cpus, is.objects_per_slab.max(was.objects_per_slab), size);
            kernel.floor = kernel.floor.saturating_add(floor);
        }
        Some(kernel)
    }

    /// By how much the cache would have grown had nothing older been freed: what was traced has to
    /// account for that.
    fn due(&self) -> i64 {
        self.growth.saturating_add_unsigned(self.older.unwrap_or(0))
    }

    fn explained(&self, held: u64) -> Option<f64> {
        let noise = self.floor.saturating_add(self.queued);
        (self.due() > noise).then(|| held as f64 / self.due() as f64)
    }

    fn agreement(&self, held: u64) -> Agreement {
        let held = i64::try_from(held).unwrap_or(i64::MAX);
        let due = self.due();
        let off = due.saturating_sub(held);
        let slack = if off > 0 { self.floor.saturating_add(self.queued) } else { self.floor };
        let close = off.saturating_abs() <= slack;
        if held <= self.floor {
            return if off > slack { Agreement::Short } else { Agreement::TooSmall };
        }
        if close {
            return Agreement::Agrees;
        }
        if due < held / 2 {
            return Agreement::Refuted { significant: due > self.floor };
        }
        let explained = held as f64 / due as f64;
        if AGREES.contains(&explained) {
            Agreement::Agrees
        } else if off > 0 {
            Agreement::Short
        } else {
            Agreement::Over
        }
    }
}

/// How many objects slabinfo may count as in use that are not: on each CPU the slab it allocates
/// from, the one it frees to, and its list of partial slabs. That is as long as half-full slabs with so
/// many free objects would make it (`set_cpu_partial()` and `slub_set_cpu_partial()`, mm/slub.c, from
/// 5.16), and they may be emptier.
fn floor(cpus: u32, objects_per_slab: u64, size: u64) -> i64 {
    let partial: u64 = match size {
        4096.. => 6,
        1024.. => 24,
        256.. => 52,
        _ => 120,
    };
    let slabs = (2 * partial).div_ceil(objects_per_slab.max(1)).saturating_add(2);
    let each = objects_per_slab.saturating_mul(slabs);
    i64::try_from(each.saturating_mul(u64::from(cpus.max(1)))).unwrap_or(i64::MAX)
}

/// Names by which slabinfo knows a cache: its own, and for `kmalloc-512` also
/// `kmalloc-rnd-NN-512`, between which the kernel chooses by a secret.
fn aliases<'a>(cache: &'a str, evidence: &'a Evidence) -> BTreeSet<&'a str> {
    let class = cache.strip_prefix("kmalloc-").filter(|class| is_class(class));
    let alias = |name: &str| {
        name == cache
            || class.is_some_and(|class| {
                let random = name.strip_prefix("kmalloc-rnd-");
                random.and_then(|rest| rest.split_once('-')).is_some_and(|(_, of)| of == class)
            })
    };
    names(evidence).filter(|name| alias(name)).collect()
}

/// Every cache that serves a kmalloc class.
fn class_names<'a>(of: &str, evidence: &'a Evidence) -> BTreeSet<&'a str> {
    names(evidence).filter(|name| class(name) == Some(of)).collect()
}

fn names(evidence: &Evidence) -> impl Iterator<Item = &str> {
    evidence.slab_before.keys().chain(evidence.slab_after.keys()).map(String::as_str)
}

/// The size class, `512` or `1k`, of a cache that serves kmalloc.
fn class(cache: &str) -> Option<&str> {
    let (family, class) = cache.rsplit_once('-')?;
    let kmalloc = family == "kmalloc" || family.starts_with("kmalloc-") || family == "dma-kmalloc";
    (is_class(class) && (kmalloc || BUCKETS.contains(&family))).then_some(class)
}

fn is_class(class: &str) -> bool {
    let digits = class.strip_suffix(['k', 'M']).unwrap_or(class);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::{Agreement, Kernel, class, floor};

    #[test]
    fn caches_of_a_class_are_known_by_name() {
        for name in [
            "kmalloc-512",
            "kmalloc-cg-512",
            "kmalloc-rcl-512",
            "kmalloc-rnd-07-512",
            "dma-kmalloc-512",
            "msg_msg-512",
            "memdup_user-512",
            "kmalloc-no-objext-512",
        ] {
            assert_eq!(class(name), Some("512"), "{name}");
        }
        assert_eq!(class("kmalloc-cg-1k"), Some("1k"));
        for name in ["dentry", "biovec-128", "kmalloc-", "kmalloc-cg", "sgpool-8", ""] {
            assert_eq!(class(name), None, "{name}");
        }
    }

    #[test]
    fn the_floor_follows_what_cpus_keep_to_themselves() {
        assert_eq!(floor(2, 16, 512), 2 * (32 + 7 * 16));
        assert_eq!(floor(4, 8, 4096), 4 * (16 + 2 * 8));
        assert_eq!(floor(1, 32, 64), 64 + 8 * 32);
        assert_eq!(floor(u32::MAX, u64::MAX, 8), i64::MAX);
    }

    #[test]
    fn traced_and_slabinfo_compare() {
        let kernel = |growth| Kernel { growth, older: None, floor: 100, queued: 0 };
        assert_eq!(kernel(10_100).agreement(10_000), Agreement::Agrees);
        assert_eq!(kernel(30).agreement(50), Agreement::TooSmall);
        assert_eq!(kernel(30).explained(50), None);
        assert_eq!(kernel(150).agreement(200), Agreement::Agrees);
        assert_eq!(kernel(1000).agreement(50), Agreement::Short);
        assert_eq!(kernel(25_000).agreement(10_000), Agreement::Short);
        assert_eq!(kernel(7000).agreement(10_000), Agreement::Over);
        assert_eq!(kernel(5).agreement(1000), Agreement::Refuted { significant: false });
        assert_eq!(kernel(400).agreement(1000), Agreement::Refuted { significant: true });
        assert_eq!(kernel(-500).agreement(1000), Agreement::Refuted { significant: false });
        let turnover = Kernel { growth: -2000, older: Some(12_000), floor: 100, queued: 0 };
        assert_eq!(turnover.agreement(10_000), Agreement::Agrees);
        assert_eq!(turnover.explained(10_000), Some(1.0));
        let waiting = Kernel { growth: 1000, older: None, floor: 100, queued: 900 };
        assert_eq!(waiting.agreement(0), Agreement::TooSmall);
        assert_eq!(waiting.explained(0), None);
        assert_eq!(waiting.agreement(300), Agreement::Agrees);
        assert_eq!(waiting.agreement(2000), Agreement::Over);
        assert_eq!(kernel(i64::MIN).agreement(u64::MAX), Agreement::Refuted { significant: false });
    }
}

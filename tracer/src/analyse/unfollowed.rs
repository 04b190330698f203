//! Sites whose objects are freed by a path that this kernel does not show: what looks outstanding
//! there is no evidence of a leak by itself.
//!
//! Two signs. The function that allocates is known to have its objects freed by RCU or in bulk, and
//! function entries cannot be followed. Or, in any mode, addresses of the site were given out again
//! while they were held outstanding: somebody freed them unseen.

use std::collections::{BTreeMap, BTreeSet};

use super::facts::SiteView;
use super::reconcile::{Agreement, Check};
use super::sentence;
use crate::report::Mode;
use crate::snapshot::SiteFacts;

/// Unseen frees of a site from which they are taken for its habit, and not for one lost event.
const HABIT: u64 = 3;
/// One in so many of its objects, at least.
const ONE_IN: u64 = 100;
/// Notes of the kind, at most: the largest first.
const NOTES: usize = 5;

/// Functions, as call sites of the allocator, whose objects the kernel frees by `kfree_rcu()`, and
/// what they are. Prefixes of compiler-made copies (`.isra.0`) are cut before they are looked up.
/// Read in 5.10, 6.1, 6.12 and 7.2, each with the function that frees.
const BY_RCU: [(&str, &[&str]); 14] = [
    // fs/timerfd.c: timerfd_release()
    (
        "timer descriptors",
        &[
            "do_timerfd_create",
            "__do_sys_timerfd_create",
            "__se_sys_timerfd_create",
            "__x64_sys_timerfd_create",
            "__arm64_sys_timerfd_create",
        ],
    ),
    // fs/eventpoll.c: __ep_remove(), ep_free()
    (
        "epoll items",
        &["ep_insert", "do_epoll_ctl", "ep_alloc", "do_epoll_create", "__ep_eventpoll_poll"],
    ),
    // kernel/time/posix-timers.c: posix_timer_free(); k_itimer_rcu_free() before
    (
        "POSIX timers",
        &[
            "do_timer_create",
            "alloc_posix_timer",
            "__do_sys_timer_create",
            "__se_sys_timer_create",
            "__x64_sys_timer_create",
        ],
    ),
    // include/linux/posix_acl.h: posix_acl_release()
    (
        "access control lists",
        &["posix_acl_alloc", "posix_acl_clone", "posix_acl_from_xattr", "posix_acl_from_mode"],
    ),
    // net/ipv4/igmp.c: ip_ma_put(), ip_mc_leave_group(); net/ipv6/mcast.c: ma_put()
    (
        "multicast memberships",
        &[
            "ip_mc_join_group",
            "__ip_mc_join_group",
            "ip_mc_inc_group",
            "__ip_mc_inc_group",
            "____ip_mc_inc_group",
            "ip_mc_add_src",
            "__ipv6_sock_mc_join",
            "ipv6_sock_mc_join",
            "__ipv6_dev_mc_inc",
            "mca_alloc",
            "ip6_mc_add_src",
        ],
    ),
    // net/core/dev_addr_lists.c: __hw_addr_del_entry()
    ("hardware addresses", &["__hw_addr_add_ex", "__hw_addr_create"]),
    // net/core/neighbour.c: neigh_destroy()
    ("neighbours", &["neigh_alloc", "__neigh_create", "___neigh_create"]),
    // kernel/cgroup/cgroup.c: put_css_set_locked()
    ("cgroup sets", &["find_css_set"]),
    // mm/memcontrol.c: obj_cgroup_release()
    (
        "owners of charged objects",
        &["obj_cgroup_alloc", "memcg_online_kmem", "mem_cgroup_css_online"],
    ),
    // lib/maple_tree.c: mt_free_rcu(), mt_free_bulk()
    (
        "nodes of maple trees",
        &["mas_alloc_nodes", "mt_alloc_one", "mt_alloc_bulk", "mas_dup_build"],
    ),
    // net/ipv4/inet_hashtables.c: inet_bind_bucket_destroy(), inet_bind2_bucket_destroy()
    (
        "records of bound ports",
        &["inet_bind_bucket_create", "inet_bind2_bucket_create", "inet_bind2_bucket_init"],
    ),
    // lib/assoc_array.c: assoc_array_apply_edit(), assoc_array_gc()
    ("nodes of keyrings", &["assoc_array_insert", "assoc_array_insert_into_terminal_node"]),
    // mm/list_lru.c: memcg_list_lru_free(); mm/shrinker.c: free_shrinker_info()
    (
        "reclaim lists of cgroups",
        &[
            "memcg_init_list_lru_one",
            "memcg_list_lru_alloc",
            "memcg_update_list_lru_node",
            "alloc_shrinker_info",
            "expand_shrinker_info",
            "expand_one_shrinker_info",
        ],
    ),
    // fs/fcntl.c: send_sigio's fown since 6.12; kernel/ucount.c: put_ucounts()
    ("user counts", &["alloc_ucounts", "inc_ucount"]),
];

/// Why frees of a site are not seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// By what its function is known for.
    Known(&'static str),
    /// So many of its objects were found freed.
    Reused(u64),
}

/// Whether frees of a site's objects go unseen.
pub(super) fn why(mode: &Mode, function: &str, facts: &SiteFacts) -> Option<Why> {
    // What was seen is worth more than what is known.
    if facts.reused >= HABIT && facts.reused.saturating_mul(ONE_IN) >= facts.allocated {
        return Some(Why::Reused(facts.reused));
    }
    if mode.follows_rcu() {
        return None;
    }
    known(function).map(Why::Known)
}

/// What the objects of a function are that is known to have them freed by RCU.
fn known(function: &str) -> Option<&'static str> {
    let end = function.find(['.', '+', ' ']).unwrap_or(function.len());
    let plain = function.get(..end).unwrap_or(function);
    BY_RCU.iter().find(|(_, names)| names.contains(&plain)).map(|(what, _)| *what)
}

/// Whether the kernel's own count of the cache says that those objects are really there.
pub(super) fn confirmed(checks: &BTreeMap<String, Check>, cache: &str) -> bool {
    checks.get(cache).is_some_and(|check| check.agreement == Agreement::Agrees && !check.excluding)
}

/// What a reader has to know, one note for a cache and function, largest first.
pub(super) fn notes(
    mode: &Mode,
    sites: &[SiteView],
    checks: &BTreeMap<String, Check>,
) -> Vec<String> {
    let mut found: BTreeMap<(&str, &str), (u64, Why)> = BTreeMap::new();
    for site in sites {
        let Some(why) = site.unfollowed.filter(|_| site.series.objects > 0) else { continue };
        let (objects, _) =
            found.entry((site.cache.as_str(), site.function.as_str())).or_insert((0, why));
        *objects = objects.saturating_add(site.series.objects);
    }
    let mut found: Vec<_> = found.into_iter().collect();
    found.sort_by_key(|((cache, function), (objects, _))| {
        (std::cmp::Reverse(*objects), cache.to_owned(), function.to_owned())
    });
    let rest = found.len().saturating_sub(NOTES);
    let mut notes: Vec<String> = found
        .into_iter()
        .take(NOTES)
        .map(|((cache, function), (objects, why))| {
            note(mode, cache, function, objects, why, checks)
        })
        .collect();
    if rest > 0 {
        notes.push(format!("{rest} more places in the kernel free by RCU what they allocate."));
    }
    notes.extend(by_kprobes(mode, sites));
    notes
}

/// Kprobes miss some, and not every kernel counts which: `trace_call_bpf()` (`kernel/trace/bpf_trace.c`)
/// skips a program while another of its kind, or a system call on a map, runs on that CPU, and counts
/// that from 6.7 on.
fn by_kprobes(mode: &Mode, sites: &[SiteView]) -> Option<String> {
    if mode.frees != "kprobes" {
        return None;
    }
    let held = sites.iter().filter(|site| site.series.objects > 0);
    let what = held.filter_map(|site| known(&site.function)).collect::<BTreeSet<_>>();
    (!what.is_empty()).then(|| {
        let what = what.into_iter().collect::<Vec<_>>().join(", ");
        format!(
            "Frees by RCU are followed by kprobes, of which the kernel skips a few (before 6.7 without \
             counting them): a small residue of {what} may be freed."
        )
    })
}

fn note(
    mode: &Mode,
    cache: &str,
    function: &str,
    objects: u64,
    why: Why,
    checks: &BTreeMap<String, Check>,
) -> String {
    let count = sentence::objects(objects);
    let what = match why {
        Why::Known(what) => format!("{what} are freed by RCU"),
        Why::Reused(reused) if mode.follows_rcu() => {
            format!("{} were found freed by a path that shows no free", sentence::count(reused))
        }
        Why::Reused(reused) => {
            format!(
                "{} were found freed unseen, as what is freed by RCU is",
                sentence::count(reused)
            )
        }
    };
    let so = if confirmed(checks, cache) {
        "; slabinfo says that they are there all the same"
    } else {
        ", so they are no evidence of a leak"
    };
    format!(
        "{cache} through {function}: {count} look outstanding, but {what}, which cannot be followed \
         here{so}."
    )
}

#[cfg(test)]
mod tests {
    use super::super::testing::{World, even, process, total};
    use super::super::{Options, analyse};
    use super::{Why, why};
    use crate::report::{Confidence, Mode, Report};
    use crate::snapshot::SiteFacts;

    const TIMERFD: u64 = 0xff20;

    /// A window of 20 s on a kernel that shows no frees by RCU.
    fn world() -> World {
        let mut world = World::new(20);
        "tracepoints".clone_into(&mut world.evidence.mode.frees);
        world.evidence.mode.obstacle = Some("no trampolines".to_owned());
        world.evidence.call_sites.insert(TIMERFD, "do_timerfd_create".to_owned());
        world
    }

    /// A process that makes timer descriptors, 10,000 of which look outstanding.
    fn timers(world: &mut World) {
        let site = world.site(process(7, "timers"));
        world.left(site, even(500, 0..20), 0, 0);
        if let Some(facts) = world.evidence.snapshot.sites.get_mut(&site) {
            facts.site.call_site = TIMERFD;
        }
    }

    fn report(world: &World) -> Report {
        analyse(&world.evidence, &Options::default())
    }

    fn blamed(report: &Report) -> Option<&str> {
        report.verdict.owner.as_ref()?.comm.as_deref()
    }

    #[test]
    fn what_is_freed_by_rcu_is_nobody_s_leak() {
        let mut world = world();
        timers(&mut world);
        world.slab("kmalloc-512", 0);
        let report = report(&world);
        assert!(!report.verdict.growing, "{:#?}", report.verdict);
        assert_eq!(blamed(&report), None);
        assert_ne!(report.verdict.confidence, Confidence::High);
        assert_eq!(report.owners[0].unfollowed_objects, 10_000);
        let told = |words: &[&str]| {
            report.notes.iter().any(|note| words.iter().all(|word| note.contains(word)))
        };
        assert!(told(&["do_timerfd_create", "freed by RCU", "followed", "10,000"]), "{report:#?}");
    }

    #[test]
    fn without_slabinfo_it_is_nobody_s_either() {
        let mut world = world();
        timers(&mut world);
        let report = report(&world);
        assert!(!report.verdict.growing && blamed(&report).is_none(), "{:#?}", report.verdict);
    }

    #[test]
    fn a_leak_beside_it_is_named_with_high_confidence() {
        let mut world = world();
        timers(&mut world);
        let leak = world.site(process(9, "leaker"));
        let births = even(100, 0..20);
        world.left(leak, births, 0, 0);
        world.slab("kmalloc-512", i64::try_from(total(births)).unwrap());
        let report = report(&world);
        assert!(report.verdict.growing, "{:#?}", report.verdict);
        assert_eq!(blamed(&report), Some("leaker"));
        assert_eq!(report.verdict.share, Some(1.0));
        assert_eq!(report.verdict.confidence, Confidence::High, "{:#?}", report.verdict);
        assert_eq!(report.caches[0].explained, Some(1.0));
    }

    #[test]
    fn timers_that_stay_are_named_because_slabinfo_says_so() {
        let mut world = world();
        timers(&mut world);
        world.slab("kmalloc-512", 10_050);
        let report = report(&world);
        assert!(report.verdict.growing, "{:#?}", report.verdict);
        assert_eq!(blamed(&report), Some("timers"));
        assert_eq!(report.verdict.confidence, Confidence::Medium);
        assert_eq!(report.owners[0].unfollowed_objects, 0);
    }

    #[test]
    fn where_function_entries_are_followed_it_is_a_leak_like_any_other() {
        let mut world = world();
        timers(&mut world);
        "trampolines".clone_into(&mut world.evidence.mode.frees);
        world.slab("kmalloc-512", 10_050);
        let report = report(&world);
        assert_eq!(blamed(&report), Some("timers"));
        assert_eq!(report.verdict.confidence, Confidence::High, "{:#?}", report.verdict);
    }

    #[test]
    fn what_kprobes_may_miss_is_said() {
        let mut world = world();
        timers(&mut world);
        "kprobes".clone_into(&mut world.evidence.mode.frees);
        world.slab("kmalloc-512", 10_050);
        let said = |report: &Report| {
            let note =
                |note: &String| note.contains("kprobes") && note.contains("timer descriptors");
            report.notes.iter().any(note)
        };
        assert!(said(&report(&world)));
        world.evidence.call_sites.insert(TIMERFD, "load_msg".to_owned());
        assert!(!said(&report(&world)));
    }

    #[test]
    fn what_the_slab_allocator_takes_for_itself_is_not_its_caller_s() {
        let mut world = world();
        world.evidence.call_sites.insert(TIMERFD, "__pcs_replace_empty_main".to_owned());
        timers(&mut world);
        let report = report(&world);
        let owner = &report.owners[0].owner;
        assert_eq!((owner.kind.as_str(), owner.pid), ("unknown", None));
        assert_eq!(owner.comm.as_deref(), Some("slab allocator"));
    }

    fn mode(frees: &str) -> Mode {
        Mode { frees: frees.to_owned(), ..Mode::default() }
    }

    fn facts(allocated: u64, reused: u64) -> SiteFacts {
        SiteFacts { allocated, reused, ..SiteFacts::default() }
    }

    #[test]
    fn what_frees_by_rcu_is_known_by_its_function() {
        for function in ["ep_insert", "do_timerfd_create.isra.0", "posix_acl_alloc+0x1c"] {
            assert!(
                matches!(why(&mode("tracepoints"), function, &facts(9, 0)), Some(Why::Known(_))),
                "{function}"
            );
            assert_eq!(why(&mode("trampolines"), function, &facts(9, 0)), None);
            assert_eq!(why(&mode("kprobes"), function, &facts(9, 0)), None);
        }
        assert_eq!(why(&mode("tracepoints"), "load_msg", &facts(9, 0)), None);
        assert_eq!(why(&mode("tracepoints"), "ep_insert_not", &facts(9, 0)), None);
    }

    #[test]
    fn what_is_freed_unseen_is_known_by_its_addresses_in_any_mode() {
        for frees in ["tracepoints", "trampolines"] {
            assert_eq!(why(&mode(frees), "f", &facts(300, 3)), Some(Why::Reused(3)));
            assert_eq!(why(&mode(frees), "f", &facts(301, 3)), None);
            assert_eq!(why(&mode(frees), "f", &facts(2, 2)), None);
        }
    }
}

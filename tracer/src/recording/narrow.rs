//! Less of a recording than it holds: some of its slab caches, or only what has outlived a longer time.

use std::{collections::BTreeSet, time::Duration};

use globset::GlobMatcher;
use kleak_common::kind;

use crate::{
    analyse::Evidence,
    host::classes,
    report::{human, names, sanitize},
    snapshot::{BIRTH_SLICES, Group, SiteFacts},
};

/// What was asked for that a recording cannot give (a mistake on the command line).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NarrowError {
    /// It was not recorded.
    #[error("the recording holds nothing of {asked}; it holds {holds}")]
    NotRecorded {
        /// The option and its value.
        asked: String,
        /// What there is instead.
        holds: String,
    },
    /// Younger objects were left out when it was made.
    #[error(
        "--min-age {asked}: the recording was made with --min-age {recorded}, and holds nothing younger; \
         give as much or more"
    )]
    TooYoung {
        /// What was asked for.
        asked: String,
        /// What was left out.
        recorded: String,
    },
    /// So old is less than can be told from nothing.
    #[error(
        "--min-age {asked} leaves less than a twentieth of the recording, which is of {window} and tells \
         births by twentieths; give less"
    )]
    Last {
        /// What was asked for.
        asked: String,
        /// Length of the window.
        window: String,
    },
    /// Nothing could get that old.
    #[error("--min-age {asked} is not shorter than the recording, which is of {window}")]
    TooOld {
        /// What was asked for.
        asked: String,
        /// Length of the window.
        window: String,
    },
}

/// Names told at the most when something is not among them.
const NAMES: usize = 12;

/// What to do when nothing of what is asked for is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lack {
    /// It is a mistake.
    Refused,
    /// It may come later: early in a window nothing is old, and not every cache has been met.
    Taken,
}

/// Leaves the slab caches of these size classes, bytes, and of these names; all when there are neither. What
/// there is to say about it.
///
/// Errors: a class or name is none of the recording's.
pub(super) fn caches(
    evidence: &mut Evidence,
    sizes: &[u64],
    globs: &[GlobMatcher],
    lack: Lack,
) -> Result<Vec<String>, NarrowError> {
    if sizes.is_empty() && globs.is_empty() {
        return Ok(Vec::new());
    }
    let mut said = Vec::new();
    let mut chosen = BTreeSet::new();
    for size in sizes {
        let class = class_for(evidence, *size)?;
        if class != *size {
            said.push(format!("{size} is not a size class; {} serves it", short(class)));
        }
        chosen.insert(class);
    }
    for glob in globs.iter().filter(|_| lack == Lack::Refused) {
        if !evidence.snapshot.sites.keys().any(|key| {
            name(evidence, *key)
                .is_some_and(|name| wants(std::slice::from_ref(glob), name, evidence))
        }) {
            let asked = format!("--cache {}", sanitize::terminal(glob.glob().glob()));
            return Err(NarrowError::NotRecorded { asked, holds: held(evidence) });
        }
    }
    let everything = globs.is_empty()
        && evidence.filter.kinds == ["kmalloc"]
        && evidence.filter.caches.is_empty()
        && evidence.filter.size_classes.iter().all(|class| chosen.contains(class));
    if !everything {
        said.extend(keep_caches(evidence, &chosen, globs));
    }
    Ok(said)
}

/// The class of the recording that serves so many bytes.
fn class_for(evidence: &Evidence, size: u64) -> Result<u64, NarrowError> {
    let mut recorded = evidence.filter.size_classes.clone();
    // Of classes that were followed for the names of their caches only what was met is known.
    let met = evidence.snapshot.sites.iter().filter(|(_, facts)| facts.site.kind == kind::KMALLOC);
    recorded.extend(met.filter_map(|(key, _)| classes::size_in_name(name(evidence, *key)?)));
    recorded.sort_unstable();
    recorded.dedup();
    // The recorder's kernel may have other classes, but then these are among them or are not.
    let standard = classes::Classes::default().class_for(size);
    let class = [Some(size), standard].into_iter().flatten().find(|class| recorded.contains(class));
    class.ok_or_else(|| {
        let list: Vec<String> = recorded.iter().map(|class| short(*class)).collect();
        let holds = if list.is_empty() { held(evidence) } else { names::list(&list) };
        NarrowError::NotRecorded { asked: format!("--size {size}"), holds }
    })
}

fn short(class: u64) -> String {
    classes::cache_name(class, kleak_common::flavour::NORMAL)
}

/// Slab cache of a site, or what stands in its place.
fn name(evidence: &Evidence, key: u64) -> Option<&str> {
    evidence.cache_names.get(&key).map(String::as_str)
}

/// Whether a cache is called so, by any of its names.
fn wants(globs: &[GlobMatcher], name: &str, evidence: &Evidence) -> bool {
    let matches = |name: &str| globs.iter().any(|glob| glob.is_match(name));
    let others = evidence.aliases.get(name).into_iter().flatten();
    matches(name) || others.into_iter().any(|name| matches(name))
}

/// Names of what there is, for a message.
fn held(evidence: &Evidence) -> String {
    let all: BTreeSet<&str> =
        evidence.snapshot.sites.keys().filter_map(|key| name(evidence, *key)).collect();
    if all.is_empty() {
        return "nothing at all".to_owned();
    }
    let mut list: Vec<String> =
        all.iter().take(NAMES).map(|name| sanitize::terminal(name).into_owned()).collect();
    if all.len() > NAMES {
        list.push(format!("{} more", all.len() - NAMES));
    }
    names::list(&list)
}

fn keep_caches(
    evidence: &mut Evidence,
    chosen: &BTreeSet<u64>,
    globs: &[GlobMatcher],
) -> Option<String> {
    let of_class = |name: Option<&str>, slot: u64| {
        chosen.contains(&name.and_then(classes::size_in_name).unwrap_or(slot))
    };
    let wanted = |key: &u64, facts: &SiteFacts| {
        let name = name(evidence, *key);
        let sized = facts.site.kind == kind::KMALLOC && of_class(name, facts.site.size.into());
        sized || name.is_some_and(|name| wants(globs, name, evidence))
    };
    let sites = evidence.snapshot.sites.iter();
    let kept: BTreeSet<u64> =
        sites.filter(|(key, facts)| wanted(key, facts)).map(|(key, _)| *key).collect();
    let older = evidence.older_frees.as_ref().filter(|_| evidence.loss.untracked_objects == 0);
    let older = older.map(|older| {
        let shown = older.iter().filter(|(name, _)| {
            classes::size_in_name(name).is_some_and(|class| chosen.contains(&class))
                || wants(globs, name, evidence)
        });
        shown.map(|(_, count)| *count).fold(0, u64::saturating_add)
    });
    let kinds: BTreeSet<u8> = kept
        .iter()
        .filter_map(|key| evidence.snapshot.sites.get(key))
        .map(|facts| facts.site.kind)
        .collect();
    let recorded = std::mem::take(&mut evidence.filter.caches);
    let names = if globs.is_empty() {
        let of_kept = |glob: &String| match globset::Glob::new(glob) {
            Ok(glob) => {
                let glob = [glob.compile_matcher()];
                kept.iter()
                    .filter_map(|key| name(evidence, *key))
                    .any(|n| wants(&glob, n, evidence))
            }
            Err(_) => false,
        };
        recorded.into_iter().filter(of_kept).collect()
    } else {
        globs.iter().map(|glob| glob.glob().glob().to_owned()).collect()
    };

    evidence.loss.frees_of_older_objects = older;
    let snapshot = &mut evidence.snapshot;
    // Objects without a site are of no cache that anybody knows, and a site may be of one that has no name.
    let nameless = snapshot.groups.iter().filter(|(key, _)| {
        let name = evidence.cache_names.get(&key.site);
        let known = snapshot.sites.contains_key(&key.site);
        !kept.contains(&key.site) && (!known || name.is_none_or(|name| name == "unknown"))
    });
    let nameless = nameless.map(|(_, group)| group.objects).fold(0, u64::saturating_add);
    snapshot.sites.retain(|key, _| kept.contains(key));
    snapshot.groups.retain(|key, _| kept.contains(&key.site));
    for point in &mut evidence.history {
        point.outstanding.retain(|key, _| kept.contains(key));
    }
    let filter = &mut evidence.filter;
    filter.kinds.retain(|word| {
        let of = [("kmalloc", kind::KMALLOC), ("cache", kind::CACHE), ("page", kind::PAGE)];
        let of = of.into_iter().chain([("percpu", kind::PERCPU)]).find(|(name, _)| name == word);
        of.is_some_and(|(_, kind)| {
            kinds.contains(&kind) || (kind == kind::KMALLOC && !chosen.is_empty())
        })
    });
    // A class that was followed for the names of its caches is not all there.
    filter.size_classes.retain(|class| chosen.contains(class));
    filter.caches = names;
    let note = (nameless > 0).then(|| {
        format!(
            "{} whose slab cache is not known {} left out.",
            human::counted(nameless, "object"),
            if nameless == 1 { "is" } else { "are" }
        )
    });
    evidence.notes.extend(note.clone());
    note
}

/// Leaves what has outlived `age`. The recording tells births by slices of the window, so it takes the next
/// age that it can tell, and says so.
///
/// Errors: the recording lacks what is younger, or is shorter.
pub(super) fn min_age(
    evidence: &mut Evidence,
    age: Duration,
    lack: Lack,
) -> Result<Vec<String>, NarrowError> {
    let snapshot = &evidence.snapshot;
    let length_ns = snapshot.at_ns.saturating_sub(snapshot.start_ns);
    let (age_s, recorded_s) = (age.as_secs_f64(), evidence.filter.min_age_s);
    if age_s < recorded_s {
        let (asked, recorded) = (human::seconds(age_s), human::seconds(recorded_s));
        return Err(NarrowError::TooYoung { asked, recorded });
    }
    if age_s <= recorded_s {
        return Ok(Vec::new());
    }
    let age_ns = u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
    let older_ns = length_ns.saturating_sub(age_ns);
    // As they were cut when the snapshot was taken. The last is longer by a remainder, and holds the youngest.
    let slice_ns = (length_ns / BIRTH_SLICES as u64).max(1);
    let slices = usize::try_from(older_ns / slice_ns).unwrap_or(BIRTH_SLICES);
    let slices = slices.min(BIRTH_SLICES - 1);
    // Nothing would be left, whatever there was, and a `--fail-on` would hold of nothing.
    if slices == 0 {
        if lack == Lack::Taken {
            evidence.snapshot.groups.clear();
            evidence.filter.min_age_s = age_s;
            return Ok(Vec::new());
        }
        let (asked, window) = (precise(age_s), human::seconds(length_ns as f64 / 1e9));
        return Err(if older_ns == 0 {
            NarrowError::TooOld { asked: human::seconds(age_s), window }
        } else {
            NarrowError::Last { asked, window }
        });
    }
    let taken_ns = length_ns.saturating_sub(slice_ns.saturating_mul(slices as u64));
    let taken_s = taken_ns as f64 / 1e9;

    let mut divided = false;
    let snapshot = &mut evidence.snapshot;
    snapshot.groups.retain(|key, group| {
        let size = snapshot.sites.get(&key.site).map_or(0, |facts| facts.site.size);
        divided |= !cut(group, slices, size.into());
        group.objects > 0
    });
    evidence.filter.min_age_s = taken_s;
    let mut said = Vec::new();
    if taken_ns > age_ns {
        said.push(format!(
            "--min-age {} is taken as {}: the recording tells births by twentieths of its window.",
            human::seconds(age_s),
            precise(taken_s),
        ));
    }
    if divided {
        said.push(
            "With this --min-age, bytes asked for, and bytes of pages, are estimated: the recording does not \
             tell them by birth."
                .to_owned(),
        );
    }
    Ok(said)
}

/// Seconds to the millisecond where a tenth would look like the age that was asked for.
fn precise(s: f64) -> String {
    if s < 60.0 { format!("{s:.3} s") } else { human::seconds(s) }
}

/// Leaves what was born in the first slices, of a site of objects of `size` bytes; whether all of it is known
/// exactly.
fn cut(group: &mut Group, slices: usize, size: u64) -> bool {
    let mut objects = 0_u64;
    for (slice, count) in group.births.iter_mut().enumerate() {
        if slice < slices {
            objects = objects.saturating_add(*count);
        } else {
            *count = 0;
        }
    }
    let before = group.objects;
    let objects = objects.min(before);
    let part = |whole: u64| {
        let part = u128::from(whole) * u128::from(objects) / u128::from(before.max(1));
        u64::try_from(part).unwrap_or(u64::MAX)
    };
    // Where each fills its place, each asked for as much. Others of one stack most often do too, but nothing
    // says so.
    let full = group.requested == before.saturating_mul(size);
    let exact = objects == 0 || objects == before || full;
    group.requested = part(group.requested);
    group.weight = if group.weight > 0 && objects > 0 { part(group.weight).max(1) } else { 0 };
    group.objects = objects;
    exact
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::{Lack, NarrowError, cut};
    use crate::{
        analyse::{Evidence, Options, analyse},
        recording::testing::{arbitrary, incident},
        report::Report,
        snapshot::{BIRTH_SLICES, Group},
    };

    fn caches(
        evidence: &mut Evidence,
        sizes: &[u64],
        globs: &[globset::GlobMatcher],
    ) -> Result<Vec<String>, NarrowError> {
        super::caches(evidence, sizes, globs, Lack::Refused)
    }

    fn min_age(evidence: &mut Evidence, age: Duration) -> Result<Vec<String>, NarrowError> {
        super::min_age(evidence, age, Lack::Refused)
    }

    #[test]
    fn on_the_way_a_lack_is_none() {
        let mut evidence = incident(5);
        super::min_age(&mut evidence, Duration::from_secs(10), Lack::Taken).unwrap();
        let early = report(&evidence);
        assert!(early.owners.iter().all(|row| row.outstanding_objects == 0));
        assert!((early.filter.min_age_s - 10.0).abs() < 1e-9);
        super::caches(&mut evidence, &[], &[glob("dentry")], Lack::Taken).unwrap();
        assert!(report(&evidence).owners.is_empty());
    }

    fn glob(pattern: &str) -> globset::GlobMatcher {
        globset::Glob::new(pattern).unwrap().compile_matcher()
    }

    fn report(evidence: &Evidence) -> Report {
        analyse(evidence, &Options::default())
    }

    fn names(report: &Report) -> Vec<&str> {
        let mut names: Vec<&str> = report.caches.iter().map(|row| row.name.as_str()).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn a_size_leaves_its_class() {
        let all = incident(20);
        let mut evidence = all.clone();
        let said = caches(&mut evidence, &[300], &[]).unwrap();
        insta::assert_snapshot!(said.join("\n"), @r"
        300 is not a size class; kmalloc-512 serves it
        2 objects whose slab cache is not known are left out.
        ");
        let (all, report) = (report(&all), report(&evidence));
        assert_eq!(names(&report), ["kmalloc-512"]);
        assert_eq!(
            (&report.filter.size_classes, &report.filter.kinds),
            (&vec![512], &vec!["kmalloc".to_owned()])
        );
        assert_eq!(report.loss.frees_of_older_objects, Some(3));
        let row =
            |report: &Report| report.caches.iter().find(|row| row.name == "kmalloc-512").cloned();
        assert_eq!(row(&report), row(&all));
        let owners = |report: &Report| {
            let rows = report.owners.iter().filter(|row| row.cache == "kmalloc-512");
            rows.map(|row| (row.owner.clone(), row.outstanding_bytes, row.trend.clone()))
                .collect::<Vec<_>>()
        };
        assert_eq!(owners(&report), owners(&all));
    }

    #[test]
    fn a_cache_may_be_called_by_any_of_its_names() {
        for (pattern, expected) in [
            ("pool_work*", vec!["kmalloc-512"]),
            ("page*", vec!["page order-0 unmovable (slab)"]),
            ("kmalloc-*", vec!["kmalloc-1k", "kmalloc-512"]),
        ] {
            let mut evidence = incident(20);
            caches(&mut evidence, &[], &[glob(pattern)]).unwrap();
            let report = report(&evidence);
            assert_eq!(names(&report), expected, "{pattern}");
            assert_eq!(report.filter.caches, [pattern]);
        }
        let mut evidence = incident(20);
        caches(&mut evidence, &[512], &[glob("page*")]).unwrap();
        assert_eq!(names(&report(&evidence)).len(), 2);
    }

    #[test]
    fn names_that_the_run_asked_for_stay_where_something_of_them_does() {
        let mut evidence = incident(20);
        evidence.filter.size_classes = vec![];
        evidence.filter.caches = vec!["kmalloc-*".to_owned(), "page*".to_owned()];
        caches(&mut evidence, &[512], &[]).unwrap();
        let report = report(&evidence);
        assert_eq!(names(&report), ["kmalloc-512"]);
        assert_eq!(report.filter.caches, ["kmalloc-*"]);
        // The class was followed for its name.
        assert_eq!(report.filter.size_classes, [0; 0]);
    }

    #[test]
    fn what_is_not_in_it_is_an_error_that_says_what_is() {
        let error = |sizes: &[u64], patterns: &[&str]| {
            let globs: Vec<_> = patterns.iter().map(|pattern| glob(pattern)).collect();
            caches(&mut incident(20), sizes, &globs).unwrap_err().to_string()
        };
        insta::assert_snapshot!(error(&[64], &[]), @r"the recording holds nothing of --size 64; it holds kmalloc-512, kmalloc-1k");
        insta::assert_snapshot!(error(&[], &["kmalloc-*", "den\u{1b}try"]), @r"the recording holds nothing of --cache den\x1btry; it holds kmalloc-1k, kmalloc-512, page order-0 unmovable (slab)");
        let mut empty = incident(20);
        empty.snapshot.sites.clear();
        empty.filter.size_classes.clear();
        assert!(matches!(
            caches(&mut empty, &[512], &[]),
            Err(NarrowError::NotRecorded { holds, .. }) if holds == "nothing at all"
        ));
    }

    #[test]
    fn all_that_was_recorded_is_all_of_it() {
        let mut evidence = incident(20);
        evidence.filter.kinds = vec!["kmalloc".to_owned()];
        let before = report(&evidence);
        assert!(caches(&mut evidence, &[512, 1024], &[]).unwrap().is_empty());
        assert_eq!(report(&evidence), before);
    }

    #[test]
    fn a_least_age_leaves_the_old() {
        let mut evidence = incident(20);
        let said = min_age(&mut evidence, Duration::from_secs(5)).unwrap();
        assert!(said.len() == 1 && said[0].contains("are estimated"), "{said:?}");
        let report = report(&evidence);
        assert!((report.filter.min_age_s - 5.0).abs() < 1e-9);
        let of = |comm: &str| {
            let mut rows = report.owners.iter();
            rows.find(|row| row.owner.comm.as_deref() == Some(comm))
                .map(|row| row.outstanding_objects)
        };
        // 500 a second for 20 s, and those of coredns came in the last two, but for some at half time.
        assert_eq!((of("kubelet"), of("coredns")), (Some(7500), Some(14)));
    }

    #[test]
    fn an_age_between_is_rounded_up_and_said() {
        let mut evidence = incident(20);
        let said = min_age(&mut evidence, Duration::from_millis(4300)).unwrap();
        insta::assert_snapshot!(said.join("\n"), @r"
        --min-age 4.3 s is taken as 5.000 s: the recording tells births by twentieths of its window.
        With this --min-age, bytes asked for, and bytes of pages, are estimated: the recording does not tell them by birth.
        ");
        assert!((evidence.filter.min_age_s - 5.0).abs() < 1e-9);
    }

    #[test]
    fn an_age_that_nothing_tells_of_is_an_error() {
        let mut evidence = incident(20);
        evidence.filter.min_age_s = 10.0;
        let mut error =
            |seconds| min_age(&mut evidence, Duration::from_secs(seconds)).unwrap_err().to_string();
        insta::assert_snapshot!(error(5), @r"--min-age 5 s: the recording was made with --min-age 10 s, and holds nothing younger; give as much or more");
        insta::assert_snapshot!(error(20), @r"--min-age 20 s is not shorter than the recording, which is of 20 s");
        assert!(min_age(&mut evidence, Duration::from_secs(10)).unwrap().is_empty());
    }

    #[test]
    fn an_age_that_leaves_nothing_is_an_error() {
        let age = Duration::from_millis(19_500);
        let mut evidence = incident(20);
        let error = min_age(&mut evidence, age).unwrap_err().to_string();
        insta::assert_snapshot!(error, @r"--min-age 19.500 s leaves less than a twentieth of the recording, which is of 20 s and tells births by twentieths; give less");
        assert!(report(&evidence).owners.iter().any(|row| row.outstanding_objects > 0));
        // Early in a window nothing is that old.
        super::min_age(&mut evidence, age, Lack::Taken).unwrap();
        assert!(report(&evidence).owners.iter().all(|row| row.outstanding_objects == 0));
        let mut evidence = incident(20);
        min_age(&mut evidence, Duration::from_secs(19)).unwrap();
        assert!(report(&evidence).owners.iter().any(|row| row.outstanding_objects > 0));
    }

    #[test]
    fn objects_of_a_cache_without_a_name_are_told() {
        let mut evidence = incident(20);
        let coredns = evidence.cache_names.iter().find(|(_, name)| *name == "kmalloc-1k");
        let coredns = *coredns.unwrap().0;
        evidence.cache_names.insert(coredns, "unknown".to_owned());
        let groups = evidence.snapshot.groups.iter();
        let of_it: u64 =
            groups.filter(|(key, _)| key.site == coredns).map(|(_, g)| g.objects).sum();
        assert!(of_it > 0);
        let said = caches(&mut evidence.clone(), &[], &[glob("kmalloc-512")]).unwrap();
        let expected = format!("{} objects whose slab cache is not known are left out.", of_it + 2);
        assert_eq!(said, [expected]);
        // Who asks for them gets them.
        let said = caches(&mut evidence, &[], &[glob("unknown")]).unwrap();
        assert_eq!(said, ["2 objects whose slab cache is not known are left out."]);
    }

    #[test]
    fn pages_of_many_ages_are_estimated() {
        let births = std::array::from_fn(|slice| u64::from(slice < 10));
        let mut group =
            Group { objects: 10, requested: 4096 * 7, weight: 3, births, ..Group::default() };
        assert!(!cut(&mut group, 5, 8192));
        assert_eq!((group.objects, group.requested, group.weight), (5, 4096 * 7 / 2, 1));
        let mut even = Group { objects: 10, requested: 5120, births, ..Group::default() };
        assert!(cut(&mut even, 5, 512));
        assert_eq!((even.objects, even.requested, even.weight), (5, 2560, 0));
        // 100 and 300 bytes make 200 each, which none of them is of.
        let mut mixed = Group { objects: 10, requested: 2000, births, ..Group::default() };
        assert!(!cut(&mut mixed, 5, 512));
        assert!(cut(&mut mixed.clone(), 5, 512), "all of it is left");
    }

    proptest! {
        #[test]
        fn an_age_never_adds(evidence in arbitrary(), seconds in 1_u64..30, sizes in any::<bool>()) {
            let before: u64 =
                evidence.snapshot.groups.values().map(|group| group.objects).fold(0, u64::saturating_add);
            let mut cut = evidence.clone();
            if min_age(&mut cut, Duration::from_secs(seconds)).is_ok() {
                let births = cut.snapshot.groups.values().map(|group| (group.objects, group.births));
                for (objects, births) in births {
                    prop_assert_eq!(births.iter().sum::<u64>(), objects);
                    prop_assert_eq!(births[BIRTH_SLICES - 1] > 0 && cut.filter.min_age_s > evidence.filter.min_age_s, false);
                }
                prop_assert!(report(&cut).owners.iter().map(|row| row.outstanding_objects)
                    .fold(0, u64::saturating_add) <= before);
            }
            let mut narrow = evidence.clone();
            narrow.filter.size_classes = vec![512, 1024];
            let globs = if sizes { vec![] } else { vec![glob("kmalloc-*")] };
            if caches(&mut narrow, &[512], &globs).is_ok() {
                drop(report(&narrow));
            }
        }
    }
}

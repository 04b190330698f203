//! What pictures and profiles say of themselves: what was traced, where, and how far to trust it.

use std::collections::BTreeMap;

use super::Exhibit;
use crate::report::{
    Report, followed, human,
    ledger::{self, Ledger},
    names,
    sanitize::terminal,
};

/// Longest subtitle that fits above a flame graph of 1,200 pixels.
const SUBTITLE: usize = 160;

/// Whose memory it is, where and when: `kubelet[1165] (kubelet.service) in kmalloc-512, node7, 30 s`.
pub(crate) fn title(report: &Report) -> String {
    let verdict = &report.verdict;
    let owner = verdict.owner.as_ref().map(|owner| match names::place(owner) {
        Some(place) => format!("{} ({place})", names::who(owner)),
        None => names::who(owner),
    });
    let cache = names::text(verdict.cache.as_ref());
    let what = match (owner, cache) {
        (Some(owner), Some(cache)) if verdict.growing => format!("{owner} grows {cache}"),
        (Some(owner), Some(cache)) => format!("{owner} holds most, in {cache}"),
        (None, Some(cache)) => cache,
        (Some(owner), None) => owner,
        (None, None) => "Kernel memory".into(),
    };
    format!("{what}: {}, {}", terminal(&report.host.hostname), human::seconds(report.window_s))
}

/// What is held, and what weakens it, in one line.
pub(crate) fn subtitle(what: &Exhibit<'_>) -> String {
    let rows = what.profile.samples.iter();
    let held = ledger::sums(rows.map(|sample| (&*sample.cache, sample.outstanding_bytes)));
    let mut parts = vec![format!("{} not freed", ledger::words(&held))];
    let verdict = &what.report.verdict;
    if let Some(rate) = verdict.growth_bytes_per_s.filter(|_| verdict.growing) {
        // It is not of all that is held, but of the culprit.
        let who = verdict.owner.as_ref().map_or_else(|| "it".into(), names::who);
        parts.push(format!("{who} grows by {}/s", human::size(rate)));
    }
    parts.extend(doubts(what));
    fitting(parts.join("; "))
}

/// As much of a subtitle as there is room for.
pub(crate) fn fitting(line: String) -> String {
    if line.chars().count() <= SUBTITLE {
        return line;
    }
    line.chars().take(SUBTITLE - 1).chain(['…']).collect()
}

/// Everything to know of it, a sentence each.
pub(crate) fn notes(what: &Exhibit<'_>) -> Vec<String> {
    let Exhibit { report, .. } = what;
    let host = &report.host;
    let mut notes = vec![
        terminal(&report.verdict.summary).into_owned(),
        format!(
            "Traced by kleak {} for {} on {}, Linux {} {}.",
            env!("CARGO_PKG_VERSION"),
            human::seconds(report.window_s),
            terminal(&host.hostname),
            terminal(&host.kernel),
            terminal(&host.machine),
        ),
        format!("Followed: {}.", followed::words(&report.filter).join(", ")),
    ];
    let doubts = doubts(what);
    notes.push(if doubts.is_empty() {
        "All figures are exact, and nothing is known to be lost.".into()
    } else {
        format!("Not exact: {}.", doubts.join("; "))
    });
    notes.extend(report.notes.iter().map(|note| terminal(note).into_owned()));
    notes
}

/// What is estimated, what was lost and what cannot be followed.
pub(crate) fn doubts(what: &Exhibit<'_>) -> Vec<String> {
    let Exhibit { report, profile } = what;
    let mut doubts = Vec::new();
    if let Some(sampling) = &report.sampling {
        let each = (1.0 / sampling.fraction).round();
        doubts.push(format!("estimated from objects at 1 in {each} addresses"));
    } else {
        // Books are never added up: of the one of which it is most.
        let mut books: BTreeMap<Ledger, (f64, f64)> = BTreeMap::new();
        for sample in &profile.samples {
            let (part, all) = books.entry(Ledger::of_cache(&sample.cache)).or_default();
            let bytes = sample.outstanding_bytes as f64;
            *all += bytes;
            *part += if sample.estimated { bytes } else { 0.0 };
        }
        books.retain(|_, (_, all)| *all > 0.0);
        let several = books.len() > 1;
        let shares = books.into_iter().map(|(book, (part, all))| (part / all, book));
        let most = shares.max_by(|(one, _), (other, _)| one.total_cmp(other));
        if let Some((part, book)) = most.filter(|(part, _)| *part > 0.0) {
            let of = if several { format!("the {book}") } else { "the bytes".to_owned() };
            let part = human::percent(part);
            doubts.push(format!("{part} of {of} divided among stacks by sampling"));
        }
    }
    let unfollowed = profile.samples.iter().map(|sample| sample.unfollowed_objects);
    let unfollowed = unfollowed.fold(0_u64, u64::saturating_add);
    let loss = &report.loss;
    for (count, noun, what) in [
        (unfollowed, "object", "may be freed unseen"),
        (loss.untracked_objects, "object", "not followed"),
        (loss.missed_events.unwrap_or(0), "event", "missed"),
        (loss.failed_updates, "update", "refused"),
        (loss.missed_frees_detected, "missed free", "corrected"),
        (loss.lost_stacks, "stack", "not stored"),
        (loss.lost_owners, "object", "without owner"),
        (loss.failed_reads, "read", "failed"),
    ] {
        if count > 0 {
            doubts.push(format!("{} {what}", human::counted(count, noun)));
        }
    }
    if loss.missed_events.is_none() {
        doubts.push("missed events unknown on this kernel".into());
    }
    doubts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{profile::Profile, sample};

    #[test]
    fn titles_say_whose_and_where() {
        let report = sample::incident();
        assert_eq!(
            title(&report),
            "kubelet[1165] (kubelet.service) grows kmalloc-512: node7, 30 s"
        );
        assert_eq!(title(&sample::nothing()), "Kernel memory: node7, 30 s");
    }

    #[test]
    fn a_share_is_of_one_book() {
        let report = sample::nothing();
        let sample = |cache: &str, outstanding_bytes, estimated| crate::report::profile::Sample {
            cache: cache.into(),
            outstanding_bytes,
            estimated,
            ..Default::default()
        };
        let samples = vec![
            sample("kmalloc-512", 300, true),
            sample("kmalloc-512", 100, false),
            sample("page order-0 movable", 900, false),
            sample("page order-0 movable", 100, true),
        ];
        let mut profile = Profile { samples, ..Profile::default() };
        let doubts = |profile: &Profile| doubts(&Exhibit { report: &report, profile });
        assert_eq!(doubts(&profile)[0], "75 % of the slab memory divided among stacks by sampling");
        profile.samples.truncate(2);
        assert_eq!(doubts(&profile)[0], "75 % of the bytes divided among stacks by sampling");
    }

    #[test]
    fn doubts_are_said() {
        let report = sample::lossy();
        let profile = sample::profile(&report);
        let what = Exhibit { report: &report, profile: &profile };
        insta::assert_snapshot!(subtitle(&what), @"7.1 MiB not freed; kubelet[1165] grows by 235 KiB/s; 2.7 % of the bytes divided among stacks by sampling; 120,000 objects not followed; 2 updates refused; 1 mi…");
        insta::assert_snapshot!(notes(&what).join("\n"), @r"
        Perhaps kubelet (pid 1165), but 120,000 objects were not followed and only 41 % of kmalloc-512's growth is explained: trace again with a larger --max-objects.
        Traced by kleak 0.1.0 for 30 s on node7, Linux 6.12.0 x86_64.
        Followed: kmalloc, sizes 512, stacks auto.
        Not exact: 2.7 % of the bytes divided among stacks by sampling; 120,000 objects not followed; 2 updates refused; 1 missed free corrected; 77 stacks not stored; 1 object without owner; 6 reads failed; missed events unknown on this kernel.
        Kernel symbols are hidden (kptr_restrict): frames are addresses; `sysctl kernel.kptr_restrict=1` shows them.
        ");
        let report = sample::nothing();
        let what = Exhibit { report: &report, profile: &Profile::default() };
        assert_eq!(subtitle(&what), "0 B not freed");
        assert!(notes(&what).iter().any(|note| note.starts_with("All figures are exact")));
    }
}

//! What pictures and profiles say of themselves: what was traced, where, and how far to trust it.

use super::Exhibit;
use crate::report::{Report, followed, human, ledger, names, sanitize::terminal};

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
    if let Some(rate) =
        what.report.verdict.growth_bytes_per_s.filter(|_| what.report.verdict.growing)
    {
        parts.push(format!("growing by {}/s", human::size(rate)));
    }
    parts.extend(doubts(what));
    let mut line = parts.join("; ");
    if line.chars().count() > SUBTITLE {
        line = line.chars().take(SUBTITLE - 1).chain(['…']).collect();
    }
    line
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
        let sum = |estimated: bool| -> f64 {
            let rows = profile.samples.iter().filter(|sample| !estimated || sample.estimated);
            rows.map(|sample| sample.outstanding_bytes as f64).sum()
        };
        // Of one sum over all books, as a share means the same in each.
        let (part, all) = (sum(true), sum(false));
        if part > 0.0 {
            let part = human::percent(part / all);
            doubts.push(format!("{part} of the bytes divided among stacks by sampling"));
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
    fn doubts_are_said() {
        let report = sample::lossy();
        let profile = sample::profile(&report);
        let what = Exhibit { report: &report, profile: &profile };
        insta::assert_snapshot!(subtitle(&what), @"7.1 MiB not freed; growing by 235 KiB/s; 2.7 % of the bytes divided among stacks by sampling; 120,000 objects not followed; 2 updates refused; 1 missed free co…");
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

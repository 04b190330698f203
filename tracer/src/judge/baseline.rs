//! A baseline: what an earlier run left behind is not new.
//!
//! It excuses amounts, of each program, slab cache and call path what it had there itself; more than that
//! is judged. When both runs were of a COMMAND, amounts are compared run with run, since the same work
//! leaves the same behind however long it took. Otherwise part of what the baseline had was there at
//! once, and part grew with time, which its own counts over time tell apart: the first is excused as it
//! is, the second in proportion to the length of the window. A window that is more than twice as long as
//! the baseline's is taken for twice as long, as a short window foretells little of a long one.

use std::borrow::Cow;

use hashbrown::HashMap;

use super::remains::{Amounts, Part, Remains};
use crate::report::judgement::BaselineUse;
use crate::report::profile::{Profile, Sample};
use crate::report::sanitize::terminal;
use crate::report::{Filter, Report, function, human, program::Program};

/// By how much a longer window is allowed for, at most.
const LONGEST: f64 = 2.0;

/// A run to compare with.
#[derive(Clone, Debug)]
pub struct Baseline {
    file: String,
    report: Report,
    profile: Profile,
    /// What is wrong with the file, a sentence each.
    damage: Vec<String>,
}

/// What may be the same in two runs: whose, of what, and by which way.
#[derive(PartialEq, Eq, Hash)]
struct Key<'a> {
    program: Program,
    cache: &'a str,
    path: Vec<Cow<'a, str>>,
}

impl<'a> Key<'a> {
    /// `in_place` says that where it runs counts too. What a command leaves behind is the command's
    /// wherever it was started.
    fn of(sample: &'a Sample, in_place: bool) -> Self {
        let program = Program::of(&sample.owner);
        Self {
            program: if in_place { program } else { program.anywhere() },
            cache: &sample.cache,
            path: sample.kernel.iter().map(|frame| function::plain(frame)).collect(),
        }
    }
}

impl Baseline {
    /// The run that `file` holds.
    pub const fn new(file: String, report: Report, profile: Profile) -> Self {
        Self { file, report, profile, damage: Vec::new() }
    }

    /// With what is wrong with its file, a sentence each.
    #[must_use]
    pub fn with_notes(mut self, notes: Vec<String>) -> Self {
        self.damage = notes;
        self
    }

    /// Where it is.
    pub(super) fn file(&self) -> &str {
        &self.file
    }

    /// Takes out of `remains` what the baseline had too; also what makes them hard to compare.
    pub(super) fn apply(
        &self,
        report: &Report,
        remains: &mut Remains<'_>,
    ) -> (BaselineUse, Vec<String>) {
        let per_run = report.command.is_some() && self.report.command.is_some();
        let longer = report.window_s / self.report.window_s;
        let longer = if longer.is_finite() { longer } else { 1.0 };
        let allowance = |sample: &Sample| {
            if per_run {
                followed(sample)
            } else {
                allowed(sample, self.report.window_s, longer.min(LONGEST))
            }
        };
        let mut allowed: HashMap<Key<'_>, u64> = HashMap::new();
        for sample in &self.profile.samples {
            let objects = allowed.entry(Key::of(sample, !per_run)).or_default();
            *objects = objects.saturating_add(allowance(sample));
        }
        // From the smallest on, so that what is left is with those who have most.
        let mut parts: Vec<&mut Part<'_>> = remains.parts.iter_mut().collect();
        parts.sort_by_key(|part| part.objects);
        let mut amounts = Amounts::default();
        for part in parts {
            let Some(objects) = allowed.get_mut(&Key::of(part.sample, !per_run)) else { continue };
            let taken = part.excuse(*objects);
            *objects -= taken.0;
            amounts.add(part.sample, taken);
        }
        let used = BaselineUse {
            file: self.file.clone(),
            kernel: self.report.host.kernel.clone(),
            window_s: self.report.window_s,
            per: if per_run { "run" } else { "time" }.to_owned(),
            amounts: amounts.into_vec(),
        };
        (used, self.notes(report, per_run, longer))
    }

    /// What makes two runs hard to compare.
    fn notes(&self, report: &Report, per_run: bool, longer: f64) -> Vec<String> {
        let (now, then) = (report, &self.report);
        let mut notes = Vec::new();
        let mut note = |text: String| notes.push(format!("The baseline {text}."));
        if now.host.kernel != then.host.kernel || now.host.machine != then.host.machine {
            note(format!(
                "is of Linux {} {}, this run of {} {}: paths of the kernel may differ",
                terminal(&then.host.kernel),
                terminal(&then.host.machine),
                terminal(&now.host.kernel),
                terminal(&now.host.machine),
            ));
        }
        let differs = differences(&now.filter, &then.filter);
        if !differs.is_empty() {
            note(format!(
                "was recorded with other {}: what only one of both followed is not compared",
                differs.join(", ")
            ));
        }
        match (&now.command, &then.command) {
            (Some(now), Some(then)) if now.argv != then.argv => {
                note("is of another command".to_owned());
            }
            (Some(_), None) => note("is of no command, so amounts are compared by time".to_owned()),
            (None, Some(_)) => note("is of a command, so amounts are compared by time".to_owned()),
            _ => (),
        }
        if !per_run && !(1.0 / LONGEST..=LONGEST).contains(&longer) {
            note(format!(
                "is of a window of {}, this one is of {}: windows of the same length compare best",
                human::seconds(then.window_s),
                human::seconds(now.window_s)
            ));
        }
        if then.loss.untracked_objects > 0 {
            note(
                "is not complete: it did not follow all objects, and excuses less for it"
                    .to_owned(),
            );
        }
        if self
            .profile
            .samples
            .iter()
            .any(|sample| sample.estimated && sample.outstanding_objects > 0)
        {
            note("is in part estimated: --stacks all records it exactly".to_owned());
        }
        notes.extend(self.damage.iter().map(|note| format!("Of the baseline: {note}")));
        notes
    }
}

/// What is evidence of a leak: it alone is judged, so it alone excuses.
const fn followed(sample: &Sample) -> u64 {
    sample.outstanding_objects.saturating_sub(sample.unfollowed_objects)
}

/// Objects that a window `longer` times as long as the baseline's may hold.
fn allowed(sample: &Sample, window_s: f64, longer: f64) -> u64 {
    let had = followed(sample) as f64;
    let each = sample.outstanding_bytes as f64 / (sample.outstanding_objects as f64).max(1.0);
    let rate = sample.growth_bytes_per_s.unwrap_or(0.0) / each.max(1.0);
    // A slope is a fit: it may well foretell more than there was.
    let with_time = (rate * window_s).clamp(0.0, had);
    let objects = (had - with_time) + with_time * longer;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "whole objects, of which there are not fewer than none"
    )]
    let objects = objects.round() as u64;
    objects
}

/// Options by which something else is seen.
fn differences(now: &Filter, then: &Filter) -> Vec<&'static str> {
    [
        ("--size", now.size_classes == then.size_classes),
        ("--kind", now.kinds == then.kinds),
        ("--cache", now.caches == then.caches),
        ("--pid", now.pid == then.pid),
        ("--comm", now.comm == then.comm),
        ("--cgroup", now.cgroup == then.cgroup),
        ("--pod", now.pod == then.pod),
        ("--min-age", (now.min_age_s - then.min_age_s).abs() < 1e-9),
        ("--stacks", now.stacks == then.stacks),
    ]
    .into_iter()
    .filter_map(|(option, same)| (!same).then_some(option))
    .collect()
}

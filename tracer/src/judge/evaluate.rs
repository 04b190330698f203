//! Whether a condition holds on what is left, and how that is said.

use std::collections::{BTreeMap, BTreeSet};

use hashbrown::HashMap;

use super::condition::{Condition, Limit};
use super::remains::Row;
use crate::report::judgement::Outcome;
use crate::report::ledger::Ledger;
use crate::report::{Owner, Report, human, names, program::Program};

/// What is left, by kind of memory.
pub(super) type Books<'a> = BTreeMap<Ledger, Vec<Row<'a>>>;

/// Holds, with how it does and whose row is the guilty one; or not.
type Found<'a> = Option<(String, Option<&'a Row<'a>>)>;

/// Judges one condition. `excused` says that something was taken out of the books.
///
/// Slab memory, pages and per-CPU memory are judged each by itself, as one is made of the other.
pub(super) fn evaluate(
    condition: &Condition,
    report: &Report,
    books: &Books<'_>,
    excused: bool,
) -> Outcome {
    let expression = condition.to_string();
    let mut unknown = None;
    let found: Found<'_> = match condition.limit {
        Limit::Growth(limit) => books.values().find_map(|rows| {
            let bytes = sum(rows.iter().map(|row| row.bytes));
            let held = condition.passes(bytes as f64, limit);
            held.then(|| left_behind(rows, &human::bytes(bytes), |row| row.bytes as f64))
        }),
        Limit::Objects(limit) => books.values().find_map(|rows| {
            let objects = sum(rows.iter().map(|row| row.objects));
            let held = condition.passes_count(objects, limit);
            let what = human::counted(objects, "object");
            held.then(|| left_behind(rows, &what, |row| row.objects as f64))
        }),
        Limit::Rate(limit, per) => {
            let known = |rows: &&Vec<Row<'_>>| rows.iter().any(|row| row.rate.is_some());
            let left = |row: &Row<'_>| row.objects > 0 || row.bytes > 0;
            if books.values().flatten().any(left) && !books.values().any(|rows| known(&rows)) {
                unknown = Some("the rate is unknown: the window is too short for two counts");
            }
            books.values().filter(known).find_map(|rows| {
                let rates = rows.iter().filter_map(|row| row.rate);
                let rate: f64 = rates.filter(|rate| *rate > 0.0).sum::<f64>() * per.seconds();
                let held = condition.passes(rate, limit);
                held.then(|| {
                    let growth = format!("growing by {}/{}", human::size(rate), per.name());
                    let growing = |row: &&Row<'_>| row.rate.is_some_and(|rate| rate > 0.0);
                    blame(&rows.iter().filter(growing), &growth, |row| row.rate.unwrap_or(0.0))
                })
            })
        }
        Limit::Share(limit) => {
            let share =
                if excused { share_left(report, books) } else { share_of_verdict(report, books) };
            match share {
                None => None,
                Some(share) => condition.passes(share.part, limit).then(|| share.said(report)),
            }
        }
        Limit::Untracked(limit) => {
            let lost = report.loss.untracked_objects;
            condition.passes_count(lost, limit).then(|| {
                let verb = if lost == 1 { "was" } else { "were" };
                let text = format!(
                    "{} {verb} not followed, so the report is incomplete: raise --max-objects",
                    human::counted(lost, "allocation")
                );
                (text, None)
            })
        }
    };
    match found {
        Some((text, row)) => Outcome {
            message: Some(format!("{expression}: {text}")),
            guilty: row.map(Row::guilty),
            expression,
            held: true,
        },
        None => Outcome {
            message: unknown.map(|text| format!("{expression}: {text}")),
            guilty: None,
            expression,
            held: false,
        },
    }
}

fn sum(values: impl Iterator<Item = u64>) -> u64 {
    values.fold(0, u64::saturating_add)
}

/// `amount left behind`, and by whom, as `key` counts it.
fn left_behind<'a>(
    rows: &'a [Row<'a>],
    amount: &str,
    key: impl Fn(&Row<'_>) -> f64,
) -> (String, Option<&'a Row<'a>>) {
    let holding = rows.iter().filter(|row| row.bytes > 0 || row.objects > 0);
    blame(&holding, &format!("{amount} left behind"), key)
}

/// What the processes of a program have, taken together: one that is started again and again leaves a little
/// each time.
struct Shared<'a> {
    program: Program,
    amount: f64,
    pids: BTreeSet<Option<u32>>,
    /// The row that has most of it.
    main: &'a Row<'a>,
}

impl Shared<'_> {
    fn name(&self) -> String {
        match self.pids.len() {
            0 | 1 => names::who(self.main.owner),
            many => {
                let of =
                    if self.program.kind == "kthread" { "kernel threads" } else { "processes" };
                format!("{} ({many} {of})", names::who(&self.program.owner()))
            }
        }
    }
}

/// `what by owner, through its stack`; only "most by" when others have a part in it.
fn blame<'a>(
    rows: &(impl Iterator<Item = &'a Row<'a>> + Clone),
    what: &str,
    key: impl Fn(&Row<'_>) -> f64,
) -> (String, Option<&'a Row<'a>>) {
    let mut programs: Vec<Shared<'a>> = Vec::new();
    let mut places: HashMap<Program, usize> = HashMap::new();
    for row in rows.clone() {
        let program = Program::of(row.owner);
        let place = *places.entry(program.clone()).or_insert(programs.len());
        if let Some(shared) = programs.get_mut(place) {
            shared.amount += key(row);
            shared.pids.insert(row.owner.pid);
            if key(row) > key(shared.main) {
                shared.main = row;
            }
        } else {
            let pids = BTreeSet::from([row.owner.pid]);
            programs.push(Shared { program, amount: key(row), pids, main: row });
        }
    }
    // Of equals the first, which has the largest row.
    let most = programs.iter().reduce(|a, b| if b.amount > a.amount { b } else { a });
    let Some(guilty) = most else { return (what.to_owned(), None) };
    let (comma, most) = if programs.len() == 1 { ("", "") } else { (",", " most") };
    let through = through(guilty.main);
    (format!("{what}{comma}{most} by {}{through}", guilty.name()), Some(guilty.main))
}

/// `, most through load_msg < do_msgsnd`: callee before caller, as in the report.
fn through(row: &Row<'_>) -> String {
    let path = names::path(&row.path().kernel, 2);
    if path.is_empty() { String::new() } else { format!(", most through {}", path.join(" < ")) }
}

/// An owner's share of the growth, or of what is left behind.
struct Share<'a> {
    owner: &'a Owner,
    cache: Option<&'a str>,
    part: f64,
    /// Its largest row.
    row: Option<&'a Row<'a>>,
}

impl<'a> Share<'a> {
    fn said(self, report: &Report) -> (String, Option<&'a Row<'a>>) {
        let of = if report.verdict.growing { "the growth" } else { "what is left behind" };
        let cache = self.cache.filter(|cache| !cache.is_empty());
        let cache = cache.map_or_else(String::new, |cache| {
            format!(" in {}", crate::report::sanitize::terminal(cache))
        });
        let text = format!(
            "{} has {} of {of}{cache}{}",
            names::who(self.owner),
            human::percent(self.part),
            self.row.map_or_else(String::new, through),
        );
        (text, self.row)
    }
}

/// As the verdict has it.
fn share_of_verdict<'a>(report: &'a Report, books: &'a Books<'a>) -> Option<Share<'a>> {
    let owner = report.verdict.owner.as_ref()?;
    let cache = report.verdict.cache.as_deref();
    let rows = || books.values().flatten().filter(|row| stands_for(owner, row.owner));
    let row = rows().find(|row| Some(row.cache) == cache).or_else(|| rows().next());
    Some(Share { owner, cache, part: report.verdict.share?, row })
}

/// Of what was not excused: the largest share, be it still that of the verdict's owner or another's.
fn share_left<'a>(report: &'a Report, books: &'a Books<'a>) -> Option<Share<'a>> {
    let verdict = &report.verdict;
    // Where the verdict found nothing to hold against anyone, nothing is.
    verdict.share?;
    let amount = |row: &Row<'_>| {
        if verdict.growing { row.rate.unwrap_or(0.0).max(0.0) } else { row.bytes as f64 }
    };
    let total = |rows: &[Row<'_>]| rows.iter().map(&amount).sum::<f64>();
    let ledger = verdict.cache.as_deref().map(Ledger::of_cache).unwrap_or_default();
    let rows = match books.get(&ledger).filter(|rows| total(rows) > 0.0) {
        Some(rows) => rows,
        None => books
            .values()
            .filter(|rows| total(rows) > 0.0)
            .max_by(|a, b| total(a).total_cmp(&total(b)))?,
    };
    let of = |owner: &Owner| -> (f64, Option<&'a Row<'a>>) {
        let own = rows.iter().filter(|row| stands_for(owner, row.owner));
        let main = own.clone().reduce(|a, b| if amount(b) > amount(a) { b } else { a });
        (own.map(&amount).sum(), main)
    };
    let others = rows.iter().map(|row| (row.owner, of(row.owner)));
    let named = verdict.owner.as_ref().map(|owner| (owner, of(owner)));
    // The verdict's comes first, so that of equals it is the one.
    let all = named.into_iter().chain(others).filter(|(_, (amount, _))| *amount > 0.0);
    let (owner, (part, row)) = all.reduce(|a, b| if b.1.0 > a.1.0 { b } else { a })?;
    let part = (part / total(rows)).clamp(0.0, 1.0);
    Some(Share { owner, cache: row.map(|row| row.cache), part, row })
}

/// Whether `owner`, of whatever kind a verdict's is, is or contains `row`: a process, all processes of a
/// name in a unit, a cgroup, a pod.
fn stands_for(owner: &Owner, row: &Owner) -> bool {
    match owner.kind.as_str() {
        "cgroup" => owner.cgroup.is_some() && owner.cgroup == row.cgroup,
        "pod" => match &owner.pod_uid {
            Some(uid) => row.pod_uid.as_ref() == Some(uid),
            None => {
                owner.pod.is_some() && (&owner.pod, &owner.namespace) == (&row.pod, &row.namespace)
            }
        },
        // Without a pid it is all processes of that name.
        _ => {
            owner.kind == row.kind
                && owner.comm == row.comm
                && owner.pid.is_none_or(|pid| row.pid == Some(pid))
        }
    }
}

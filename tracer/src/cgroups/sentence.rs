//! The answer in one sentence.

use super::report::{CgroupsReport, CreatorRow};
use crate::report::{human, names};

/// Share of what was made that one maker must have to be named as the one.
const MAINLY: f64 = 0.5;

/// Says how many there are, whether they pile up, who makes them and when ids run out.
pub(super) fn summary(report: &CgroupsReport) -> String {
    let mut parts = vec![counts(report)];
    parts.extend(makers(report));
    parts.push(limit(report));
    format!("{}.", parts.join("; "))
}

fn counts(report: &CgroupsReport) -> String {
    let cgroups = &report.cgroups;
    let live = human::counted(cgroups.live, "memory cgroup");
    let are = if cgroups.live == 1 { "is" } else { "are" };
    let Some(dying) = cgroups.dying else {
        return format!("{live} {are} there, and how many are dying is unknown");
    };
    let change = match cgroups.dying_at_start {
        Some(before) if report.window_s > 0.0 && dying > before => {
            format!(", {} more than {} ago", human::count(dying - before), window(report))
        }
        Some(before) if report.window_s > 0.0 && dying < before => {
            format!(", {} fewer than {} ago", human::count(before - dying), window(report))
        }
        _ => String::new(),
    };
    format!(
        "{live} {are} there and {} dying (removed, but held by the kernel{change})",
        human::count(dying)
    )
}

fn window(report: &CgroupsReport) -> String {
    human::seconds(report.window_s)
}

fn makers(report: &CgroupsReport) -> Option<String> {
    let life = report.life.as_ref()?;
    let created = human::count(life.created);
    if life.created == 0 {
        return Some(format!("none was created in {}", window(report)));
    }
    let first = report.creators.first().filter(|row| row.created > 0);
    let share = first.map_or(0.0, |row| row.created as f64 / life.created as f64);
    let rate = per_second(life.created_per_s);
    Some(match first {
        Some(row) if row.created == life.created => {
            format!("{} created all {created} made in {}, {rate}", maker(row), window(report))
        }
        Some(row) if share > MAINLY => {
            let own = human::count(row.created);
            format!("{} created {own} of {created} in {}, {rate}", maker(row), window(report))
        }
        _ => format!("{created} were created in {}, {rate}, by many", window(report)),
    })
}

fn maker(row: &CreatorRow) -> String {
    let owner = &row.owner;
    let comm =
        names::text(owner.comm.as_ref()).unwrap_or_else(|| "a process without a name".into());
    let who = match (owner.pid, row.processes) {
        (Some(pid), _) => Some(format!("pid {pid}")),
        (None, Some(processes)) if processes > 1 => Some(format!("{processes} processes")),
        _ => None,
    };
    let place = names::place(owner);
    let facts: Vec<String> = who.into_iter().chain(place).collect();
    if facts.is_empty() { comm } else { format!("{comm} ({})", facts.join(", ")) }
}

fn per_second(rate: f64) -> String {
    if rate >= 0.05 { format!("{rate:.1}/s") } else { format!("{:.1}/min", rate * 60.0) }
}

fn limit(report: &CgroupsReport) -> String {
    let limit = &report.limit;
    let used = match limit.used_at_most {
        Some(most) if most == limit.used_at_least => human::count(most),
        Some(most) => {
            format!("{} to {}", human::count(limit.used_at_least), human::count(most))
        }
        None => format!("at least {}", human::count(limit.used_at_least)),
    };
    let of = format!("{used} of {} ids are used", human::count(limit.ids));
    // Up to 5.17 the last one is never given out.
    let none_left = |used: u64| used.saturating_add(1) >= limit.ids;
    if none_left(limit.used_at_least) {
        return format!("{of}: mkdir fails with \"No space left on device\"");
    }
    if limit.used_at_most.is_some_and(none_left) {
        return format!("{of}: mkdir may fail with \"No space left on device\"");
    }
    match limit.reached_in_s {
        Some(left) => {
            let earliest = if limit.used_at_most == Some(limit.used_at_least) {
                ""
            } else {
                " at the earliest"
            };
            format!("{of}: at this rate mkdir fails in {}{earliest}", human::duration(left))
        }
        None => of,
    }
}

//! Who a process belongs to, by its cgroup and by nothing else: a working directory, a parent or a
//! name may all point to somebody else. Pure.

use super::facts::{Cgroups, Facts, Process};
use crate::{
    host::gauge::Limit,
    report::{sanitize::terminal, text::layout::shorten},
    resolve::cgroup_path,
};

/// Columns of a path in a sentence.
const SHOWN: usize = 60;

/// An owner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Owner {
    /// systemd unit, as it is shown.
    pub unit: Option<String>,
    /// The same as `systemctl` takes it, where it can be had.
    pub unit_name: Option<String>,
    /// Pod UID.
    pub pod: Option<String>,
    /// Container id.
    pub container: Option<String>,
}

/// The owner that a process's cgroups name. On version 1 a unit without memory accounting is in
/// systemd's own hierarchy alone.
pub(super) fn of(process: &Process) -> Owner {
    let mut owner = Owner::default();
    for path in [&process.cgroup, &process.systemd_cgroup].into_iter().flatten() {
        let names = cgroup_path::parse(path);
        // The first that says anything: the hierarchies may be out of step only in what they leave out.
        if owner == Owner::default() {
            let raw = names.unit.as_ref().and_then(|unit| {
                // An escaped name is shown unescaped, and systemctl would not find it by that.
                path.split('/').find(|part| part == unit).map(str::to_owned)
            });
            owner = Owner {
                unit_name: raw,
                unit: names.unit,
                pod: names.pod_uid,
                container: names.container_id,
            };
        }
    }
    owner
}

/// The limit that a process is under.
pub(super) fn limit(facts: &Facts, process: &Process) -> Option<Limit> {
    limit_of(facts.cgroups.as_ref()?, process)
}

fn limit_of(cgroups: &Cgroups, process: &Process) -> Option<Limit> {
    cgroups.limit(process.cgroup.as_deref()?)
}

/// Where a process is, in words safe to print: `unit auditd.service`, `pod UID`, `cgroup /x`.
pub(super) fn place(process: &Process, owner: &Owner) -> String {
    if let Some(pod) = &owner.pod {
        return format!("pod {}", terminal(pod));
    }
    if let Some(container) = &owner.container {
        return format!("container {}", terminal(container.get(..12).unwrap_or(container)));
    }
    if let Some(unit) = &owner.unit {
        return format!("unit {}", terminal(unit));
    }
    match process.cgroup.as_deref() {
        Some("/") => "in no unit, pod or container".to_owned(),
        Some(path) => format!("cgroup {}", shorten(&terminal(path), SHOWN)),
        None => "cgroup unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(cgroup: &str, systemd: Option<&str>) -> Process {
        Process {
            cgroup: Some(cgroup.to_owned()),
            systemd_cgroup: systemd.map(str::to_owned),
            ..Process::default()
        }
    }

    #[test]
    fn a_unit_without_memory_accounting_is_known_by_systemds_hierarchy() {
        let crond = process("/", Some("/system.slice/crond.service"));
        let owner = of(&crond);
        assert_eq!(owner.unit_name.as_deref(), Some("crond.service"));
        assert_eq!(place(&crond, &owner), "unit crond.service");
        let none = process("/", None);
        assert_eq!(place(&none, &of(&none)), "in no unit, pod or container");
    }

    #[test]
    fn a_name_that_is_escaped_is_not_given_to_systemctl() {
        let escaped = process(r"/system.slice/a\x2db.service", None);
        let owner = of(&escaped);
        assert_eq!((owner.unit.as_deref(), owner.unit_name), (Some("a-b.service"), None));
    }

    #[test]
    fn hostile_paths_are_made_safe() {
        let hostile = process("/a\u{1b}[31m\n", None);
        assert_eq!(place(&hostile, &of(&hostile)), r"cgroup /a\x1b[31m\n");
    }
}

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
    /// Pod name, or its UID while the name is unknown.
    pub pod: Option<String>,
    /// Kubernetes namespace.
    pub namespace: Option<String>,
    /// Container name, or its id while the name is unknown.
    pub container: Option<String>,
    /// Pod UID.
    pub pod_uid: Option<String>,
    /// Container id.
    pub container_id: Option<String>,
}

/// The owner that a process's cgroups name. On version 1 a unit without memory accounting is in
/// systemd's own hierarchy alone.
pub(super) fn of(process: &Process) -> Owner {
    let mut owner = Owner::default();
    for path in process.cgroups() {
        let names = cgroup_path::parse(path);
        // The first that says anything: the hierarchies may be out of step only in what they leave out.
        if owner == Owner::default() {
            let raw = names.unit.as_ref().and_then(|unit| {
                // An escaped name is shown unescaped, and systemctl would not find it by that.
                path.split('/').find(|part| part == unit).map(str::to_owned)
            });
            let called = process.called.clone();
            let (namespace, pod) = called.pod.map(|pod| (pod.namespace, pod.name)).unzip();
            owner = Owner {
                unit_name: raw,
                unit: names.unit,
                pod: pod.or_else(|| names.pod_uid.clone()),
                namespace,
                container: called.container.or_else(|| names.container_id.clone()),
                pod_uid: names.pod_uid,
                container_id: names.container_id,
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

/// Where a process is, in words safe to print: `unit auditd.service`, `pod shop/web-0, container web`,
/// `cgroup /x`.
pub(super) fn place(process: &Process, owner: &Owner) -> String {
    let named = owner.container.as_ref().filter(|_| owner.container != owner.container_id);
    if let Some(pod) = &owner.pod {
        let space = owner.namespace.as_ref().map(|space| format!("{}/", terminal(space)));
        let inside = named.map(|name| format!(", container {}", terminal(name)));
        let (space, inside) = (space.unwrap_or_default(), inside.unwrap_or_default());
        return format!("pod {space}{}{inside}", terminal(pod));
    }
    if let Some(name) = named {
        return format!("container {}", terminal(name));
    }
    if let Some(id) = &owner.container_id {
        return format!("container {}", terminal(id.get(..12).unwrap_or(id)));
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
    use crate::{host::containers::Pod, resolve::containers::Named};

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
    fn pods_and_containers_go_by_their_names_where_these_are_known() {
        let (uid, id) = ("2c3f9a60-0b1d-4e77-9a51-5d6f7a8b9c01", "ab".repeat(32));
        let mut process = process(&format!("/kubepods/burstable/pod{uid}/{id}"), None);
        assert_eq!(place(&process, &of(&process)), format!("pod {uid}"));
        let pod = Pod { namespace: "shop".to_owned(), name: "cart-0".to_owned() };
        process.called = Named { pod: Some(pod), container: Some("cart".to_owned()) };
        let owner = of(&process);
        assert_eq!(place(&process, &owner), "pod shop/cart-0, container cart");
        assert_eq!((owner.pod_uid.as_deref(), owner.container_id), (Some(uid), Some(id)));
    }

    #[test]
    fn hostile_paths_are_made_safe() {
        let hostile = process("/a\u{1b}[31m\n", None);
        assert_eq!(place(&hostile, &of(&hostile)), r"cgroup /a\x1b[31m\n");
    }
}

//! Who is who in two recordings: a program keeps its name and its place when it is started again, but neither
//! its pid nor the parts of names that are made up for each start.

use serde::Serialize;

use crate::report::Owner;

/// A program and where it lives, by what stays the same from one run to the next. What is not part of its
/// identity is `null`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Program {
    /// As [`Owner::kind`].
    pub kind: String,
    /// Name of the process; of a kernel thread without its number: `kworker/*`.
    pub comm: Option<String>,
    /// systemd unit, where it is in no pod; `session-*.scope`.
    pub unit: Option<String>,
    /// Pod, without what its controller made up: `coredns-*`.
    pub pod: Option<String>,
    /// Kubernetes namespace.
    pub namespace: Option<String>,
    /// Name of the container.
    pub container: Option<String>,
    /// Cgroup of what is in neither pod, unit nor named container, ids in it as `*`.
    pub cgroup: Option<String>,
}

impl Program {
    /// What an owner is an instance of.
    #[must_use]
    pub fn of(owner: &Owner) -> Self {
        let comm = owner.comm.as_deref().map(|comm| match owner.kind.as_str() {
            "kthread" => thread(comm),
            _ => comm.to_owned(),
        });
        let mut program = Self { kind: owner.kind.clone(), comm, ..Self::default() };
        if owner.kind != "process" {
            return program;
        }
        // An id instead of a name is another in each run.
        program.container =
            owner.container.clone().filter(|_| owner.container != owner.container_id);
        if owner.pod.is_some() || owner.pod_uid.is_some() {
            program.pod = Some(pod(owner));
            program.namespace.clone_from(&owner.namespace);
        } else if let Some(unit) = &owner.unit {
            program.unit = Some(self::unit(unit));
        } else if program.container.is_none() {
            program.cgroup = owner.cgroup.as_deref().map(cgroup);
        }
        program
    }

    /// The same as an owner, for what prints owners.
    #[must_use]
    pub fn owner(&self) -> Owner {
        let Self { kind, comm, unit, pod, namespace, container, cgroup } = self.clone();
        Owner { kind, comm, unit, pod, namespace, container, cgroup, ..Owner::default() }
    }
}

/// What pods of one controller have in common.
pub(super) fn pod(owner: &Owner) -> String {
    match &owner.pod {
        Some(name) if owner.pod != owner.pod_uid => stem(name),
        // A UID is another in each run.
        _ => "*".to_owned(),
    }
}

/// A cgroup's path, with ids as `*`.
pub(super) fn cgroup(path: &str) -> String {
    path.split('/').map(component).collect::<Vec<_>>().join("/")
}

/// A pod's name without what a Deployment, `ReplicaSet`, `DaemonSet`, Job or `CronJob` adds to its own: five
/// characters, before them up to ten of a hash or a time (`SafeEncodeString` in Kubernetes'
/// `apimachinery/pkg/util/rand`: no vowels, no 0, 1 or 3, so that few names look so).
fn stem(name: &str) -> String {
    let generated = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| b"bcdfghjklmnpqrstvwxz2456789".contains(&byte))
    };
    let Some((rest, _)) =
        name.rsplit_once('-').filter(|(_, last)| last.len() == 5 && generated(last))
    else {
        return name.to_owned();
    };
    let base = match rest.rsplit_once('-') {
        Some((base, hash))
            if (6..=10).contains(&hash.len()) && generated(hash)
                || hash.len() >= 8 && hash.bytes().all(|byte| byte.is_ascii_digit()) =>
        {
            base
        }
        _ => rest,
    };
    format!("{base}-*")
}

/// A unit without the number of a session or of a command run by systemd-run.
fn unit(name: &str) -> String {
    let Some((base, kind)) = name.rsplit_once('.') else { return name.to_owned() };
    let numbered = |prefix: &str, digits: fn(&u8) -> bool| {
        let rest = base.strip_prefix(prefix)?;
        (!rest.is_empty() && rest.bytes().all(|byte| digits(&byte)))
            .then(|| format!("{prefix}*.{kind}"))
    };
    numbered("session-", u8::is_ascii_digit)
        .or_else(|| numbered("session-c", u8::is_ascii_digit))
        .or_else(|| numbered("run-u", u8::is_ascii_digit))
        .or_else(|| numbered("run-r", u8::is_ascii_hexdigit))
        .unwrap_or_else(|| component(name))
}

/// `kworker/0:1H` and `ksoftirqd/3` are of a kind.
fn thread(comm: &str) -> String {
    match comm.split_once('/') {
        Some((name, _)) => format!("{name}/*"),
        None => comm.to_owned(),
    }
}

/// Shortest run of hexadecimal digits that is taken for an id: docker's short ones.
const ID: usize = 12;

/// One part of a path, with ids of containers and pods as `*`.
fn component(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    let mut run = String::new();
    let flush = |run: &mut String, out: &mut String| {
        let digits = run.bytes().filter(u8::is_ascii_hexdigit).count();
        let separators = run.len() - digits;
        // A long number is an id, a long word of the letters a to f is not there.
        if digits >= ID && separators <= 4 && run.bytes().any(|byte| byte.is_ascii_digit()) {
            // The `d` of `pod6f1d…` is none of its digits.
            out.push_str(if out.ends_with("po") && run.starts_with('d') { "d*" } else { "*" });
        } else {
            out.push_str(run);
        }
        run.clear();
    };
    for c in name.chars() {
        // UUIDs are written with `-`, and in names of slices with `_`.
        let joins = matches!(c, '-' | '_') && run.len() >= 4;
        if matches!(c, '0'..='9' | 'a'..='f') || joins {
            run.push(c);
        } else {
            flush(&mut run, &mut out);
            out.push(c);
        }
    }
    flush(&mut run, &mut out);
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::report::sample;

    #[test]
    fn pods_lose_what_was_made_up() {
        for (name, expected) in [
            ("coredns-5d78c9869d-x2x7k", "coredns-*"),
            ("kube-proxy-x2x7k", "kube-proxy-*"),
            ("backup-28012345-x2x7k", "backup-*"),
            ("web-0", "web-0"),
            ("my-stats", "my-stats"),
            ("etcd-node7", "etcd-node7"),
            ("x2x7k", "x2x7k"),
            ("", ""),
        ] {
            assert_eq!(stem(name), expected, "{name}");
        }
    }

    #[test]
    fn ids_in_paths_are_one() {
        let id = "3f1c5e0a9b7d4c2e8f6a1b3d5c7e9f0a3f1c5e0a9b7d4c2e8f6a1b3d5c7e9f0a";
        for (path, expected) in [
            (format!("/docker/{id}"), "/docker/*"),
            (format!("/system.slice/docker-{id}.scope"), "/system.slice/docker-*.scope"),
            ("/kubepods/pod6f1d2c3a-1111-2222-3333-444455556666".into(), "/kubepods/pod*"),
            ("/user.slice/user-1000.slice".into(), "/user.slice/user-1000.slice"),
            ("/system.slice/cafe-babe.service".into(), "/system.slice/cafe-babe.service"),
            ("/".into(), "/"),
        ] {
            assert_eq!(cgroup(&path), expected, "{path}");
        }
        assert_eq!(unit("session-12.scope"), "session-*.scope");
        assert_eq!(unit("session-c2.scope"), "session-*.scope".replace("-*", "-c*"));
        assert_eq!(unit("run-u841.service"), "run-u*.service");
        assert_eq!(unit("run-r0a1b2c.scope"), "run-r*.scope");
        assert_eq!(unit("kubelet.service"), "kubelet.service");
        assert_eq!(unit("run-docker.service"), "run-docker.service");
    }

    #[test]
    fn a_program_is_the_same_when_started_again() {
        let kubelet = sample::kubelet();
        let again = Owner { pid: Some(9), exited: None, ..kubelet.clone() };
        assert_eq!(Program::of(&kubelet), Program::of(&again));
        let pod = sample::pod_worker();
        let again = Owner {
            pid: Some(3),
            pod: Some("coredns-5d78c9869d-zzzzz".into()),
            pod_uid: Some("77".into()),
            container_id: Some("b2".into()),
            cgroup: Some("/elsewhere".into()),
            cgroup_removed: None,
            ..pod.clone()
        };
        assert_eq!(Program::of(&pod), Program::of(&again));
        assert_eq!(Program::of(&pod).pod.as_deref(), Some("coredns-*"));
        assert_ne!(Program::of(&pod), Program::of(&kubelet));
        let thread = |comm: &str| {
            Program::of(&Owner {
                kind: "kthread".into(),
                comm: Some(comm.into()),
                ..Owner::default()
            })
        };
        assert_eq!(thread("kworker/u8:2"), thread("kworker/0:1H"));
        assert_ne!(thread("kworker/u8:2"), thread("kswapd0"));
    }

    proptest! {
        #[test]
        fn any_names_are_taken(name in any::<String>()) {
            let owner = Owner {
                kind: "process".into(), comm: Some(name.clone()), pod: Some(name.clone()),
                unit: Some(name.clone()), cgroup: Some(name.clone()), ..Owner::default()
            };
            let program = Program::of(&owner);
            prop_assert_eq!(Program::of(&program.owner()), program);
            prop_assert!(unit(&name).len() <= name.len() + 1 && cgroup(&name).len() <= name.len());
            prop_assert!(thread(&name).len() <= name.len() + 1);
        }
    }
}

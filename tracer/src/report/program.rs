//! Who is who in two runs: a program keeps its name and its place when it is started again, but neither its
//! pid nor what systemd, Kubernetes and container runtimes make up anew for each start.

use serde::Serialize;

use super::Owner;

/// The letters of names that Kubernetes generates (`k8s.io/apimachinery/pkg/util/rand`): no vowels, and
/// nothing that looks like another.
const GENERATED: &str = "bcdfghjklmnpqrstvwxz2456789";

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
            program.unit = Some(component(unit));
        } else if program.container.is_none() {
            program.cgroup = owner.cgroup.as_deref().map(cgroup);
        }
        program
    }

    /// The same wherever it runs: the same job may run in another unit on each machine.
    #[must_use]
    pub fn anywhere(self) -> Self {
        Self { kind: self.kind, comm: self.comm, ..Self::default() }
    }

    /// The same as an owner, for what prints owners.
    #[must_use]
    pub fn owner(&self) -> Owner {
        let Self { kind, comm, unit, pod, namespace, container, cgroup } = self.clone();
        Owner { kind, comm, cgroup, unit, pod, namespace, container, ..Owner::default() }
    }
}

/// What pods of one controller have in common.
pub(crate) fn pod(owner: &Owner) -> String {
    match &owner.pod {
        Some(name) if owner.pod != owner.pod_uid => stem(name),
        // A UID is another in each run.
        _ => "*".to_owned(),
    }
}

/// A cgroup's path, with `*` for ids.
pub(crate) fn cgroup(path: &str) -> String {
    path.split('/').map(component).collect::<Vec<_>>().join("/")
}

/// A pod's name without what its controller adds: `web-6d4cf56db6-x7k2p` is of `web-*`, as is `web-x7k2p`, and
/// `backup-28912345-x7k2p` of `backup-*`; `db-0` stays, as a StatefulSet means each of its pods. Nothing tells
/// a word of five such letters from what is made up, so a bare pod `db-mssql` is of `db-*` too.
fn stem(name: &str) -> String {
    let made_up = |part: &str| !part.is_empty() && part.chars().all(|c| GENERATED.contains(c));
    let Some((before, last)) = name.rsplit_once('-') else { return name.to_owned() };
    if before.is_empty() || last.len() != 5 || !made_up(last) {
        return name.to_owned();
    }
    let base = match before.rsplit_once('-') {
        Some((base, hash)) => {
            let of_replica_set = (6..=10).contains(&hash.len()) && made_up(hash);
            let of_cron_job = hash.len() >= 8 && hash.bytes().all(|byte| byte.is_ascii_digit());
            if !base.is_empty() && (of_replica_set || of_cron_job) { base } else { before }
        }
        None => before,
    };
    format!("{base}-*")
}

/// `kworker/0:1H` and `ksoftirqd/3` are of a kind.
fn thread(comm: &str) -> String {
    match comm.split_once('/') {
        Some((name, _)) => format!("{name}/*"),
        None => comm.to_owned(),
    }
}

/// A component of a cgroup's path, or a unit, with `*` for ids: UUIDs, 12 or more hexadecimal digits, and
/// the numbers of sessions and of transient units (`session-12.scope`, `run-u40.service`,
/// `run-p123-i456.scope`, `run-r` and 32 digits).
fn component(name: &str) -> String {
    let counted = ["session-", "run-u", "run-p"].iter().any(|p| name.starts_with(p));
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(c) = rest.chars().next() {
        let length = uuid(rest).or_else(|| {
            // The id of `run-r…` follows its letter.
            let starts = out == "run-r" || !out.ends_with(|c: char| c.is_ascii_alphanumeric());
            // Asked first: a long word is not to be read from each of its letters.
            if starts { hash(rest) } else { None }
        });
        let number = || (counted && c.is_ascii_digit()).then(|| digits(rest));
        let (shown, length) = match length.or_else(number) {
            Some(length) => ('*', length),
            None => (c, c.len_utf8()),
        };
        out.push(shown);
        rest = rest.get(length..).unwrap_or_default();
    }
    out
}

/// How long the UUID is that `text` begins with. systemd wants `_` for the `-` of a pod's.
fn uuid(text: &str) -> Option<usize> {
    const LENGTH: usize = 36;
    let fits = |(at, byte): (usize, &u8)| match at {
        8 | 13 | 18 | 23 => matches!(byte, b'-' | b'_'),
        _ => byte.is_ascii_hexdigit(),
    };
    text.as_bytes().get(..LENGTH)?.iter().enumerate().all(fits).then_some(LENGTH)
}

/// How long the word of hexadecimal digits is that `text` begins with, if it is long enough for an id.
fn hash(text: &str) -> Option<usize> {
    const SHORTEST: usize = 12;
    let length = text.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(text.len());
    let word = text.get(..length)?;
    let ends = !text.get(length..)?.starts_with(|c: char| c.is_ascii_alphanumeric());
    (length >= SHORTEST && ends && word.contains(|c: char| c.is_ascii_digit())).then_some(length)
}

fn digits(text: &str) -> usize {
    text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::report::sample;

    #[test]
    fn pods_are_called_by_what_made_them() {
        for (name, expected) in [
            ("web-6d4cf56db6-x7k2p", "web-*"),
            ("coredns-5d78c9869d-x2x7k", "coredns-*"),
            ("my-web-app-6d4cf56db6-x7k2p", "my-web-app-*"),
            ("node-exporter-x7k2p", "node-exporter-*"),
            ("backup-28912345-x7k2p", "backup-*"),
            ("db-0", "db-0"),
            ("db-mssql", "db-*"),
            ("etcd-master1", "etcd-master1"),
            ("my-stats", "my-stats"),
            ("web", "web"),
            ("x2x7k", "x2x7k"),
            ("-x7k2p", "-x7k2p"),
            ("", ""),
        ] {
            assert_eq!(stem(name), expected, "{name}");
        }
    }

    #[test]
    fn ids_in_units_and_paths_do_not_count() {
        let hash = "3f1c5e0a9b7d4c2e8f6a1b3d5c7e9f0a3f1c5e0a9b7d4c2e8f6a1b3d5c7e9f0a";
        for (name, expected) in [
            ("kubelet.service".to_owned(), "kubelet.service"),
            (format!("docker-{hash}.scope"), "docker-*.scope"),
            (format!("cri-containerd-{hash}.scope"), "cri-containerd-*.scope"),
            ("session-12.scope".to_owned(), "session-*.scope"),
            ("run-u40.service".to_owned(), "run-u*.service"),
            ("run-p123-i456.scope".to_owned(), "run-p*-i*.scope"),
            (
                "kubepods-pod6f1d2c3b_1a2b_3c4d_5e6f_7a8b9c0d1e2f.slice".to_owned(),
                "kubepods-pod*.slice",
            ),
            ("6f1d2c3b-1a2b-3c4d-5e6f-7a8b9c0d1e2f".to_owned(), "*"),
            ("session-c2.scope".to_owned(), "session-c*.scope"),
            (format!("run-r{}.scope", &hash[..32]), "run-r*.scope"),
            ("run-docker.service".to_owned(), "run-docker.service"),
            ("cafe-babe.service".to_owned(), "cafe-babe.service"),
            ("user-1000.slice".to_owned(), "user-1000.slice"),
            ("user@1000.service".to_owned(), "user@1000.service"),
            ("web-1.service".to_owned(), "web-1.service"),
            ("é".to_owned(), "é"),
        ] {
            assert_eq!(component(&name), expected, "{name}");
        }
    }

    #[test]
    fn a_long_word_is_read_once() {
        let name = format!("x{}", "a".repeat(1 << 20));
        let began = std::time::Instant::now();
        assert_eq!(component(&name), name);
        assert!(began.elapsed().as_secs() < 60, "{:?}", began.elapsed());
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
        let elsewhere = Owner { unit: Some("other.service".into()), ..kubelet.clone() };
        assert_ne!(Program::of(&kubelet), Program::of(&elsewhere));
        assert_eq!(Program::of(&kubelet).anywhere(), Program::of(&elsewhere).anywhere());
    }

    proptest! {
        #[test]
        fn any_name_will_do(name in "[a-f0-9-]{0,40}|\\PC{0,20}|(session-|run-u)[0-9a-zé.-]{0,9}") {
            let owner = Owner {
                kind: "process".into(), comm: Some(name.clone()), pod: Some(name.clone()),
                unit: Some(name.clone()), cgroup: Some(name.clone()), ..Owner::default()
            };
            let program = Program::of(&owner);
            prop_assert_eq!(Program::of(&program.owner()), program);
            let once = component(&name);
            prop_assert_eq!(component(&once), once);
        }
    }
}

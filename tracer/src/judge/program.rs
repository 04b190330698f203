//! What an owner is called in every run: without pids, and without what systemd, Kubernetes and container
//! runtimes make up anew for each.

use crate::report::Owner;

/// The letters of names that Kubernetes generates (`k8s.io/apimachinery/pkg/util/rand`): no vowels, and
/// nothing that looks like another.
const GENERATED: &str = "bcdfghjklmnpqrstvwxz2456789";

/// An owner, as it is called in every run.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Program {
    kind: String,
    comm: Option<String>,
    place: Option<String>,
}

impl Program {
    /// `in_place` says that where it runs counts too. What a command leaves behind is the command's
    /// wherever it was started: the same job may run in another unit on each machine.
    pub(super) fn of(owner: &Owner, in_place: bool) -> Self {
        let comm = owner.comm.as_deref();
        Self {
            kind: owner.kind.clone(),
            comm: comm
                .map(|comm| if owner.kind == "kthread" { kthread(comm) } else { comm.into() }),
            place: in_place.then(|| place(owner)).flatten(),
        }
    }
}

/// `kworker/u8:3-events_unbound` as `kworker/u*:*-events_unbound`: numbers are of workers and CPUs.
fn kthread(comm: &str) -> String {
    let mut name = String::with_capacity(comm.len());
    for c in comm.chars() {
        if !c.is_ascii_digit() {
            name.push(c);
        } else if !name.ends_with('*') {
            name.push('*');
        }
    }
    name
}

/// Pod and container, else unit, else cgroup.
fn place(owner: &Owner) -> Option<String> {
    let container = owner.container.as_ref().filter(|_| owner.container != owner.container_id);
    if let Some(name) = owner.pod.as_ref().filter(|_| owner.pod != owner.pod_uid) {
        let namespace = owner.namespace.as_deref().unwrap_or_default();
        let container = container.map_or("", String::as_str);
        return Some(format!("pod {namespace}/{}/{container}", pod(name)));
    }
    match (&owner.unit, container, &owner.cgroup) {
        (_, Some(container), _) => Some(format!("container {container}")),
        (Some(unit), ..) => Some(format!("unit {}", component(unit))),
        (_, _, Some(path)) => {
            let parts: Vec<String> = path.split('/').map(component).collect();
            Some(format!("cgroup {}", parts.join("/")))
        }
        (None, None, None) => None,
    }
}

/// The name of what made the pod: `web-6d4cf56db6-x7k2p` is of `web`, as is `web-x7k2p`, and
/// `backup-28912345-x7k2p` of `backup`; `db-0` stays, as a StatefulSet means each of its pods.
fn pod(name: &str) -> &str {
    let made_up = |part: &str| part.chars().all(|c| GENERATED.contains(c));
    let Some((before, last)) = name.rsplit_once('-') else { return name };
    if before.is_empty() || last.len() != 5 || !made_up(last) {
        return name;
    }
    let Some((first, hash)) = before.rsplit_once('-') else { return before };
    let of_replica_set = (6..=10).contains(&hash.len()) && made_up(hash);
    let of_cron_job = hash.len() >= 8 && hash.bytes().all(|byte| byte.is_ascii_digit());
    if !first.is_empty() && (of_replica_set || of_cron_job) { first } else { before }
}

/// A component of a cgroup's path, or a unit, with `*` for ids: UUIDs, 12 or more hexadecimal digits, and
/// the numbers of sessions and of transient units (`session-12.scope`, `run-u40.service`,
/// `run-p123-i456.scope`).
fn component(name: &str) -> String {
    let counted = ["session-", "run-u", "run-p", "run-r"].iter().any(|p| name.starts_with(p));
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(c) = rest.chars().next() {
        let length = uuid(rest).or_else(|| {
            let starts = !out.ends_with(|c: char| c.is_ascii_alphanumeric());
            hash(rest).filter(|_| starts)
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

    #[test]
    fn pods_are_called_by_what_made_them() {
        for (name, expected) in [
            ("web-6d4cf56db6-x7k2p", "web"),
            ("coredns-5d78c9869d-x2x7k", "coredns"),
            ("my-web-app-6d4cf56db6-x7k2p", "my-web-app"),
            ("node-exporter-x7k2p", "node-exporter"),
            ("backup-28912345-x7k2p", "backup"),
            ("db-0", "db-0"),
            ("etcd-master1", "etcd-master1"),
            ("web", "web"),
            ("-x7k2p", "-x7k2p"),
            ("", ""),
        ] {
            assert_eq!(pod(name), expected, "{name}");
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
            ("user@1000.service".to_owned(), "user@1000.service"),
            ("web-1.service".to_owned(), "web-1.service"),
            ("é".to_owned(), "é"),
        ] {
            assert_eq!(component(&name), expected, "{name}");
        }
    }

    #[test]
    fn kernel_threads_are_called_without_numbers() {
        let owner = |comm: &str| Owner {
            kind: "kthread".into(),
            comm: Some(comm.into()),
            ..Owner::default()
        };
        let program = |comm: &str| Program::of(&owner(comm), true);
        assert_eq!(program("kworker/u8:3-events"), program("kworker/u16:12-events"));
        assert_ne!(program("kworker/u8:3-events"), program("kworker/0:3-events"));
        assert_ne!(program("kworker/u8:3-events"), program("kworker/u8:3-ext4"));
    }

    proptest! {
        #[test]
        fn any_name_will_do(name in "[a-f0-9-]{0,40}|\\PC{0,20}|(session-|run-u)[0-9a-zé.-]{0,9}") {
            let owner = Owner {
                kind: "kthread".into(),
                comm: Some(name.clone()),
                cgroup: Some(format!("/{name}/{name}")),
                ..Owner::default()
            };
            let program = Program::of(&owner, true);
            prop_assert_eq!(&program, &Program::of(&owner, true));
            prop_assert!(pod(&name).len() <= name.len());
            let once = component(&name);
            prop_assert_eq!(component(&once), once);
        }
    }
}

//! What to call an owner and where it lives, safe to print.

use std::sync::Arc;

use kleak_common::role;

use super::Owner;
use super::sanitize::terminal;
use crate::resolve::roles;

/// The owner in a word: `kubelet[1165]`, `[softirq]`, a pod, a cgroup, whatever its row stands for.
pub fn who(owner: &Owner) -> String {
    match owner.kind.as_str() {
        "softirq" | "hardirq" => format!("[{}]", owner.kind),
        // Nobody, or the slab allocator for itself.
        "unknown" => {
            text(owner.comm.as_ref()).map_or_else(|| "[unknown]".into(), |name| format!("[{name}]"))
        }
        // Without its container: a pod has several.
        "pod" => pod(owner).or_else(|| place(owner)).unwrap_or_else(|| "(no pod)".into()),
        "cgroup" => text(owner.cgroup.as_ref())
            .map_or_else(|| "(no cgroup)".into(), |path| marked(path, owner)),
        _ => match (text(owner.comm.as_ref()), owner.pid) {
            (Some(comm), Some(pid)) => format!("{comm}[{pid}]"),
            (Some(comm), None) => comm,
            (None, Some(pid)) => format!("pid {pid}"),
            (None, None) => "[unknown]".into(),
        },
    }
}

/// Where the owner lives, nearest to what one would act on: pod and container, unit, else cgroup.
pub fn place(owner: &Owner) -> Option<String> {
    place_of(owner, container(owner).as_deref())
}

/// The same without its container, where a pod or unit is known.
pub(super) fn wider_place(owner: &Owner) -> Option<String> {
    let has_wider = owner.pod.is_some() || owner.pod_uid.is_some() || owner.unit.is_some();
    place_of(owner, container(owner).filter(|_| !has_wider).as_deref())
}

fn place_of(owner: &Owner, inside: Option<&str>) -> Option<String> {
    let container = || inside.map(|name| format!("container {name}"));
    let with_container = |place: String| match container() {
        Some(container) => format!("{place}, {container}"),
        None => place,
    };
    pod(owner)
        .map(with_container)
        .or_else(|| text(owner.unit.as_ref()).map(with_container))
        .or_else(container)
        .or_else(|| {
            if owner.kind == "kthread" {
                Some("kernel thread".into())
            } else {
                text(owner.cgroup.as_ref())
            }
        })
        .map(|place| marked(place, owner))
}

/// `place` with a mark when the owner's cgroup has been removed.
pub(super) fn marked(place: String, owner: &Owner) -> String {
    if owner.cgroup_removed == Some(true) { format!("{place} (removed)") } else { place }
}

/// `namespace/pod`.
pub fn pod(owner: &Owner) -> Option<String> {
    let pod = text(owner.pod.as_ref()).or_else(|| text(owner.pod_uid.as_ref()))?;
    Some(match text(owner.namespace.as_ref()) {
        Some(namespace) => format!("{namespace}/{pod}"),
        None => pod,
    })
}

/// The container's name; of its id as much as docker and crictl show.
pub fn container(owner: &Owner) -> Option<String> {
    const SHORT_ID: usize = 12;
    let name = text(owner.container.as_ref())?;
    let is_id = owner.container == owner.container_id;
    Some(if is_id { name.chars().take(SHORT_ID).collect() } else { name })
}

/// A name that is there and not empty, safe to print.
pub fn text(name: Option<&String>) -> Option<String> {
    name.filter(|name| !name.is_empty()).map(|name| terminal(name).into_owned())
}

/// Names of which the first few stand for all, safe to print.
pub fn list(names: &[String]) -> String {
    const SHOWN: usize = 4;
    let shown: Vec<_> = names.iter().take(SHOWN).map(|name| terminal(name)).collect();
    match names.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// The functions from the one that called the allocator on, leaf first; all, where there is no other.
pub(crate) fn past_allocator(kernel: &[Arc<str>]) -> &[Arc<str>] {
    let past = kernel.iter().position(|frame| !is_allocator(frame)).unwrap_or(0);
    kernel.get(past..).unwrap_or_default()
}

/// The functions that say what a stack is about: past the allocator, nearest first.
pub fn path(kernel: &[Arc<str>], frames: usize) -> Vec<String> {
    let kernel = past_allocator(kernel).iter();
    kernel.take(frames).map(|frame| terminal(frame).into_owned()).collect()
}

/// Whether a frame is an allocator itself, which is on every stack and tells nothing.
pub(crate) fn is_allocator(frame: &str) -> bool {
    if roles::role(frame) != role::OTHER {
        return true;
    }
    let frame = frame.trim_start_matches('_');
    [
        "kmalloc",
        "kvmalloc",
        "kzalloc",
        "kcalloc",
        "kmem_cache_alloc",
        "krealloc",
        "slab_",
        "do_kmalloc",
    ]
    .iter()
    .any(|prefix| frame.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    fn owner(kind: &str) -> Owner {
        Owner { kind: kind.into(), ..Owner::default() }
    }

    #[test]
    fn owners_are_called_by_what_they_are() {
        let kubelet = sample::kubelet();
        assert_eq!(who(&kubelet), "kubelet[1165]");
        assert_eq!(place(&kubelet).as_deref(), Some("kubelet.service"));
        assert_eq!(who(&owner("softirq")), "[softirq]");
        assert_eq!(place(&owner("hardirq")), None);
        assert_eq!(place(&owner("kthread")).as_deref(), Some("kernel thread"));
        assert_eq!(who(&owner("process")), "[unknown]");
        assert_eq!(who(&Owner { pid: Some(7), ..owner("process") }), "pid 7");
        assert_eq!(who(&Owner { comm: Some("load_msg".into()), ..owner("site") }), "load_msg");
        let pod = Owner {
            pod: Some("web-0".into()),
            namespace: Some("shop".into()),
            unit: Some("cri-x.scope".into()),
            ..owner("pod")
        };
        assert_eq!(who(&pod), "shop/web-0");
        assert_eq!(place(&pod).as_deref(), Some("shop/web-0"));
        let pod = Owner { container: Some("web".into()), ..pod };
        assert_eq!(who(&pod), "shop/web-0");
        assert_eq!(place(&pod).as_deref(), Some("shop/web-0, container web"));
        let id = Some("3f1c5e0a9b7d4c2e8f6a1b3d5c7e9f0a".to_owned());
        let docker = Owner { container: id.clone(), container_id: id, ..owner("process") };
        assert_eq!(place(&docker).as_deref(), Some("container 3f1c5e0a9b7d"));
        let quadlet = Owner { unit: Some("web.service".into()), ..docker };
        assert_eq!(place(&quadlet).as_deref(), Some("web.service, container 3f1c5e0a9b7d"));
        assert_eq!(who(&owner("pod")), "(no pod)");
        let removed = Owner { cgroup_removed: Some(true), ..kubelet };
        assert_eq!(place(&removed).as_deref(), Some("kubelet.service (removed)"));
        let row = Owner { kind: "cgroup".into(), ..removed };
        assert_eq!(who(&row), "/system.slice/kubelet.service (removed)");
    }

    #[test]
    fn paths_begin_past_the_allocator() {
        let mut stack = sample::msg_stack(3);
        assert_eq!(path(&stack.kernel, 2), ["load_msg", "do_msgsnd"]);
        stack.kernel = crate::report::frames(["__kmalloc_noprof"]);
        assert_eq!(path(&stack.kernel, 2), ["__kmalloc_noprof"]);
        stack.kernel = crate::report::frames(["a\nb"]);
        assert_eq!(path(&stack.kernel, 2), [r"a\nb"]);
        stack.kernel = crate::report::Frames::default();
        assert!(path(&stack.kernel, 2).is_empty());
    }
}

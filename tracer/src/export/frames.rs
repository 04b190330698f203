//! What every export shows a stack as: frames from the root to the leaf, the same in each, so that a
//! path that is found in one can be searched for in another.

use std::sync::Arc;

use crate::report::{Owner, ledger::Ledger, sanitize};

/// What a frame stands for. Exports that have colours give each its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// The books that the memory is in: see [`Ledger`].
    Ledger,
    /// A pod, unit or cgroup.
    Group,
    /// A process, a kernel thread, a kind of interrupt.
    Owner,
    /// A function of a process.
    User,
    /// A function of the kernel.
    Kernel,
    /// A function of a kernel module, written `name [module]` as perf does.
    Module,
    /// The slab cache, or what stands in its place.
    Cache,
}

/// One frame. Its name is never empty and holds nothing that steers a terminal, and no `;`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Frame {
    /// What it stands for.
    pub kind: Kind,
    /// What it is called.
    pub name: String,
}

impl Frame {
    fn new(kind: Kind, name: impl Into<String>) -> Self {
        Self { kind, name: name.into() }
    }
}

/// All of a path, root first: `[pod or unit or cgroup]`, `comm-pid`, user functions, kernel functions,
/// `[cache]`. `user` and `kernel` are leaf first.
pub fn path(owner: &Owner, user: &[Arc<str>], kernel: &[Arc<str>], cache: &str) -> Vec<Frame> {
    let mut frames = roots(owner);
    frames.extend(user.iter().rev().map(|function| user_function(function)));
    frames.extend(kernel.iter().rev().map(|function| kernel_function(function)));
    frames.push(leaf(cache));
    frames
}

/// Above the roots of all owners, where there are several ledgers: what one allocator makes of its memory
/// is memory of the other, so no tool may add them up, and each has a root of its own.
pub fn book(ledger: Ledger) -> Frame {
    Frame::new(Kind::Ledger, format!("[{ledger}]"))
}

/// What every stack of an owner begins with: the group it belongs to, and itself.
pub fn roots(owner: &Owner) -> Vec<Frame> {
    let itself = match (present(owner.comm.as_ref()), owner.pid) {
        (Some(comm), Some(pid)) => format!("{comm}-{pid}"),
        (Some(comm), None) => comm,
        (None, Some(pid)) => format!("[unknown]-{pid}"),
        (None, None) => "[unknown]".into(),
    };
    let of_kernel =
        |itself| vec![Frame::new(Kind::Group, "[kernel]"), Frame::new(Kind::Owner, itself)];
    match owner.kind.as_str() {
        kind @ ("softirq" | "hardirq") => return of_kernel(kind.to_owned()),
        "kthread" => return of_kernel(itself),
        _ => (),
    }
    // An id says no more than the path that it is in.
    let container = owner.container.as_ref().filter(|_| owner.container != owner.container_id);
    let group = [
        owner.pod.as_ref(),
        owner.pod_uid.as_ref(),
        owner.unit.as_ref(),
        container,
        owner.cgroup.as_ref(),
    ];
    let group = group.into_iter().find_map(present).unwrap_or_else(|| "unknown".into());
    vec![Frame::new(Kind::Group, format!("[{group}]")), Frame::new(Kind::Owner, itself)]
}

/// The cgroup of an owner, for a root of its own.
pub fn cgroup(owner: &Owner) -> Frame {
    let of_kernel = matches!(owner.kind.as_str(), "softirq" | "hardirq" | "kthread");
    let unknown = if of_kernel { "kernel" } else { "unknown" };
    let path = present(owner.cgroup.as_ref()).unwrap_or_else(|| unknown.into());
    Frame::new(Kind::Group, format!("[{path}]"))
}

/// What every stack into a cache ends with.
pub fn leaf(cache: &str) -> Frame {
    let cache = present(Some(cache)).unwrap_or_else(|| "unknown".into());
    Frame::new(Kind::Cache, format!("[{cache}]"))
}

/// A function of a process.
pub fn user_function(function: &str) -> Frame {
    Frame::new(Kind::User, name(function))
}

/// A function of the kernel or of a module.
pub fn kernel_function(function: &str) -> Frame {
    let name = name(function);
    let of_module = name.ends_with(']') && name.contains(" [");
    Frame::new(if of_module { Kind::Module } else { Kind::Kernel }, name)
}

fn name(frame: &str) -> String {
    present(Some(frame)).unwrap_or_else(|| "[unknown]".into())
}

/// The name, fit for a frame; blanks at its ends would be lost or misread by other tools.
fn present(name: Option<&(impl AsRef<str> + ?Sized)>) -> Option<String> {
    let name = name?.as_ref().trim();
    (!name.is_empty()).then(|| sanitize::folded(name).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{frames, sample};

    #[test]
    fn every_frame_has_its_kind() {
        let user = frames(["os.Open", "main"]);
        let kernel = frames(["nf_ct_alloc [nf_conntrack]", "", "do_syscall_64"]);
        let path = path(&sample::kubelet(), &user, &kernel, "kmalloc-512");
        let path: Vec<_> = path.iter().map(|frame| (frame.kind, frame.name.as_str())).collect();
        assert_eq!(
            path,
            [
                (Kind::Group, "[kubelet.service]"),
                (Kind::Owner, "kubelet-1165"),
                (Kind::User, "main"),
                (Kind::User, "os.Open"),
                (Kind::Kernel, "do_syscall_64"),
                (Kind::Kernel, "[unknown]"),
                (Kind::Module, "nf_ct_alloc [nf_conntrack]"),
                (Kind::Cache, "[kmalloc-512]"),
            ]
        );
    }
}

//! Why a probe cannot be set up, and what mends it.

use std::path::PathBuf;

/// Why the kernel side could not be set up or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A build without the BPF side.
    #[error(
        "this kleak was built without its BPF programs, so it cannot trace; build it with:\n  cargo xtask build"
    )]
    NoObject,
    /// Not enough rights.
    #[error(
        "loading BPF programs needs root, or the capabilities BPF, PERFMON and SYSLOG (missing: {missing}); try:\n  sudo kleak trace ..."
    )]
    Privileges {
        /// Which capabilities are missing.
        missing: String,
    },
    /// A pid namespace hides the processes of the node.
    #[error(
        "kleak runs in a pid namespace of its own, so it could not tell whose memory it sees; run it in the host's, or give it the host's root:\n  docker run --pid=host ...   or, in a pod, hostPID: true   or --host-root /host, with / mounted there"
    )]
    PidNamespace,
    /// Neither BTF nor tracefs.
    #[error(
        "the layout of this kernel's tracepoints is unknown: there is no BTF at {} and tracefs is not mounted; mount it with:\n  mount -t tracefs tracefs /sys/kernel/tracing", btf.display()
    )]
    NoLayout {
        /// Where BTF was looked for.
        btf: PathBuf,
    },
    /// A tracepoint that is missing or new.
    #[error(
        "this kernel's `{event}` tracepoint is missing or has a shape that kleak does not know; please report it with the output of:\n  uname -r; cat /sys/kernel/tracing/events/kmem/{event}/format"
    )]
    UnknownShape {
        /// Its name.
        event: &'static str,
    },
    /// `--cache` on a kernel where the cache of an object cannot be told.
    #[error(
        "--cache needs a kernel with BTF, and before 6.0, where events do not say which slab cache an object comes from, x86-64 with CONFIG_KALLSYMS_ALL too (and kernel.kptr_restrict below 2); use --size where it is a kmalloc cache"
    )]
    NoCacheNames,
    /// `-- COMMAND` on a kernel whose structs cannot be read.
    #[error(
        "`-- COMMAND` needs a kernel with BTF, to tell what the command and its descendants allocate from what others do; start the command by itself, and trace it with:\n  kleak trace --pid PID"
    )]
    NoFamily,
    /// Cgroups on a kernel without BTF.
    #[error(
        "following cgroups needs the kernel's BTF, and there is none at {}: it says where a cgroup keeps its id", btf.display()
    )]
    NoCgroupEvents {
        /// Where BTF was looked for.
        btf: PathBuf,
    },
    /// `--kind percpu` on a kernel without its events.
    #[error(
        "this kernel's `percpu_alloc_percpu` tracepoint is missing or has a shape that kleak does not know, so --kind percpu cannot be had; please report it with the output of:\n  uname -r; cat /sys/kernel/tracing/events/percpu/percpu_alloc_percpu/format"
    )]
    NoPerCpuEvents,
    /// The kernel refused the programs or maps.
    #[error("the kernel refused {what}: {cause}{advice}")]
    Refused {
        /// What it refused.
        what: String,
        /// Its reason.
        cause: String,
        /// What to do, on a line of its own; may be empty.
        advice: String,
    },
    /// Reading a map failed in the middle of a run.
    #[error("reading kleak's map {map} failed: {cause}")]
    Map {
        /// Its name.
        map: &'static str,
        /// Why.
        cause: String,
    },
}

impl Error {
    /// Whether it is the system or the user that cannot (exit status 3), as against a failure of
    /// something that should work (1).
    #[must_use]
    pub const fn is_inability(&self) -> bool {
        !matches!(self, Self::Map { .. })
    }
}

//! What a kernel offers a tracer, as far as files tell without trying.

use std::path::Path;

use super::{Host, read_text};

/// Each `None` where it cannot be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Whether the kernel shows its types (`/sys/kernel/btf/vmlinux`).
    pub btf: Option<bool>,
    /// Whether tracefs is mounted where it is looked for.
    pub tracefs: Option<bool>,
    /// Whether kernel probes can be had (`kprobe_events` in tracefs, or `CONFIG_KPROBE_EVENTS`).
    pub kprobes: Option<bool>,
    /// Whether BPF trampolines were built in (`CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS`).
    pub trampolines: Option<bool>,
    /// Whether tracepoints may run BPF programs (`CONFIG_BPF_EVENTS`).
    pub bpf_events: Option<bool>,
    /// Kernel lockdown: `none`, `integrity` or `confidentiality`; `None` also without it.
    pub lockdown: Option<String>,
    /// `kernel.kptr_restrict`.
    pub kptr_restrict: Option<u8>,
    /// `kernel.ftrace_enabled`: without it trampolines stay silent.
    pub ftrace_enabled: Option<bool>,
    /// `kernel.unprivileged_bpf_disabled`.
    pub unprivileged_bpf_disabled: Option<u8>,
    /// `kernel.perf_event_paranoid`.
    pub perf_event_paranoid: Option<i32>,
    /// Capabilities of this process that tracing needs and that it does not have; `None` for a saved
    /// tree.
    pub missing_capabilities: Option<Vec<&'static str>>,
    /// Whether this process is in the first pid namespace; `None` for a saved tree.
    pub own_pid_namespace: Option<bool>,
}

/// Capability numbers of `include/uapi/linux/capability.h`.
const SYS_ADMIN: u32 = 21;
const NEEDED: [(u32, &str); 3] = [(39, "BPF"), (38, "PERFMON"), (34, "SYSLOG")];

/// Reads them. `release` is `uname -r`, by which distributions name the kernel's configuration.
pub fn read(host: &Host, release: Option<&str>) -> Features {
    let sysctl = |name: &str| {
        read_text(&host.proc(format!("sys/kernel/{name}"))).ok().map(|text| text.trim().to_owned())
    };
    let config = release.and_then(|release| config(host, release));
    let built = |option: &str| config.as_deref().map(|config| is_built_in(config, option));
    // Without `/sys/kernel`, a tree says nothing of what would be below it.
    let shows = |path: &Path| host.sys("kernel").is_dir().then(|| path.exists());
    let tracefs = tracefs(host);
    Features {
        btf: shows(&host.sys("kernel/btf/vmlinux")),
        tracefs: host.sys("kernel").is_dir().then_some(tracefs.is_some()),
        kprobes: match &tracefs {
            Some(directory) => Some(directory.join("kprobe_events").exists()),
            None => built("CONFIG_KPROBE_EVENTS"),
        },
        trampolines: built("CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS"),
        bpf_events: built("CONFIG_BPF_EVENTS"),
        lockdown: read_text(&host.sys("kernel/security/lockdown"))
            .ok()
            .and_then(|text| parse_lockdown(&text)),
        kptr_restrict: super::system::kptr_restrict(host),
        ftrace_enabled: sysctl("ftrace_enabled").map(|text| text != "0"),
        unprivileged_bpf_disabled: sysctl("unprivileged_bpf_disabled")
            .and_then(|text| text.parse().ok()),
        perf_event_paranoid: sysctl("perf_event_paranoid").and_then(|text| text.parse().ok()),
        missing_capabilities: host
            .is_live()
            .then(|| read_text(&host.proc("self/status")).ok())
            .flatten()
            .and_then(|status| missing(&status)),
        own_pid_namespace: host
            .is_live()
            .then(|| super::system::in_initial_pid_namespace(host))
            .flatten()
            .map(|initial| !initial),
    }
}

/// Where tracefs is mounted: events are below it. Its directory is closed to all but root, so that
/// only its being there can be told by others.
fn tracefs(host: &Host) -> Option<std::path::PathBuf> {
    ["kernel/tracing", "kernel/debug/tracing"]
        .into_iter()
        .map(|path| host.sys(path))
        .find(|path| path.join("events").is_dir())
}

/// The kernel's configuration as text, from where distributions keep it. `/proc/config.gz` is
/// compressed, and not read.
fn config(host: &Host, release: &str) -> Option<String> {
    if release.contains('/') {
        return None;
    }
    let paths = [format!("boot/config-{release}"), format!("lib/modules/{release}/config")];
    paths.iter().find_map(|path| read_text(&host.join(path)).ok())
}

fn is_built_in(config: &str, option: &str) -> bool {
    config.lines().any(|line| line.strip_prefix(option) == Some("=y"))
}

/// The mode in brackets: `none [integrity] confidentiality`.
fn parse_lockdown(text: &str) -> Option<String> {
    let (_, rest) = text.split_once('[')?;
    Some(rest.split_once(']')?.0.to_owned())
}

/// What is missing by `CapEff`; `SYS_ADMIN` stands for the first two.
fn missing(status: &str) -> Option<Vec<&'static str>> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    let held = u64::from_str_radix(line.trim(), 16).ok()?;
    let has = |capability: u32| held >> capability & 1 == 1;
    let missing = NEEDED
        .iter()
        .filter(|(number, name)| !has(*number) && (*name == "SYSLOG" || !has(SYS_ADMIN)));
    Some(missing.map(|(_, name)| *name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_tree_of_files_tells() {
        let tree = tempfile::tempdir().unwrap();
        let host = Host::new(tree.path());
        assert_eq!(read(&host, Some("6.1.0")), Features::default());
        let put = |path: &str, text: &str| {
            let path = tree.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        put("sys/kernel/security/lockdown", "none [integrity] confidentiality\n");
        put("boot/config-6.1.0", "CONFIG_BPF_EVENTS=y\n# CONFIG_KPROBE_EVENTS is not set\n");
        put("proc/sys/kernel/kptr_restrict", "2\n");
        put("proc/sys/kernel/ftrace_enabled", "0\n");
        let features = read(&host, Some("6.1.0"));
        assert_eq!((features.btf, features.tracefs), (Some(false), Some(false)));
        assert_eq!((features.bpf_events, features.kprobes), (Some(true), Some(false)));
        assert_eq!(features.trampolines, Some(false));
        assert_eq!(features.lockdown.as_deref(), Some("integrity"));
        assert_eq!((features.kptr_restrict, features.ftrace_enabled), (Some(2), Some(false)));
        put("sys/kernel/btf/vmlinux", "");
        put("sys/kernel/debug/tracing/events/header_page", "");
        let features = read(&host, Some("../../etc"));
        assert_eq!((features.btf, features.tracefs), (Some(true), Some(true)));
        assert_eq!((features.bpf_events, features.kprobes), (None, Some(false)));
    }

    #[test]
    fn capabilities() {
        assert_eq!(missing("CapEff:\t000001ffffffffff\n"), Some(vec![]));
        assert_eq!(missing("CapEff:\t0000000000200000\n"), Some(vec!["SYSLOG"]));
        assert_eq!(missing("CapEff:\t0\n"), Some(vec!["BPF", "PERFMON", "SYSLOG"]));
        assert_eq!(missing(""), None);
    }

    proptest! {
        #[test]
        fn never_panics(text in "(?s).{0,100}") {
            parse_lockdown(&text);
            missing(&text);
        }
    }
}

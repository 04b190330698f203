//! What the user may do, and what stands in the way.

use super::{Error, exists};
use crate::host::{Host, system};

/// Capability numbers of `include/uapi/linux/capability.h`.
const SYS_ADMIN: u32 = 21;
const PERFMON: u32 = 38;
const BPF: u32 = 39;

/// Whether BPF programs may be loaded, and processes be seen.
pub(super) fn check(host: &Host) -> Result<(), Error> {
    let status = std::fs::read_to_string(host.proc("self/status")).unwrap_or_default();
    if let Some(missing) = missing(&status) {
        return Err(Error::Privileges { missing });
    }
    // What is not shown as itself could not be left out either.
    if system::in_initial_pid_namespace(host) == Some(false) || system::own_pid(host).is_none() {
        return Err(Error::PidNamespace);
    }
    Ok(())
}

/// Capabilities missing by `CapEff` of `/proc/self/status`; `None` when enough are there, or when
/// it cannot be told (then the kernel will say).
fn missing(status: &str) -> Option<String> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    let held = u64::from_str_radix(line.trim(), 16).ok()?;
    let has = |capability: u32| held >> capability & 1 == 1;
    if has(SYS_ADMIN) {
        return None;
    }
    let missing: Vec<&str> = [(BPF, "BPF"), (PERFMON, "PERFMON")]
        .iter()
        .filter(|(c, _)| !has(*c))
        .map(|c| c.1)
        .collect();
    (!missing.is_empty()).then(|| missing.join(", "))
}

/// EPERM in spite of the capabilities: who else can say no.
pub(super) fn explain_eperm() -> String {
    let lockdown = std::fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    if lockdown.contains("[confidentiality]") {
        return "\nkernel lockdown is in confidentiality mode, which forbids BPF to read kernel \
                memory; boot with lockdown=integrity or less"
            .to_owned();
    }
    if exists("/.dockerenv") || exists("/run/.containerenv") {
        return "\nin a container, BPF also needs the seccomp profile to allow bpf(2); try \
                --privileged"
            .to_owned();
    }
    "\nthe capabilities are there, so a security module or seccomp forbids it; see the kernel log"
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::missing;

    #[test]
    fn capabilities_are_told_apart() {
        assert_eq!(missing("CapEff:\t000001ffffffffff\n"), None);
        assert_eq!(missing("CapEff:\t0000000000200000\n"), None);
        assert_eq!(missing("CapEff:\t000000c000000000\n"), None);
        assert_eq!(missing("CapEff:\t0000008000000000\n").as_deref(), Some("PERFMON"));
        assert_eq!(missing("CapEff:\t0000000000000000\n").as_deref(), Some("BPF, PERFMON"));
        assert_eq!(missing("nonsense"), None);
    }
}

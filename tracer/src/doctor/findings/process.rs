//! Processes that are where the memory is.

use super::{Context, Finding, Pressure, Severity, quoted};
use crate::{
    doctor::{
        facts::Process,
        owner::{self, Owner},
    },
    host::gauge::Limit,
    report::{human, sanitize::terminal},
};

/// Shares of memory that one process may have.
const HUGE: f64 = 0.40;
const LARGE: f64 = 0.25;
const NOTABLE: f64 = 0.05;
/// Share of memory below which unreclaimable slab is as it should be.
const NORMAL_SLAB: f64 = 0.10;
/// Processes named, at most.
const MOST: usize = 3;

/// Adds what is found.
pub(super) fn find(context: &Context<'_>, findings: &mut Vec<Finding>) {
    let mut processes: Vec<&Process> = context.facts.processes.iter().collect();
    processes.sort_by_key(|process| (std::cmp::Reverse(held(process)), process.pid));
    findings.extend(processes.into_iter().take(MOST).filter_map(|process| one(context, process)));
}

/// What would be free without the process: not its mapped files, which are page cache. Shared memory
/// is in it, though others may have it mapped too.
pub(super) fn held(process: &Process) -> u64 {
    let footprint = &process.footprint;
    match footprint.anon_bytes {
        Some(anon) => anon.saturating_add(footprint.shmem_bytes.unwrap_or(0)),
        None => footprint.rss_bytes.unwrap_or(0),
    }
}

/// Programs that are known for this, what mends them, and the command to run next.
fn known(process: &Process, owner: &Owner) -> Option<(&'static str, Option<String>)> {
    let stop = || owner.unit_name.as_ref().map(|unit| format!("systemctl stop {}", quoted(unit)));
    match process.comm.as_str() {
        "auditd" => Some((
            "upgrade the audit package (3.0 has been seen to leak so) and restart auditd, which \
             systemctl refuses to do",
            Some("service auditd restart".to_owned()),
        )),
        "updatedb" | "updatedb.mlocat" | "updatedb.plocat" => Some((
            "the job of locate, which can be stopped at any time; keep it off network and cluster \
             file systems with PRUNEFS and PRUNEPATHS in /etc/updatedb.conf",
            Some(stop().unwrap_or_else(|| format!("kill {}", process.pid))),
        )),
        _ => None,
    }
}

/// What to run to learn more of the owner.
fn look(process: &Process, owner: &Owner) -> String {
    if let Some(container) = &owner.container_id {
        return format!("crictl inspect {}", quoted(container));
    }
    if let Some(pod) = &owner.pod_uid {
        return format!("crictl pods --label io.kubernetes.pod.uid={}", quoted(pod));
    }
    if let Some(unit) = &owner.unit_name {
        return format!("systemctl status --no-pager {}", quoted(unit));
    }
    format!("grep -E 'Vm|Rss' /proc/{}/status", process.pid)
}

/// The command that says more of a process, or mends it where that is known and safe.
pub(super) fn command(process: &Process) -> String {
    let owner = owner::of(process);
    known(process, &owner).and_then(|(_, next)| next).unwrap_or_else(|| look(process, &owner))
}

/// A process in words: `auditd (pid 782, unit auditd.service)`.
pub(super) fn who(process: &Process) -> String {
    let owner = owner::of(process);
    format!("{} (pid {}, {})", terminal(&process.comm), process.pid, owner::place(process, &owner))
}

fn severity(context: &Context<'_>, share: f64) -> Option<Severity> {
    Some(match (share, context.pressure) {
        (HUGE.., Pressure::Short) => Severity::Critical,
        (LARGE.., Pressure::Low | Pressure::Short) => Severity::Warning,
        (NOTABLE.., _) => Severity::Info,
        _ => return None,
    })
}

fn one(context: &Context<'_>, process: &Process) -> Option<Finding> {
    let bytes = held(process);
    let share = context.facts.share(bytes);
    let severity = severity(context, share)?;
    let owner = owner::of(process);
    let limit = owner::limit(context.facts, process);
    let footprint = &process.footprint;
    let kind = match (footprint.anon_bytes, footprint.shmem_bytes.unwrap_or(0)) {
        (None, _) => "resident",
        (Some(anon), shmem) if shmem > anon => "anonymous and shared memory, most of it shared",
        (Some(_), shmem) if shmem >= bytes / 10 => "anonymous and shared memory",
        (Some(_), _) => "anonymous",
    };
    let under = match limit {
        Some(Limit::None) => ", under no memory limit",
        _ => "",
    };
    let slab = context.memory.slab_unreclaimable_bytes;
    let normal = slab.is_some_and(|slab| context.facts.share(slab) < NORMAL_SLAB);
    let mut summary = format!(
        "{}{}: {} {kind}, {} of memory{under}",
        if severity == Severity::Info {
            "a process, not the kernel: "
        } else {
            "this is one user-space process, "
        },
        who(process),
        human::bytes(bytes),
        human::percent(share),
    );
    if severity != Severity::Info {
        if normal && let Some(slab) = slab {
            summary.push_str("; the kernel's slab is normal (");
            summary.push_str(&human::bytes(slab));
            summary.push_str(" unreclaimable), so a kernel tracer will not help");
        }
        summary.push_str("; ");
        summary.push_str(&cure(context, process, &owner, limit));
    }
    let next = match severity {
        Severity::Info => None,
        _ => Some(command(process)),
    };
    Some(
        Finding::new("user-process", severity, bytes, summary)
            .with("pid", process.pid)
            .with("comm", process.comm.clone())
            .with("rss_bytes", footprint.rss_bytes)
            .with("anon_bytes", footprint.anon_bytes)
            .with("shmem_bytes", footprint.shmem_bytes)
            .with("swap_bytes", footprint.swap_bytes)
            .with("share_of_memory", share)
            .with("cgroup", process.cgroup.clone())
            .with("unit", owner.unit.clone())
            .with("pod", owner.pod.clone())
            .with("namespace", owner.namespace.clone())
            .with("container", owner.container.clone())
            .with("pod_uid", owner.pod_uid.clone())
            .with("container_id", owner.container_id.clone())
            .with("limited", limit.map(|limit| limit != Limit::None))
            .with(
                "limit_bytes",
                match limit {
                    Some(Limit::Bytes(bytes)) => Some(bytes),
                    _ => None,
                },
            )
            .with("slab_unreclaimable_bytes", slab)
            .next(next),
    )
}

/// What helps.
fn cure(context: &Context<'_>, process: &Process, owner: &Owner, limit: Option<Limit>) -> String {
    let mut cure = match known(process, owner) {
        Some((words, _)) => words.to_owned(),
        None if owner.pod.is_some() => "restart or upgrade what runs in the pod".to_owned(),
        None => "restarting or upgrading it frees the memory".to_owned(),
    };
    if limit != Some(Limit::None) {
        return cure;
    }
    match (&owner.pod, &owner.unit_name) {
        (Some(_), _) => cure.push_str("; give the pod a memory limit in its resources"),
        (None, Some(unit)) => {
            // systemd 219, of the distributions of 3.10, knows only the older name.
            let property = if context.facts.is_before(4, 0) == Some(true) {
                "MemoryLimit"
            } else {
                "MemoryMax"
            };
            cure.push_str("; a limit contains it: systemctl set-property ");
            cure.push_str(&quoted(unit));
            cure.push(' ');
            cure.push_str(property);
            cure.push_str("=SIZE");
        }
        (None, None) => {}
    }
    cure
}

//! What kleak could not do here.

use super::{Context, Finding, Severity};
use crate::report::{human, sanitize::terminal};

/// Adds what is found: after all else, as it matters only where something is to be traced.
pub(super) fn find(context: &Context<'_>, findings: &mut Vec<Finding>) {
    let wanted = findings.iter().any(|finding| {
        finding.severity != Severity::Info
            && matches!(finding.id.as_str(), "kernel-slab" | "slab-cache" | "kernel-memory")
    });
    let impossible = impossible(context);
    let limited = limited(context);
    findings.extend(impossible.into_iter().map(|(what, summary)| {
        let severity = if wanted { Severity::Warning } else { Severity::Info };
        capability(context, what, severity, true, &summary)
    }));
    findings.extend(
        limited
            .into_iter()
            .map(|(what, summary)| capability(context, what, Severity::Info, false, &summary)),
    );
    findings.extend(unread(context));
}

fn capability(
    context: &Context<'_>,
    what: &str,
    severity: Severity,
    impossible: bool,
    summary: &str,
) -> Finding {
    let features = &context.facts.features;
    Finding::new("capability", severity, 0, summary)
        .with("what", what)
        .with("tracing_is_impossible", impossible)
        .with("kernel", context.facts.kernel.clone())
        .with("btf", features.btf)
        .with("tracefs", features.tracefs)
        .with("kprobes", features.kprobes)
        .with("trampolines_built_in", features.trampolines)
        .with("bpf_events_built_in", features.bpf_events)
        .with("lockdown", features.lockdown.clone())
        .with("kptr_restrict", features.kptr_restrict)
        .with("ftrace_enabled", features.ftrace_enabled)
        .with("unprivileged_bpf_disabled", features.unprivileged_bpf_disabled)
        .with("perf_event_paranoid", features.perf_event_paranoid)
}

type Reason = (&'static str, String);

/// Reasons why `kleak trace` cannot work here.
fn impossible(context: &Context<'_>) -> Vec<Reason> {
    let features = &context.facts.features;
    let mut reasons: Vec<Reason> = Vec::new();
    if let Some(kernel) = context.facts.kernel.as_deref().filter(|_| !context.can_trace()) {
        reasons.push((
            "kernel",
            format!(
                "`kleak trace` needs Linux 5.10 or newer, and this is {}; kleak doctor and kleak \
                 cgroups work here",
                terminal(kernel)
            ),
        ));
        return reasons;
    }
    if features.bpf_events == Some(false) {
        reasons.push((
            "bpf-events",
            "`kleak trace` cannot work here: this kernel was built without CONFIG_BPF_EVENTS"
                .to_owned(),
        ));
    }
    if features.lockdown.as_deref() == Some("confidentiality") {
        reasons.push((
            "lockdown",
            "`kleak trace` cannot work here: kernel lockdown is in confidentiality mode, which forbids \
             BPF to read kernel memory; boot with lockdown=integrity or less"
                .to_owned(),
        ));
    }
    if features.btf == Some(false) && features.tracefs == Some(false) {
        reasons.push((
            "tracefs",
            "`kleak trace` cannot work here before tracefs is mounted, as there is no BTF either: \
             mount -t tracefs tracefs /sys/kernel/tracing"
                .to_owned(),
        ));
    }
    if features.own_pid_namespace == Some(true) {
        reasons.push((
            "pid-namespace",
            "`kleak trace` cannot work here: this is a pid namespace of its own, and the processes of \
             the node are not seen; run it with docker run --pid=host, or in a pod with hostPID: true"
                .to_owned(),
        ));
    }
    if let Some(missing) = features.missing_capabilities.as_ref().filter(|names| !names.is_empty())
    {
        let needed = missing.iter().any(|name| *name != "SYSLOG");
        if needed {
            reasons.push((
                "permissions",
                format!(
                    "`kleak trace` needs root, or the capabilities {}: sudo kleak trace ...",
                    missing.join(", ")
                ),
            ));
        }
    }
    reasons
}

/// Reasons why it would tell less than it could.
fn limited(context: &Context<'_>) -> Vec<Reason> {
    let features = &context.facts.features;
    let mut reasons: Vec<Reason> = Vec::new();
    if !context.can_trace() {
        return reasons;
    }
    if features.btf == Some(false) && features.tracefs != Some(false) {
        reasons.push((
            "btf",
            "this kernel shows no BTF: `kleak trace` works without --cache, and names owners by pid \
             alone"
                .to_owned(),
        ));
    }
    let no_trampolines =
        features.trampolines == Some(false) || features.ftrace_enabled == Some(false);
    if no_trampolines && features.kprobes == Some(false) {
        reasons.push((
            "trampolines",
            format!(
                "frees by RCU and in bulk cannot be followed here, with neither BPF trampolines nor \
                 kprobes{}; kleak marks what is freed so",
                if features.ftrace_enabled == Some(false) {
                    " (sysctl kernel.ftrace_enabled=1 gives the former, where they are built in)"
                } else {
                    ""
                }
            ),
        ));
    }
    if features.missing_capabilities.as_ref().is_some_and(|names| names == &["SYSLOG"]) {
        reasons.push((
            "syslog",
            "the capability SYSLOG is missing, so `kleak trace` may print raw addresses in the place of \
             functions"
                .to_owned(),
        ));
    }
    if features.kptr_restrict == Some(2) {
        reasons.push((
            "kptr-restrict",
            "kernel.kptr_restrict is 2, so `kleak trace` prints raw addresses in the place of functions: \
             sysctl kernel.kptr_restrict=1"
                .to_owned(),
        ));
    }
    reasons
}

/// What was refused, in one finding.
fn unread(context: &Context<'_>) -> Option<Finding> {
    let denied: Vec<&str> = context
        .facts
        .unread
        .iter()
        .filter(|unread| unread.denied)
        .map(|unread| unread.path.as_str())
        .collect();
    if denied.is_empty() {
        return None;
    }
    let shown: Vec<_> = denied.iter().take(4).map(|path| terminal(path)).collect();
    let summary = format!(
        "{} could not be read for lack of permission ({}), so that what is in there is not judged: \
         sudo kleak doctor",
        human::counted(denied.len() as u64, "file"),
        shown.join(", ")
    );
    Some(
        capability(context, "unread", Severity::Info, false, &summary)
            .with("paths", denied)
            .next(Some("sudo kleak doctor".to_owned())),
    )
}

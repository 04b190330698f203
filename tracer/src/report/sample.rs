//! Reports to test with.

use std::sync::Arc;

use super::{
    CacheRow, Cgroups, Command, Confidence, Cost, Filter, Frames, Host, Loss, Mode, Owner,
    OwnerRow, Report, SCHEMA, Sampling, StackRow, Verdict, frames,
    profile::{Profile, Sample},
};

/// What the stacks of a report come from: nothing was freed, and growth began with the window.
pub(crate) fn profile(report: &Report) -> Profile {
    let sample = |stack: &StackRow| Sample {
        owner: Arc::clone(&stack.owner),
        cache: stack.cache.as_str().into(),
        kernel: Arc::clone(&stack.kernel),
        user: Arc::clone(&stack.user),
        outstanding_objects: stack.outstanding_objects,
        outstanding_bytes: stack.outstanding_bytes,
        requested_bytes: stack.outstanding_bytes,
        allocated_objects: stack.outstanding_objects,
        allocated_bytes: stack.outstanding_bytes,
        unfollowed_objects: 0,
        growth_bytes_per_s: Some(stack.outstanding_bytes as f64 / report.window_s),
        trend: (1..=10).map(|step| stack.outstanding_objects / 10 * step).collect(),
        estimated: stack.estimated,
        growth_estimated: stack.estimated,
        rest: false,
    };
    Profile {
        samples: report.stacks.iter().map(sample).collect(),
        step_s: (1..=10).map(|step| report.window_s * f64::from(step) / 10.0).collect(),
        taken_unix_ns: None,
    }
}

pub(crate) fn kubelet() -> Owner {
    Owner {
        kind: "process".into(),
        pid: Some(1165),
        comm: Some("kubelet".into()),
        exited: Some(false),
        cgroup: Some("/system.slice/kubelet.service".into()),
        unit: Some("kubelet.service".into()),
        ..Owner::default()
    }
}

pub(crate) fn pod_worker() -> Owner {
    Owner {
        kind: "process".into(),
        pid: Some(20_417),
        comm: Some("coredns".into()),
        exited: Some(true),
        cgroup: Some(
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod6f1d.slice/cri-a1.scope"
                .into(),
        ),
        cgroup_removed: Some(true),
        pod: Some("coredns-5d78c9869d-x2x7k".into()),
        namespace: Some("kube-system".into()),
        container: Some("coredns".into()),
        pod_uid: Some("6f1d".into()),
        container_id: Some("a1".into()),
        ..Owner::default()
    }
}

pub(crate) fn msg_stack(id: u32) -> StackRow {
    StackRow {
        id,
        kernel: [
            "__kmalloc_noprof",
            "load_msg",
            "do_msgsnd",
            "__x64_sys_msgsnd",
            "do_syscall_64",
            "entry_SYSCALL_64_after_hwframe",
        ]
        .map(Arc::from)
        .into(),
        user: Frames::default(),
        outstanding_objects: 14_231,
        outstanding_bytes: 7_286_272,
        estimated: false,
        cache: "kmalloc-512".into(),
        owner: kubelet().into(),
    }
}

fn row(owner: Owner, objects: u64, share: f64, rate: Option<f64>, stack: u32) -> OwnerRow {
    OwnerRow {
        owner,
        cache: "kmalloc-512".into(),
        allocated_objects: objects + 5769,
        freed_objects: 5769,
        outstanding_objects: objects,
        outstanding_bytes: objects * 512,
        requested_bytes: objects * 464,
        unfollowed_objects: 0,
        standard_error_objects: Some(0),
        estimated: false,
        share,
        growth_bytes_per_s: rate,
        oldest_s: Some(29.8),
        trend: (0..20).map(|step| objects * step / 19).collect(),
        stacks: vec![stack],
    }
}

fn cost(events: u64) -> Cost {
    Cost {
        events,
        bpf_ns_per_event: Some(212.4),
        bpf_runs: Some(5_104),
        bpf_cpu_share: Some(0.0081),
        user_cpu_share: Some(0.0032),
        recent_cpu_share: Some(0.0113),
        measured_s: 0.64,
        user_rss_bytes: Some(92_274_688),
        map_bytes: 35_651_584,
    }
}

/// Nothing allocated, nothing lost.
pub(crate) fn nothing() -> Report {
    Report {
        schema: SCHEMA.into(),
        host: Host {
            kernel: "6.12.0".into(),
            machine: "x86_64".into(),
            cgroup: Some("v2".into()),
            hostname: "node7".into(),
        },
        window_s: 30.0,
        filter: Filter {
            size_classes: vec![512],
            kinds: vec!["kmalloc".into()],
            by: "process".into(),
            stacks: "auto".into(),
            ..Filter::default()
        },
        verdict: Verdict {
            growing: false,
            cache: None,
            owner: None,
            share: None,
            growth_bytes_per_s: None,
            exhausts_memory_in_s: None,
            confidence: Confidence::High,
            summary: "Nothing allocated in these 30 s is still held.".into(),
        },
        caches: Vec::new(),
        owners: Vec::new(),
        stacks: Vec::new(),
        cgroups: Cgroups { dying: Some(0), ..Cgroups::default() },
        mode: Mode { frees: "trampolines".into(), obstacle: None, caches: "address".into() },
        loss: Loss { missed_events: Some(0), frees_of_older_objects: Some(0), ..Loss::default() },
        cost: cost(41_200),
        sampling: None,
        command: None,
        notes: Vec::new(),
        judgement: None,
    }
}

/// Incident 1: kubelet and kmalloc-512.
pub(crate) fn incident() -> Report {
    let mut held = msg_stack(4);
    held.kernel = ["__kmalloc_cache_noprof", "kernfs_fop_open", "do_dentry_open", "vfs_open"]
        .map(Arc::from)
        .into();
    held.user = frames(["os.(*File).Open", "main.main"]);
    held.outstanding_objects = 402;
    held.outstanding_bytes = 402 * 512;
    held.estimated = true;
    held.owner = pod_worker().into();
    Report {
        verdict: Verdict {
            growing: true,
            cache: Some("kmalloc-512".into()),
            owner: Some(kubelet()),
            share: Some(0.97),
            growth_bytes_per_s: Some(241_000.0),
            exhausts_memory_in_s: Some(20_800),
            confidence: Confidence::High,
            summary: "kubelet (pid 1165, kubelet.service) leaves 235 KiB/s behind in kmalloc-512, \
                      97 % of its growth, through load_msg < do_msgsnd; memory is gone in 5 h 46 min."
                .into(),
        },
        caches: vec![CacheRow {
            name: "kmalloc-512".into(),
            aliases: Vec::new(),
            object_size_bytes: 512,
            outstanding_objects: 14_671,
            outstanding_bytes: 14_671 * 512,
            slabinfo_growth_objects: Some(14_870),
            older_frees_objects: Some(0),
            standard_error_objects: Some(0),
            estimated: false,
            explained: Some(0.9866),
        }],
        owners: vec![
            row(kubelet(), 14_231, 0.97, Some(241_000.0), 3),
            row(pod_worker(), 402, 0.0274, Some(0.0), 4),
            row(Owner { kind: "softirq".into(), ..Owner::default() }, 38, 0.0026, None, 9),
        ],
        stacks: vec![msg_stack(3), held],
        cgroups: Cgroups { created: 12, removed: 12, released: 3, dying: Some(4_211), oldest_dying_s: Some(21.5) },
        cost: cost(1_240_113),
        ..nothing()
    }
}

/// A full table and missed frees, on a kernel that tells little.
pub(crate) fn lossy() -> Report {
    let mut report = incident();
    report.verdict.confidence = Confidence::Low;
    report.verdict.exhausts_memory_in_s = None;
    report.verdict.summary =
        "Perhaps kubelet (pid 1165), but 120,000 objects were not followed and \
        only 41 % of kmalloc-512's growth is explained: trace again with a larger --max-objects."
            .into();
    report.caches[0].explained = Some(0.41);
    report.caches.push(CacheRow {
        name: "msg_msg-512".into(),
        aliases: ["bsg\u{1b}[31m", "fuse_request", "nf_conn", "posix_timers_cache", "uid_cache"]
            .map(str::to_owned)
            .to_vec(),
        object_size_bytes: 512,
        outstanding_objects: 3,
        outstanding_bytes: 1536,
        slabinfo_growth_objects: None,
        older_frees_objects: Some(0),
        standard_error_objects: Some(0),
        estimated: false,
        explained: None,
    });
    report.cgroups.dying = None;
    report.loss = Loss {
        untracked_objects: 120_000,
        missed_events: None,
        failed_updates: 2,
        missed_frees_detected: 1,
        frees_of_older_objects: None,
        unmatched_frees: 9_120,
        lost_stacks: 77,
        lost_owners: 1,
        lost_cgroup_events: 5,
        failed_reads: 6,
    };
    report.cost = Cost {
        bpf_ns_per_event: None,
        bpf_runs: None,
        bpf_cpu_share: None,
        recent_cpu_share: None,
        measured_s: 0.0,
        ..report.cost
    };
    report.command = Some(Command {
        argv: vec!["sh".into(), "-c".into(), "a\u{1b}[2J".into()],
        pid: 4242,
        exit_status: None,
        signal: Some(9),
    });
    report.notes = vec![
        "Kernel symbols are hidden (kptr_restrict): frames are addresses; \
         `sysctl kernel.kptr_restrict=1` shows them."
            .into(),
    ];
    report
}

/// The same incident on a busier node, with a budget.
pub(crate) fn sampled() -> Report {
    let mut report = incident();
    report.sampling = Some(Sampling {
        fraction: 0.125,
        since_s: 3.25,
        reason: "kleak takes 3.1 % of the machine, over the budget of 2.0 %".into(),
    });
    for row in &mut report.owners {
        row.estimated = true;
        row.standard_error_objects = Some(316);
    }
    for row in &mut report.caches {
        row.estimated = true;
        row.standard_error_objects = Some(320);
    }
    for row in &mut report.stacks {
        row.estimated = true;
    }
    report
}

/// Every string from outside tries to break the output.
pub(crate) fn hostile() -> Report {
    let nasty = || "a\n;\u{1b}[31mx\u{fffd}".to_owned();
    let long = || format!("/kubepods/\u{202e}{}/\u{9b}2J end", "very-long-name ".repeat(20));
    let owner = Owner {
        kind: "process".into(),
        pid: Some(u32::MAX),
        comm: Some(nasty()),
        exited: Some(true),
        cgroup: Some(long()),
        cgroup_removed: Some(true),
        unit: Some(nasty()),
        pod: Some(nasty()),
        namespace: Some("n\ts".into()),
        container: Some("\u{200b}".into()),
        pod_uid: Some(nasty()),
        container_id: Some(nasty()),
    };
    let mut report = lossy();
    report.host.hostname = nasty();
    report.host.kernel = nasty();
    report.verdict.summary = format!("{} grows\r{}", nasty(), "x".repeat(200));
    report.verdict.cache = Some(nasty());
    report.verdict.owner = Some(owner.clone());
    report.caches[0].name = nasty();
    report.owners = vec![OwnerRow {
        cache: nasty(),
        allocated_objects: u64::MAX,
        freed_objects: 0,
        outstanding_objects: u64::MAX / 2,
        outstanding_bytes: u64::MAX,
        requested_bytes: u64::MAX,
        ..row(owner.clone(), 1, f64::NAN, Some(f64::NEG_INFINITY), 3)
    }];
    let mut stack = msg_stack(3);
    stack.kernel = frames((0..20).map(|i| format!("{}{i}", nasty())));
    stack.user = frames([long(), String::new(), "日本語".repeat(40)]);
    stack.cache = nasty();
    stack.owner = owner.into();
    stack.outstanding_objects = u64::MAX;
    stack.outstanding_bytes = u64::MAX;
    stack.estimated = true;
    report.stacks = vec![stack];
    report.notes = vec![nasty()];
    report.filter.cgroup = Some(nasty());
    report
}

/// All of the above.
pub(crate) fn all() -> [Report; 5] {
    [nothing(), incident(), lossy(), sampled(), hostile()]
}

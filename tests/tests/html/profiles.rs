//! What pages are made of here.

use std::{fs, path::Path, sync::Arc};

use anyhow::Result;
use kleak::export::{Exhibit, Format};
use kleak::report::{
    Owner, OwnerRow, Report, frames,
    profile::{Profile, Sample},
};
use serde_json::json;

/// Points in time, one a second.
const STEPS: u64 = 20;

/// The verdict that goes with [`incident`].
pub(crate) fn report() -> Result<Report> {
    let report = json!({
        "schema": "kleak.report/1",
        "host": {"kernel": "6.12.0", "machine": "x86_64", "cgroup": "v2", "hostname": "node7"},
        "window_s": 20.0,
        "filter": {
            "size_classes": [512], "kinds": ["kmalloc"], "caches": [], "pid": null, "comm": null,
            "cgroup": null, "pod": null, "min_age_s": 0.0, "by": "process", "stacks": "auto",
        },
        "verdict": {
            "growing": true, "cache": "kmalloc-512", "owner": owner("process", Some(1165), "kubelet", "kubelet.service"),
            "share": 0.97, "growth_bytes_per_s": 153_600.0, "exhausts_memory_in_s": 20_800,
            "confidence": "high",
            "summary": "kubelet (pid 1165, kubelet.service) is growing kmalloc-512 by 150 KiB/s.",
        },
        "caches": [], "owners": [], "stacks": [],
        "cgroups": {"created": 0, "removed": 0, "released": 0, "dying": 0, "oldest_dying_s": null},
        "mode": {"frees": "trampolines", "obstacle": null, "caches": "address"},
        "loss": {
            "untracked_objects": 0, "missed_events": 0, "failed_updates": 0,
            "missed_frees_detected": 114, "frees_of_older_objects": 0, "unmatched_frees": 0,
            "lost_stacks": 0, "lost_owners": 0, "lost_cgroup_events": 0, "failed_reads": 0,
        },
        "cost": {
            "events": 1000, "bpf_ns_per_event": 212.4, "bpf_runs": null, "bpf_cpu_share": null,
            "user_cpu_share": null, "recent_cpu_share": null, "measured_s": 0.5,
            "user_rss_bytes": null, "map_bytes": 1_048_576,
        },
        "sampling": null, "command": null, "notes": [],
    });
    Ok(serde_json::from_value(report)?)
}

/// A row of kubelet, which freed all that it allocated.
pub(crate) fn freed() -> Result<OwnerRow> {
    let row = json!({
        "owner": owner("process", Some(1165), "kubelet", "kubelet.service"), "cache": "kmalloc-512",
        "allocated_objects": 100, "freed_objects": 100, "outstanding_objects": 0,
        "outstanding_bytes": 0, "requested_bytes": 0, "unfollowed_objects": 0,
        "standard_error_objects": null, "estimated": false, "share": 0.0,
        "growth_bytes_per_s": 0.0, "oldest_s": null, "trend": [], "stacks": [],
    });
    Ok(serde_json::from_value(row)?)
}

fn owner(kind: &str, pid: Option<u32>, comm: &str, unit: &str) -> Owner {
    Owner {
        kind: kind.into(),
        pid,
        comm: Some(comm.into()).filter(|_| pid.is_some()),
        exited: pid.map(|_| false),
        unit: Some(unit.into()).filter(|unit: &String| !unit.is_empty()),
        cgroup: Some(format!("/system.slice/{unit}")).filter(|_| !unit.is_empty()),
        ..Owner::default()
    }
}

fn sample(owner: &Owner, cache: &str, kernel: &[&str], objects: u64, growth: f64) -> Sample {
    Sample {
        owner: Arc::new(owner.clone()),
        cache: cache.into(),
        kernel: frames(kernel),
        outstanding_objects: objects,
        outstanding_bytes: objects * if cache.starts_with("page") { 4096 } else { 512 },
        growth_bytes_per_s: Some(growth),
        trend: (1..=STEPS).map(|step| objects * step / STEPS).collect(),
        ..Sample::default()
    }
}

/// Of 10,000 objects of 512 bytes, kubelet has 60 % by messages and 20 % by filters, coredns 15 %, and
/// interrupts 5 %; beside them, pages.
pub(crate) fn incident() -> Profile {
    let kubelet = owner("process", Some(1165), "kubelet", "kubelet.service");
    let coredns = Owner {
        pod: Some("coredns-5d78c9869d-x2x7k".into()),
        namespace: Some("kube-system".into()),
        container: Some("coredns".into()),
        ..owner("process", Some(20_417), "coredns", "cri-a1.scope")
    };
    let softirq = owner("softirq", None, "", "");
    let writer = owner("process", Some(77), "pipe-writer", "pipes.service");
    let syscall = ["do_syscall_64", "entry_SYSCALL_64_after_hwframe"];
    let path = |leaf: &[&'static str]| [leaf, &syscall].concat();
    let messages = path(&["__kmalloc_noprof", "load_msg", "do_msgsnd", "__x64_sys_msgsnd"]);
    let filters =
        path(&["kmemdup_noprof", "bpf_prog_store_orig_filter", "__get_filter", "sk_attach_filter"]);
    let opens = path(&["__kmalloc_cache_noprof", "kernfs_fop_open", "do_dentry_open", "vfs_open"]);
    let mut open = sample(&coredns, "kmalloc-512", &opens, 1500, -1024.0);
    open.user = frames(["os.(*File).Open", "main.main"]);
    (open.estimated, open.growth_estimated) = (true, true);
    let mut leak = sample(&kubelet, "kmalloc-512", &messages, 6000, 102_400.0);
    leak.growth_estimated = true;
    Profile {
        samples: vec![
            leak,
            sample(&kubelet, "kmalloc-512", &filters, 2000, 51_200.0),
            open,
            sample(
                &writer,
                "page order-0 unmovable",
                &path(&["alloc_pages_noprof", "anon_pipe_write"]),
                100,
                20_480.0,
            ),
            sample(
                &softirq,
                "kmalloc-512",
                &["__kmalloc_noprof", "neigh_alloc", "handle_softirqs"],
                500,
                0.0,
            ),
        ],
        step_s: (1..=STEPS).map(|step| step as f64).collect(),
        taken_unix_ns: None,
    }
}

/// Names that markup, scripts and JSON might take for their own, everywhere a name can be.
pub(crate) fn hostile() -> Result<(Report, Profile)> {
    const NAMES: [&str; 8] = [
        "<script>alert(1)</script>",
        "</script><script>alert(2)</script>",
        "<img src=x onerror=alert(3)>",
        "/a/\"quoted\" onload=\"alert(4)",
        "]]><!--&quot;",
        "javascript:alert(5)",
        "gpj\u{202e}exe\u{2028}",
        "nul\0;${alert(6)}",
    ];
    let mut report = report()?;
    let mut profile = incident();
    for (i, name) in NAMES.iter().enumerate() {
        let owner = Owner {
            pod: Some((*name).into()),
            namespace: Some((*name).into()),
            ..owner("process", u32::try_from(i + 2).ok(), name, name)
        };
        let mut sample = sample(&owner, name, &[name, "load_msg"], 3000, 99.0);
        sample.user = frames([name]);
        profile.samples.push(sample);
        report.notes.push((*name).into());
        report.verdict.owner = Some(owner);
    }
    let all = NAMES.concat();
    report.verdict.summary.clone_from(&all);
    report.verdict.cache = Some(all.clone());
    report.host.hostname = all;
    Ok((report, profile))
}

/// A profile of so many stacks, 30 deep and hardly two of them alike, none of them much larger than another.
pub(crate) fn huge(stacks: u64) -> Profile {
    let mut profile = incident();
    profile.samples.clear();
    for i in 0..stacks {
        let owner = owner(
            "process",
            u32::try_from(1000 + i % 300).ok(),
            "worker",
            &format!("unit-{}.service", i % 40),
        );
        let names: Vec<String> = (0..30_u64)
            .map(|level| {
                format!(
                    "function_{}",
                    i.wrapping_mul(2_654_435_761 + level * 97) >> (level % 7 + 2) & 0xfff
                )
            })
            .collect();
        let kernel: Vec<&str> = names.iter().map(String::as_str).collect();
        profile.samples.push(sample(
            &owner,
            "kmalloc-512",
            &kernel,
            1 + (stacks - i) / 2000,
            1.0 / 3.0,
        ));
    }
    profile
}

/// Writes the page.
pub(crate) fn write(page: &Path, report: &Report, profile: &Profile) -> Result<()> {
    let mut file = fs::File::create(page)?;
    Ok(Format::Html.exporter().write(&Exhibit { report, profile }, &mut file)?)
}

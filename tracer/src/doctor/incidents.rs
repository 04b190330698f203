//! The incidents and the healthy machines of `tests/fixtures`, each judged as an engineer has to.

use std::path::PathBuf;

use serde_json::Value;

use super::{
    examine,
    report::{DoctorReport, Finding, Severity},
};
use crate::{
    host::Host,
    report::{json, schema, text::Style},
};

pub(super) const SCHEMA_TEXT: &str = include_str!("../../../schema/kleak.doctor-1.schema.json");

const INCIDENTS: [&str; 5] =
    ["1-kubelet", "2-memcg-leak-3.10", "3-kmem-accounting-1.18", "4-updatedb", "5-auditd"];
const HEALTHY: [&str; 4] = ["idle-v2", "kubernetes-v1", "database", "desktop"];

fn tree(path: &str) -> Host {
    Host::new(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(path))
}

fn incident(name: &str) -> DoctorReport {
    examine(&tree(&format!("incidents/{name}"))).unwrap()
}

/// Those that are more than information, as `severity id`.
fn alarms(report: &DoctorReport) -> Vec<String> {
    let alarming = report.findings.iter().filter(|finding| finding.severity != Severity::Info);
    alarming
        .map(|finding| format!("{:?} {}", finding.severity, finding.id).to_lowercase())
        .collect()
}

fn find<'a>(report: &'a DoctorReport, id: &str) -> &'a Finding {
    report.findings.iter().find(|finding| finding.id == id).unwrap_or_else(|| panic!("no {id}"))
}

fn text(report: &DoctorReport) -> String {
    let mut out = Vec::new();
    super::text::render(report, &Style::default(), &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn the_kernel_and_not_processes() {
    let report = incident("1-kubelet");
    assert_eq!(
        alarms(&report),
        [
            "critical kernel-slab",
            "critical slab-cache",
            "warning slab-unexplained",
            "warning many-cgroups"
        ]
    );
    let slab = &report.findings[0];
    for words in
        ["kernel, not processes", "55.6 GiB of unreclaimable slab", "kmalloc-512 holds 6.9 GiB"]
    {
        assert!(slab.summary.contains(words), "{}", slab.summary);
    }
    assert_eq!(report.next.as_deref(), Some("kleak trace --size 512 --duration 30s"));
    let cache = find(&report, "slab-cache");
    assert_eq!(cache.evidence["cache"], "kmalloc-512");
    assert_eq!(cache.evidence["objects"], 14_485_664);
    assert_eq!(cache.evidence["slabs"], 452_677);
    assert_eq!(cache.evidence["bytes"], 452_677_u64 * 4 * 4096);
    let rest = find(&report, "slab-unexplained");
    assert_eq!(rest.evidence["slab_bytes"], 61_672_216_u64 * 1024);
    assert!(rest.summary.contains("15.0 GiB of the 58.8 GiB"), "{}", rest.summary);
    let many = find(&report, "many-cgroups");
    assert_eq!(many.evidence["kernfs_nodes"], 15_525_485);
    assert!(many.summary.contains("958 MiB of per-CPU"), "{}", many.summary);
    // A quarter in use.
    let empty = report
        .findings
        .iter()
        .find(|finding| finding.evidence.get("cache") == Some(&"kmalloc-64".into()));
    assert_eq!(empty.unwrap().evidence["active_objects"], 3_222_835);
    assert_eq!(report.memory.available_bytes, Some(4_926_556 * 1024));
    assert_eq!(report.memory.kubelet_available_bytes, None, "there is no cgroup in the tree");
}

#[test]
fn ids_of_memory_cgroups_are_used_up() {
    let report = incident("2-memcg-leak-3.10");
    assert_eq!(
        alarms(&report),
        [
            "critical memcg-limit",
            "critical kmem-accounting",
            "warning memcg-dying",
            "warning log-signature"
        ]
    );
    let limit = &report.findings[0];
    assert_eq!((&limit.evidence["left"], &limit.evidence["dying"]), (&0.into(), &65_523.into()));
    let accounting = find(&report, "kmem-accounting");
    assert_eq!(accounting.evidence["groups"]["/kubepods"]["accounting"], "on");
    assert_eq!(accounting.evidence["groups"]["/system.slice"]["accounting"], "off");
    for cure in ["3.10.0-1075.el7", "cgroup.memory=nokmem", "kubelet 1.14", "reboot"] {
        assert!(accounting.summary.contains(cure), "{cure}: {}", accounting.summary);
    }
    let signatures: Vec<&Value> = report
        .findings
        .iter()
        .filter(|finding| finding.id == "log-signature")
        .map(|finding| &finding.evidence["signature"])
        .collect();
    assert_eq!(signatures, ["slub-allocation-failure", "memcg-oom", "oom-killer", "kmem-usage"]);
    assert!(!report.next.as_deref().unwrap().contains("kleak trace"), "it cannot work there");
}

#[test]
fn accounting_is_on_and_ids_are_left() {
    let report = incident("3-kmem-accounting-1.18");
    assert_eq!(
        alarms(&report),
        ["critical kmem-accounting", "warning memcg-dying", "warning log-signature"]
    );
    let accounting = &report.findings[0];
    assert_eq!(accounting.evidence["groups"]["/kubepods"]["kmem_usage_bytes"], 412 << 20);
    assert_eq!(accounting.evidence["groups"]["/system.slice"]["slabinfo"], "input/output error");
    assert_eq!(accounting.evidence["nokmem"], false);
}

#[test]
fn a_job_in_no_pod() {
    let report = incident("4-updatedb");
    assert_eq!(alarms(&report), ["critical kubelet-view", "critical user-process"]);
    let view = &report.findings[0];
    assert_eq!(view.evidence["case"], "memory-outside-pods");
    assert_eq!(view.evidence["eviction_hard_bytes"], 500 << 20);
    assert_eq!(view.evidence["eviction_soft_bytes"], 32_763_680_u64 * 1024 * 120 / 1000);
    // Capacity less (the root's usage less its inactive file pages).
    let set = (29_100_000 + 1_210_000 + 16_000 - 346_000) * 1024;
    assert_eq!(report.memory.kubelet_working_set_bytes, Some(set));
    assert_eq!(report.memory.kubelet_available_bytes, Some(32_763_680 * 1024 - set));
    assert_ne!(report.memory.kubelet_available_bytes, report.memory.available_bytes);
    let process = find(&report, "user-process");
    assert_eq!(
        (&process.evidence["comm"], &process.evidence["unit"], &process.evidence["pod"]),
        (&"updatedb".into(), &"mlocate.service".into(), &Value::Null)
    );
    assert_eq!(process.evidence["limited"], false);
    assert_eq!(process.evidence["anon_bytes"], 18_000_000_000_u64 / 1024 * 1024);
    assert_eq!(report.next.as_deref(), Some("systemctl stop mlocate.service"));
}

#[test]
fn one_user_space_process() {
    let report = incident("5-auditd");
    assert_eq!(alarms(&report), ["critical user-process"]);
    let process = &report.findings[0];
    assert_eq!(
        (&process.evidence["pid"], &process.evidence["unit"]),
        (&782.into(), &"auditd.service".into())
    );
    for words in [
        "this is one user-space process, auditd (pid 782, unit auditd.service)",
        "11.5 GiB anonymous, 80 % of memory",
        "the kernel's slab is normal",
        "a kernel tracer will not help",
        "upgrade the audit package",
    ] {
        assert!(process.summary.contains(words), "{words}: {}", process.summary);
    }
    assert_eq!(report.next.as_deref(), Some("service auditd restart"));
}

#[test]
fn nothing_stands_out_on_healthy_machines() {
    for name in HEALTHY {
        let report = examine(&tree(&format!("healthy/{name}"))).unwrap();
        assert_eq!(alarms(&report), Vec::<String>::new(), "{name}");
        assert!(report.summary.starts_with("nothing stands out"), "{name}: {}", report.summary);
        assert_eq!(report.next, None, "{name}");
        assert!(!report.processes.is_empty() && report.caches.is_some(), "{name}");
    }
}

#[test]
fn every_report_is_valid_by_the_schema() {
    schema::explains_every_field(SCHEMA_TEXT);
    let validator = schema::validator(SCHEMA_TEXT);
    let incidents = INCIDENTS.iter().map(|name| format!("incidents/{name}"));
    for name in incidents.chain(HEALTHY.iter().map(|name| format!("healthy/{name}"))) {
        let report = examine(&tree(&name)).unwrap();
        let mut out = Vec::new();
        json::write_pretty(&report, &mut out).unwrap();
        let value: Value = serde_json::from_slice(&out).unwrap();
        let errors: Vec<String> = validator.iter_errors(&value).map(|e| e.to_string()).collect();
        assert!(errors.is_empty(), "{name}: {errors:#?}");
        let severities: Vec<Severity> = report.findings.iter().map(|f| f.severity).collect();
        assert!(severities.is_sorted(), "{name}: worst first");
    }
}

#[test]
fn incidents_as_text() {
    for name in INCIDENTS {
        insta::assert_snapshot!(format!("incident_{}", &name[..1]), text(&incident(name)));
    }
}

#[test]
fn a_healthy_machine_as_text() {
    insta::assert_snapshot!(text(&examine(&tree("healthy/database")).unwrap()));
}

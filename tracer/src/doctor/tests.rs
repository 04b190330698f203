use proptest::prelude::*;
use unicode_width::UnicodeWidthStr as _;

use super::{
    facts::{Cache, Facts, Growth, Process, Unread},
    report::{DoctorReport, Severity},
    *,
};
use crate::{
    cgroups::census::{Census, Group},
    host::{
        cgroup::MemoryVersion,
        footprint::Footprint,
        gauge::{Gauge, KubeletStat, Limit},
        kmem::{Accounting, Slabinfo},
        kmsg::{Line, Log},
        meminfo, release,
        slabinfo::SlabCache,
    },
    report::schema,
};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// 24 GiB, of which most is available.
fn healthy() -> Facts {
    let text = "MemTotal: 25165824 kB\nMemFree: 20971520 kB\nMemAvailable: 22020096 kB\n\
                Cached: 1048576 kB\nShmem: 4096 kB\nAnonPages: 2621440 kB\nSlab: 204800 kB\n\
                SReclaimable: 153600 kB\nSUnreclaim: 51200 kB\n";
    Facts {
        live: true,
        meminfo: Some(meminfo::parse(text)),
        kernel: Some("6.18.0".to_owned()),
        release: release::parse("6.18.0"),
        page_bytes: 4096,
        looked_s: 1.0,
        caches: Some(vec![cache("msg_msg-512", 20_000)]),
        ..Facts::default()
    }
}

fn cache(name: &str, objects: u64) -> Cache {
    Cache {
        slab: SlabCache {
            name: name.to_owned(),
            active_objects: objects,
            total_objects: objects,
            object_size: 512,
            objects_per_slab: 32,
            pages_per_slab: 4,
            active_slabs: objects.div_ceil(32),
            total_slabs: objects.div_ceil(32),
        },
        reclaimable: Some(false),
        aliases: Vec::new(),
    }
}

fn growth(objects: [u64; 3]) -> Growth {
    Growth { name: "msg_msg-512".to_owned(), object_size: 512, objects, seconds: [0.5, 0.5] }
}

fn process(pid: u32, anon: u64) -> Process {
    Process {
        pid,
        comm: "hog".to_owned(),
        footprint: Footprint {
            rss_bytes: Some(anon),
            anon_bytes: Some(anon),
            ..Footprint::default()
        },
        cgroup: Some("/".to_owned()),
        ..Process::default()
    }
}

fn ids(report: &DoctorReport) -> Vec<&str> {
    report.findings.iter().map(|finding| finding.id.as_str()).collect()
}

fn plain(report: &DoctorReport, width: usize) -> String {
    let mut out = Vec::new();
    text::render(report, &Style { width, ..Style::default() }, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn no_finding_is_an_answer() {
    let report = conclude(&healthy());
    assert_eq!((report.findings.len(), &report.next), (0, &None));
    assert_eq!(report.summary, "nothing stands out: 21.0 GiB of 24.0 GiB is available.");
}

#[test]
fn what_was_not_read_is_not_called_healthy() {
    let mut facts = healthy();
    facts.caches = None;
    let denied = |path: &str| Unread {
        path: path.to_owned(),
        why: "permission denied".to_owned(),
        denied: true,
    };
    facts.unread.push(denied("/proc/slabinfo"));
    let report = conclude(&facts);
    assert!(report.summary.starts_with("nothing stands out in what could be read"));
    assert_eq!(ids(&report), ["capability"]);
    assert_eq!(report.next.as_deref(), Some("sudo kleak doctor"));
}

#[test]
fn a_cache_that_grows_steadily_is_named_by_its_class() {
    let mut facts = healthy();
    facts.growth = vec![growth([20_000, 20_300, 20_650])];
    let report = conclude(&facts);
    assert_eq!(ids(&report), ["slab-cache"]);
    let finding = &report.findings[0];
    assert_eq!(
        (finding.severity, &finding.evidence["growth_objects_per_s"]),
        (Severity::Info, &650.0.into())
    );
    assert_eq!(report.next.as_deref(), Some("kleak trace --size 512 --duration 30s"));
    // A named cache by its name, and as a pattern that matches nothing else.
    facts.caches = Some(vec![Cache {
        slab: SlabCache { name: "a[b] c".to_owned(), ..cache("", 9).slab },
        ..cache("", 9)
    }]);
    facts.growth = vec![Growth { name: "a[b] c".to_owned(), ..growth([0, 300, 650]) }];
    let next = conclude(&facts).next.unwrap();
    assert_eq!(next, "kleak trace --cache 'a[[]b[]] c' --duration 30s");
    // Where kleak cannot trace, perf can count.
    facts.release = release::parse("4.18.0");
    facts.kernel = Some("4.18.0".to_owned());
    assert!(conclude(&facts).next.unwrap().starts_with("perf record"));
}

#[test]
fn growth_in_bursts_or_of_what_can_be_reclaimed_is_not_named() {
    for objects in [[20_000, 20_000, 20_650], [20_000, 20_650, 20_650], [20_000, 20_001, 20_650]] {
        let mut facts = healthy();
        facts.growth = vec![growth(objects)];
        assert_eq!(ids(&conclude(&facts)), Vec::<&str>::new(), "{objects:?}");
    }
    let mut facts = healthy();
    facts.growth = vec![growth([20_000, 20_300, 20_650])];
    facts.caches = Some(vec![Cache { reclaimable: Some(true), ..cache("msg_msg-512", 20_650) }]);
    assert_eq!(conclude(&facts).findings.len(), 0);
}

#[test]
fn a_process_is_an_alarm_only_when_memory_is_short() {
    let mut facts = healthy();
    facts.processes = vec![process(7, 2 * GIB), process(8, 100 * MIB)];
    let report = conclude(&facts);
    assert_eq!(ids(&report), ["user-process"]);
    assert_eq!(report.findings[0].severity, Severity::Info);
    assert!(report.findings[0].summary.starts_with("a process, not the kernel: hog (pid 7"));
    assert_eq!(report.next, None);
    let available = |facts: &mut Facts, bytes| {
        facts.meminfo.as_mut().unwrap().mem_available = Some(bytes);
    };
    facts.processes = vec![process(7, 15 * GIB)];
    for (left, severity) in
        [(8 * GIB, Severity::Info), (4 * GIB, Severity::Warning), (GIB, Severity::Critical)]
    {
        available(&mut facts, left);
        let report = conclude(&facts);
        assert_eq!(report.findings[0].severity, severity, "{left}");
        assert!(!report.next.unwrap_or_default().contains("kleak trace"));
    }
}

#[test]
fn a_tracer_is_called_no_help_only_where_the_slab_is_normal() {
    let mut facts = healthy();
    facts.processes = vec![process(7, 15 * GIB)];
    let info = facts.meminfo.as_mut().unwrap();
    info.mem_available = Some(GIB);
    info.slab_unreclaimable = Some(5 * GIB);
    info.slab = Some(5 * GIB);
    let report = conclude(&facts);
    let process = report.findings.iter().find(|finding| finding.id == "user-process").unwrap();
    assert!(!process.summary.contains("tracer"), "{}", process.summary);
    let slab = report.findings.iter().find(|finding| finding.id == "kernel-slab").unwrap();
    assert!(
        !slab.summary.contains("not processes")
            || slab.evidence["anon_bytes"].as_u64() < Some(5 * GIB)
    );
}

#[test]
fn tracing_that_is_impossible_is_a_warning_only_where_it_is_wanted() {
    let mut facts = healthy();
    facts.features.bpf_events = Some(false);
    let report = conclude(&facts);
    assert_eq!((ids(&report), report.findings[0].severity), (vec!["capability"], Severity::Info));
    let info = facts.meminfo.as_mut().unwrap();
    (info.slab_unreclaimable, info.slab) = (Some(16 * GIB), Some(16 * GIB));
    facts.caches = Some(vec![cache("kmalloc-512", 16 * GIB / 512)]);
    let report = conclude(&facts);
    let capability = report.findings.iter().find(|finding| finding.id == "capability").unwrap();
    assert_eq!(capability.severity, Severity::Warning);
    assert_eq!(report.findings[0].id, "kernel-slab");
}

#[test]
fn memory_in_no_line_of_meminfo_is_told() {
    let mut facts = healthy();
    let info = facts.meminfo.as_mut().unwrap();
    (info.mem_free, info.mem_available) = (Some(10 * GIB), Some(11 * GIB));
    let report = conclude(&facts);
    assert_eq!(
        (ids(&report), report.findings[0].severity),
        (vec!["kernel-memory"], Severity::Warning)
    );
    assert_eq!(report.next.as_deref(), Some("kleak trace --kind page --duration 30s"));
    // ZFS keeps its cache there.
    facts.zfs_cache_bytes = Some(9 * GIB);
    assert_eq!(conclude(&facts).findings.len(), 0);
}

#[test]
fn what_the_log_said_long_ago_is_history() {
    let mut facts = healthy();
    let line = |at_s| Line { at_s, text: "Out of memory: Killed process 9 (x)".to_owned() };
    let severity = |facts: &Facts| conclude(facts).findings[0].severity;
    facts.uptime_s = Some(200_000.0);
    facts.log = Some(Log { source: "/dev/kmsg".to_owned(), lines: vec![line(Some(100.0))] });
    assert_eq!(severity(&facts), Severity::Info);
    facts.log = Some(Log { source: String::new(), lines: vec![line(Some(199_000.0))] });
    assert_eq!(severity(&facts), Severity::Warning);
    // When nobody knows, it may be now.
    facts.log = Some(Log { source: String::new(), lines: vec![line(None)] });
    assert_eq!(severity(&facts), Severity::Warning);
}

fn cgroups(usage: u64, inactive: u64) -> facts::Cgroups {
    let group = |usage, limit| Gauge { usage_bytes: Some(usage), limit: Some(limit) };
    facts::Cgroups {
        version: MemoryVersion::V1,
        census: Census {
            groups: [("/", 1), ("/kubepods", 2), ("/system.slice", 3)]
                .into_iter()
                .map(|(path, id)| (path.to_owned(), Group { id, memory: true, ..Group::default() }))
                .collect(),
            dying: Some(0),
            ..Census::default()
        },
        gauges: vec![
            ("/kubepods".to_owned(), group(GIB, Limit::Bytes(20 * GIB))),
            ("/system.slice".to_owned(), group(14 * GIB, Limit::None)),
            ("/system.slice/web.service".to_owned(), group(13 * GIB, Limit::None)),
        ],
        held: vec![
            ("/system.slice".to_owned(), 14 * GIB),
            ("/system.slice/web.service".to_owned(), 13 * GIB),
            ("/kubepods".to_owned(), GIB),
        ],
        root: group(usage, Limit::None),
        root_stat: KubeletStat { inactive_file_bytes: Some(inactive), ..KubeletStat::default() },
        pods: Some((
            "/kubepods".to_owned(),
            group(GIB, Limit::Bytes(20 * GIB)),
            KubeletStat { inactive_file_bytes: Some(0), ..KubeletStat::default() },
        )),
    }
}

fn node(usage: u64, inactive: u64, available: u64) -> Facts {
    let mut facts = healthy();
    facts.cgroups = Some(cgroups(usage, inactive));
    facts.kubelet =
        Some(facts::Kubelet { hard: Some(facts::Threshold::Bytes(500 * MIB)), soft: None });
    facts.meminfo.as_mut().unwrap().mem_available = Some(available);
    facts
}

fn view(facts: &Facts) -> Option<(String, Severity)> {
    let report = conclude(facts);
    let finding = report.findings.iter().find(|finding| finding.id == "kubelet-view")?;
    Some((finding.evidence["case"].as_str()?.to_owned(), finding.severity))
}

#[test]
fn kubelet_may_see_more_or_less_than_there_is() {
    let case = |usage, inactive, available| view(&node(usage, inactive, available));
    // 24 GiB. kubelet: 24 - (usage - inactive).
    assert_eq!(case(4 * GIB, GIB, 20 * GIB), None, "they agree");
    assert_eq!(case(4 * GIB, 0, GIB), Some(("kubelet-blind".into(), Severity::Critical)));
    assert_eq!(case(4 * GIB, 0, 2 * GIB), Some(("kubelet-blind".into(), Severity::Warning)));
    let eager = Some(("page-cache-counts-as-used".into(), Severity::Warning));
    let mut facts = node(24 * GIB, 100 * MIB, 12 * GIB);
    // All of it page cache of pods.
    facts.cgroups.as_mut().unwrap().pods.as_mut().unwrap().1.usage_bytes = Some(23 * GIB);
    assert_eq!(view(&facts), eager);
    assert_eq!(case(12 * GIB, GIB, 20 * GIB), Some(("views-differ".into(), Severity::Info)));
    let outside = Some(("memory-outside-pods".into(), Severity::Critical));
    assert_eq!(case(24 * GIB, 200 * MIB, GIB), outside);
    // Where nobody runs pods, nobody evicts.
    let mut facts = node(24 * GIB, 200 * MIB, GIB);
    facts.kubelet = None;
    assert_eq!(view(&facts), None);
    // Without the usage of pods, a process that is in none tells.
    let mut facts = node(24 * GIB, 200 * MIB, GIB);
    facts.cgroups.as_mut().unwrap().pods = None;
    assert_eq!(view(&facts), None);
    facts.processes = vec![process(7, 15 * GIB)];
    assert_eq!(view(&facts), outside);
    facts.processes[0].cgroup = None;
    assert_eq!(view(&facts), None, "it may be in a pod");
}

#[test]
fn a_cgroup_without_a_limit_is_named_when_no_process_is() {
    let mut facts = node(15 * GIB, 0, 2 * GIB);
    facts.kubelet = None;
    let held = |facts: &Facts| {
        let report = conclude(facts);
        let found = report.findings.iter().find(|finding| finding.id == "cgroup-unlimited")?;
        Some((found.evidence["cgroup"].as_str()?.to_owned(), found.severity))
    };
    let inner = "/system.slice/web.service";
    assert_eq!(held(&facts), Some((inner.to_owned(), Severity::Critical)));
    facts.processes = vec![Process { cgroup: Some(inner.to_owned()), ..process(7, 8 * GIB) }];
    assert_eq!(held(&facts), None, "the process is named instead");
    facts.processes.clear();
    facts.cgroups.as_mut().unwrap().gauges[1].1.limit = Some(Limit::Bytes(16 * GIB));
    assert_eq!(held(&facts), None, "what is above has a limit");
    facts.cgroups = Some(cgroups(15 * GIB, 0));
    facts.meminfo.as_mut().unwrap().mem_available = Some(12 * GIB);
    assert_eq!(held(&facts), None, "there is enough");
}

fn accounting(state: Slabinfo, usage: u64) -> Vec<(String, Accounting)> {
    vec![("/kubepods".to_owned(), Accounting { slabinfo: state, usage_bytes: Some(usage) })]
}

fn accounted(kernel: Option<&str>, state: Slabinfo, usage: u64, dying: u64) -> Option<Severity> {
    let mut facts = healthy();
    facts.kernel = kernel.map(str::to_owned);
    facts.release = kernel.and_then(release::parse);
    facts.cgroups = Some(cgroups(GIB, 0));
    facts.cgroups.as_mut().unwrap().census.dying = Some(dying);
    facts.accounting = accounting(state, usage);
    let report = conclude(&facts);
    let found = report.findings.iter().find(|finding| finding.id == "kmem-accounting");
    found.map(|finding| finding.severity)
}

#[test]
fn accounting_matters_on_kernels_that_leak() {
    let on = || Slabinfo::On { caches: 3, objects: 99 };
    let heading = || Slabinfo::On { caches: 0, objects: 0 };
    let leaky = Some("3.10.0-957.el7.x86_64");
    assert_eq!(accounted(leaky, on(), 4096, 20_000), Some(Severity::Critical));
    assert_eq!(accounted(leaky, on(), 4096, 3), Some(Severity::Warning));
    // Cured, and healthy.
    assert_eq!(accounted(leaky, Slabinfo::Off, 0, 3), Some(Severity::Info));
    assert_eq!(accounted(leaky, heading(), 0, 3), Some(Severity::Info));
    assert_eq!(accounted(leaky, Slabinfo::Off, 4096, 3), Some(Severity::Warning), "usage is not 0");
    let mended = Some("3.10.0-1160.el7.x86_64");
    assert_eq!(accounted(mended, on(), 4096, 3), None);
    assert_eq!(accounted(mended, on(), 4096, 20_000), Some(Severity::Warning));
    assert_eq!(accounted(Some("4.18.0-553.el8.x86_64"), on(), 4096, 3), None);
    assert_eq!(accounted(Some("4.18.0-553.el8.x86_64"), on(), 4096, 2_000), Some(Severity::Info));
    assert_eq!(accounted(Some("6.1.0"), Slabinfo::Stub, 4096, 3), None);
    assert_eq!(accounted(None, on(), 4096, 3), Some(Severity::Warning));
    assert_eq!(
        accounted(leaky, Slabinfo::Unknown(String::new()), 0, 3),
        None,
        "unknown is not off"
    );
}

#[test]
fn ids_are_counted_also_without_directories() {
    let limit = |kernel: &str, all| {
        let mut facts = healthy();
        facts.kernel = Some(kernel.to_owned());
        facts.release = release::parse(kernel);
        facts.cgroups_all = Some(all);
        let report = conclude(&facts);
        let found = report.findings.into_iter().find(|finding| finding.id == "memcg-limit")?;
        Some((found.severity, found.evidence["dying"].clone()))
    };
    let null = serde_json::Value::Null;
    assert_eq!(limit("3.10.0-957.el7", 65_535), Some((Severity::Critical, null.clone())));
    assert_eq!(limit("3.10.0-957.el7", 60_000), Some((Severity::Warning, null.clone())));
    assert_eq!(limit("3.10.0-957.el7", 900), None);
    // Later kernels give the id of a dying one back, so that nobody knows.
    assert_eq!(limit("5.4.0", 60_000), None);
    assert_eq!(limit("5.4.0", 80_000), Some((Severity::Warning, null)));
}

#[test]
fn many_cgroups_need_more_than_many_kernfs_nodes() {
    let found = |nodes, percpu, live: Option<u64>| {
        let mut facts = healthy();
        facts.caches = Some(vec![cache("kernfs_node_cache", nodes)]);
        facts.meminfo.as_mut().unwrap().percpu = Some(percpu);
        facts.cgroups = live.map(|live| {
            let mut cgroups = cgroups(GIB, 0);
            let group = |id| (format!("/g{id}"), Group { id, memory: true, ..Group::default() });
            cgroups.census.groups = (0..live).map(group).collect();
            cgroups
        });
        let report = conclude(&facts);
        report.findings.iter().any(|finding| finding.id == "many-cgroups")
    };
    assert!(found(2_000_000, GIB, None));
    assert!(found(2_000_000, 0, None), "nothing contradicts it");
    assert!(!found(2_000_000, 0, Some(50)), "few cgroups were counted");
    assert!(!found(60_000, GIB, None), "per-CPU memory alone may be of anything");
    assert!(found(60_000, 0, Some(6_000)));
}

/// Names that try to break the output, numbers that know no bounds.
fn hostile() -> Facts {
    let nasty = "a\n;\u{1b}[31mx\u{202e}";
    let mut facts = healthy();
    facts.kernel = Some(nasty.to_owned());
    facts.hostname = Some(nasty.repeat(20));
    facts.processes = (0..9)
        .map(|pid| Process {
            comm: nasty.to_owned(),
            cgroup: Some(format!("/{}", nasty.repeat(30))),
            systemd_cgroup: Some("/system.slice/evil;rm.service".to_owned()),
            ..process(pid, u64::MAX)
        })
        .collect();
    facts.caches = Some(vec![
        Cache { aliases: vec![nasty.to_owned(); 9], ..cache(nasty, u64::MAX / 2) },
        Cache { reclaimable: None, ..cache("", 0) },
    ]);
    facts.growth = vec![Growth { name: nasty.to_owned(), ..growth([0, u64::MAX / 2, u64::MAX]) }];
    facts.log = Some(Log {
        source: nasty.to_owned(),
        lines: vec![Line {
            at_s: Some(f64::MAX),
            text: format!("{nasty} invoked oom-killer: {}", nasty.repeat(90)),
        }],
    });
    facts.unread = vec![Unread { path: nasty.to_owned(), why: nasty.to_owned(), denied: true }];
    let info = facts.meminfo.as_mut().unwrap();
    (info.slab_unreclaimable, info.mem_available) = (Some(u64::MAX), Some(0));
    facts
}

#[test]
fn hostile_names_reach_no_terminal() {
    let report = conclude(&hostile());
    insta::assert_snapshot!(plain(&report, 80));
    let validator = schema::validator(incidents::SCHEMA_TEXT);
    let value = serde_json::to_value(&report).unwrap();
    let errors: Vec<String> =
        validator.iter_errors(&value).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{errors:#?}");
}

#[test]
fn every_line_fits() {
    for facts in [healthy(), hostile(), Facts::default()] {
        let report = conclude(&facts);
        for width in [0, 60, 61, 80, 100, 200] {
            for line in plain(&report, width).lines() {
                assert!(line.width() <= width.max(60), "{} columns: {line}", line.width());
                assert!(!line.contains(char::is_control), "{line:?}");
                assert_eq!(line.trim_end(), line);
            }
        }
    }
}

#[test]
fn a_tree_may_lack_most_files() {
    let tree = tempfile::tempdir().unwrap();
    let host = Host::new(tree.path());
    assert!(examine(&host).is_none());
    std::fs::create_dir_all(host.proc("")).unwrap();
    std::fs::write(host.proc("meminfo"), "MemTotal: 1024 kB\n").unwrap();
    let report = examine(&host).unwrap();
    assert_eq!(report.memory.total_bytes, Some(KIB * KIB));
    assert_eq!((report.memory.slab_bytes, report.caches), (None, None));
    assert!(report.unread.iter().any(|row| row.path == "/proc/slabinfo"), "{:?}", report.unread);
}

#[test]
fn a_tree_need_not_hold_a_mount_table() {
    let tree = tempfile::tempdir().unwrap();
    let put = |path: &str, text: &str| {
        let path = tree.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    put("proc/meminfo", "MemTotal: 1048576 kB\nMemAvailable: 20480 kB\nSUnreclaim: 1024 kB\n");
    put("proc/9/stat", "9 (hog) S 1 9 9 0 -1 0 1 0 0 0 1 1 0 0 20 0 1 0 70 8192 200000 1");
    put("proc/9/cgroup", "5:memory:/system.slice/hog.service\n1:name=systemd:/\n");
    put("sys/fs/cgroup/memory/memory.usage_in_bytes", "900000000\n");
    put("sys/fs/cgroup/memory/memory.stat", "total_inactive_file 100000000\n");
    put("sys/fs/cgroup/memory/system.slice/hog.service/memory.limit_in_bytes", "max\n");
    let report = examine(&Host::new(tree.path())).unwrap();
    assert_eq!(report.host.cgroup.as_deref(), Some("v1"));
    assert_eq!(report.memory.kubelet_working_set_bytes, Some(800_000_000));
    let row = &report.processes[0];
    assert_eq!((row.rss_bytes, row.unit.as_deref()), (Some(200_000 * 4096), Some("hog.service")));
    let finding = &report.findings[0];
    assert_eq!((finding.id.as_str(), finding.severity), ("user-process", Severity::Critical));
    assert_eq!(report.cgroups.unwrap().dying, None, "the tree may not hold all directories");
}

proptest! {
    #[test]
    fn any_numbers_make_a_report(
        numbers in proptest::collection::vec(any::<u64>(), 9),
        objects: [u64; 3],
        comm in ".{0,20}",
    ) {
        let keys = [
            "MemTotal", "MemFree", "MemAvailable", "Slab", "SUnreclaim", "AnonPages", "Percpu", "Shmem",
            "Cached",
        ];
        let line = |(key, number): (&&str, &u64)| format!("{key}: {} kB\n", number / KIB);
        let text: String = keys.iter().zip(&numbers).map(line).collect();
        let mut facts = hostile();
        facts.meminfo = Some(meminfo::parse(&text));
        facts.growth[0].objects = objects;
        facts.processes[0].comm = comm;
        let report = conclude(&facts);
        prop_assert!(report.findings.is_sorted_by_key(|finding| finding.severity));
        plain(&report, 80);
    }
}

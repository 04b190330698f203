//! Reads a machine into [`Facts`]: once, and on the running system the slab caches twice more.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use hashbrown::{HashMap, HashSet};

use super::facts::{Cache, Cgroups, Facts, Growth, Kubelet, Process, Unread};
use crate::{
    cgroups::census::Census,
    host::{
        Host, HostError,
        cgroup::{self, CgroupLayout, MemoryVersion, Mode},
        features, footprint, gauge, kmem, kmsg, memcg, meminfo, process, read, read_text, release,
        slabinfo::{self, SlabCache},
        system,
    },
    resolve::{
        cgroup_path::{self, CgroupNames},
        containers::{Containers, Named},
    },
};

/// How long caches are looked at for growth. All is to take less than two seconds.
const LOOK: Duration = Duration::from_secs(1);
/// The shortest that two of the three looks are apart.
const LEAST_APART: Duration = Duration::from_millis(300);
/// Processes whose names and cgroups are read: beyond, they are small.
const MOST_PROCESSES: usize = 40;
/// Processes of which only the name is read, to find kubelet.
const MOST_NAMES: usize = 2_000;
/// Cgroups whose usage and limit are read: two files each, some 10 µs.
const MOST_GAUGES: usize = 4_096;
/// Cgroups whose statistics are read, some 50 µs each.
const MOST_STATS: usize = 64;
/// Least that a cache must have grown by, in objects, to be worth a row.
const LEAST_GROWTH: u64 = 1;

/// Reads what can be read. Never fails: what could not be read is in [`Facts::unread`].
pub(super) fn gather(host: &Host) -> Facts {
    let mut facts = Facts { live: host.is_live(), ..Facts::default() };
    let began = Instant::now();
    let first = caches(host, &mut facts);
    facts.meminfo = note(meminfo::read(host), &mut facts, host);
    machine(host, &mut facts);
    let layout = layout(host, &mut facts);
    facts.cgroup_mode = layout.mode.map(Mode::as_str);
    cgroups(host, &layout, &mut facts);
    processes(host, &layout, &mut facts);
    facts.log = note(kmsg::read(host), &mut facts, host);
    facts.features = features::read(host, facts.kernel.as_deref());
    let last = match first {
        Some(first) if facts.live => Some(grown(host, &mut facts, first, began)),
        other => other,
    };
    facts.page_bytes = page_bytes(facts.live, last.as_deref());
    facts.caches = last.map(|caches| {
        let mut aliases = aliases(host);
        let of = |slab: SlabCache| Cache {
            reclaimable: reclaimable(host, &slab.name),
            aliases: aliases.remove(&slab.name).unwrap_or_default(),
            slab,
        };
        caches.into_iter().map(of).collect()
    });
    facts
}

/// Names of merged caches, by the name that is in slabinfo: in `/sys/kernel/slab` all names of one
/// cache are links to the same directory (`sysfs_slab_alias()` in `mm/slub.c`). slabinfo has the one
/// that the cache was made under first, which is among them.
fn aliases(host: &Host) -> HashMap<String, Vec<String>> {
    let mut by_target: HashMap<std::path::PathBuf, Vec<String>> = HashMap::new();
    for entry in std::fs::read_dir(host.sys("kernel/slab")).into_iter().flatten().flatten() {
        if let (Ok(target), Ok(name)) =
            (std::fs::read_link(entry.path()), entry.file_name().into_string())
        {
            by_target.entry(target).or_default().push(name);
        }
    }
    let mut aliases = HashMap::new();
    for mut names in by_target.into_values() {
        names.sort_unstable();
        for name in &names {
            let others = names.iter().filter(|other| *other != name).cloned().collect();
            aliases.insert(name.clone(), others);
        }
    }
    aliases
}

/// How cgroups are laid out. A saved tree seldom holds a mount table: then it is told by which
/// directories are there.
fn layout(host: &Host, facts: &mut Facts) -> CgroupLayout {
    let controllers = read_text(&host.proc("cgroups"))
        .map(|text| cgroup::parse_controllers(&text))
        .unwrap_or_default();
    let memory = controllers.iter().find(|row| row.name == "memory" && row.hierarchy != 0);
    facts.cgroups_all = memory.map(|row| row.cgroups);
    let detected = CgroupLayout::detect(host);
    if facts.live || detected.as_ref().is_ok_and(|layout| layout.mode.is_some()) {
        return note(detected, facts, host).unwrap_or_default();
    }
    let there = |path: &str| host.sys(path).is_dir();
    let mut layout = CgroupLayout::default();
    if there("fs/cgroup/memory") {
        layout.mode = Some(Mode::V1);
        layout.memory_mount = Some("/sys/fs/cgroup/memory".into());
        // What processes call it is asked of them, when no table says its number.
        layout.memory_hierarchy = memory.map_or_else(|| hierarchy(host), |row| row.hierarchy);
    } else if host.sys("fs/cgroup/cgroup.controllers").exists()
        || host.sys("fs/cgroup/cgroup.stat").exists()
    {
        layout.mode = Some(Mode::V2);
        layout.memory_mount = Some("/sys/fs/cgroup".into());
        layout.unified_mount.clone_from(&layout.memory_mount);
    } else {
        return note(detected, facts, host).unwrap_or_default();
    }
    layout
}

/// Number of version 1's memory hierarchy, as any process has it.
fn hierarchy(host: &Host) -> u32 {
    let pids = std::fs::read_dir(host.proc("")).into_iter().flatten().flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter_map(|pid| process::cgroup(host, pid).ok())
        .flatten()
        .find(|one| one.controllers.split(',').any(|name| name == "memory"))
        // Not 0, which is version 2's.
        .map_or(u32::MAX, |one| one.hierarchy)
}

/// The value, or a note of why there is none.
fn note<T>(read: Result<T, HostError>, facts: &mut Facts, host: &Host) -> Option<T> {
    match read {
        Ok(value) => Some(value),
        Err(error) => {
            let path = match &error {
                HostError::Read { path, .. } | HostError::Malformed { path, .. } => {
                    let inside = path.strip_prefix(host.root()).unwrap_or(path);
                    Path::new("/").join(inside).to_string_lossy().into_owned()
                }
                HostError::Call { what, .. } => (*what).to_owned(),
            };
            let why = match &error {
                HostError::Read { .. } if error.is_denied() => "permission denied".to_owned(),
                HostError::Read { .. } if error.is_missing() => "not there".to_owned(),
                HostError::Read { cause, .. } => cause.to_string(),
                HostError::Malformed { what, .. } => (*what).to_owned(),
                HostError::Call { cause, .. } => cause.to_string(),
            };
            facts.unread.push(Unread { path, why, denied: error.is_denied() });
            None
        }
    }
}

fn machine(host: &Host, facts: &mut Facts) {
    if let Some(name) = note(system::uname(host), facts, host) {
        facts.release = release::parse(&name.release);
        facts.kernel = Some(name.release);
        facts.machine = name.machine;
        facts.hostname = Some(name.hostname).filter(|name| !name.is_empty());
    }
    let first_number = |text: String| text.split_ascii_whitespace().next()?.parse::<f64>().ok();
    facts.uptime_s = read_text(&host.proc("uptime")).ok().and_then(first_number);
    facts.command_line = read_text(&host.proc("cmdline")).ok();
    facts.zfs_cache_bytes =
        read_text(&host.proc("spl/kstat/zfs/arcstats")).ok().and_then(|text| zfs_size(&text));
}

/// The `size` row of `arcstats`: `size  4  12345`.
fn zfs_size(text: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        if words.next() == Some("size") { words.nth(1)?.parse().ok() } else { None }
    })
}

fn caches(host: &Host, facts: &mut Facts) -> Option<Vec<SlabCache>> {
    note(slabinfo::read(host), facts, host).map(|info| info.caches)
}

/// Looks at the caches twice more, and returns how they are in the end.
fn grown(host: &Host, facts: &mut Facts, first: Vec<SlabCache>, began: Instant) -> Vec<SlabCache> {
    let wait_until = |at: Duration| std::thread::sleep(at.saturating_sub(began.elapsed()));
    wait_until(LOOK / 2);
    let Ok(middle) = slabinfo::read(host) else { return first };
    let at_middle = began.elapsed();
    wait_until(LOOK.max(at_middle + LEAST_APART));
    let Ok(last) = slabinfo::read(host) else { return middle.caches };
    let at_last = began.elapsed();
    facts.looked_s = at_last.as_secs_f64();
    // Memory at about the same time as the caches it is compared with.
    facts.meminfo = meminfo::read(host).ok().or(facts.meminfo);
    let (before, between) = (slabinfo::counts(&first), middle.counts());
    facts.growth = last
        .caches
        .iter()
        .filter_map(|cache| {
            let objects = [
                before.get(&cache.name)?.active_objects,
                between.get(&cache.name)?.active_objects,
                cache.active_objects,
            ];
            let grew = objects[2] >= objects[0].saturating_add(LEAST_GROWTH);
            grew.then(|| Growth {
                name: cache.name.clone(),
                object_size: cache.object_size,
                objects,
                seconds: [at_middle.as_secs_f64(), at_last.saturating_sub(at_middle).as_secs_f64()],
            })
        })
        .collect();
    last.caches
}

/// The running system's; that of a saved tree follows from its slabs, since objects fit into them.
fn page_bytes(live: bool, caches: Option<&[SlabCache]>) -> u64 {
    let own = || nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
    if live && let Some(bytes) = own().and_then(|bytes| u64::try_from(bytes).ok()) {
        return bytes;
    }
    let needed = caches.unwrap_or_default().iter().filter_map(|cache| {
        let bytes = cache.object_size.checked_mul(cache.objects_per_slab)?;
        Some(bytes.div_ceil(cache.pages_per_slab.max(1)))
    });
    match needed.max().unwrap_or(0) {
        0..=4_096 => 4_096,
        4_097..=16_384 => 16_384,
        _ => 65_536,
    }
}

/// Whether shrinkers can free objects of a cache: as SLUB says, else by names that are always so.
fn reclaimable(host: &Host, name: &str) -> Option<bool> {
    if !name.contains('/') {
        let path = host.sys(format!("kernel/slab/{name}/reclaim_account"));
        if let Ok(text) = read_text(&path) {
            return Some(text.trim() == "1");
        }
    }
    // Created with SLAB_RECLAIM_ACCOUNT in fs/, lib/radix-tree.c and mm/slab_common.c.
    let known = matches!(name, "dentry" | "radix_tree_node" | "buffer_head" | "xfs_ili")
        || name.starts_with("kmalloc-rcl-")
        || name.ends_with("inode_cache")
        || name.ends_with("_inode");
    let never = crate::host::classes::size_in_name(name).is_some()
        || matches!(name, "kernfs_node_cache" | "cred_jar" | "task_struct" | "mm_struct");
    // Every open file may be one of a process, and none is freed because memory is short.
    let never = never || matches!(name, "filp" | "vm_area_struct" | "anon_vma");
    match (known, never) {
        (true, _) => Some(true),
        (_, true) => Some(false),
        _ => None,
    }
}

fn cgroups(host: &Host, layout: &CgroupLayout, facts: &mut Facts) {
    let (Some(version), Some(mount)) = (layout.memory_version(), &layout.memory_mount) else {
        return;
    };
    let mount = host.join(mount);
    if !mount.is_dir() {
        return;
    }
    let census = Census::take(host, layout);
    let directory = |path: &str| mount.join(path.trim_start_matches('/'));
    let mut paths: Vec<&str> = census.groups.keys().map(String::as_str).collect();
    // Those nearest to the root first: they hold what is below them.
    paths.sort_by_key(|path| (path.matches('/').count(), *path));
    let gauges: Vec<_> = paths
        .iter()
        .filter(|path| **path != "/")
        .take(MOST_GAUGES)
        .map(|path| ((*path).to_owned(), gauge::read(&directory(path), version)))
        .filter(|(_, gauge)| gauge.usage_bytes.is_some() || gauge.limit.is_some())
        .collect();
    if version == MemoryVersion::V1 {
        let saved = !facts.live;
        // Also one level deeper, below which kubelet keeps its own (`/kubelet/kubepods`).
        let top = paths.iter().filter(|path| path.matches('/').count() == 1 && **path != "/");
        facts.accounting = top
            .filter_map(|path| {
                let found = kmem::read(&directory(path), saved, facts.release)?;
                Some(((*path).to_owned(), found))
            })
            .collect();
    }
    let pods = paths.iter().find(|path| is_pods(path)).map(|path| {
        let at = directory(path);
        ((*path).to_owned(), gauge::read(&at, version), gauge::kubelet_stat(&at, version))
    });
    if pods.is_some() {
        facts.kubelet = Some(Kubelet::default());
    }
    let held = held(&gauges, |path| memcg::stat(&directory(path), version).ok());
    let root = gauge::read(&mount, version);
    let root_stat = gauge::kubelet_stat(&mount, version);
    facts.cgroups = Some(Cgroups { version, census, gauges, held, root, root_stat, pods });
}

/// Anonymous and shared memory of the cgroups that use most.
fn held(
    gauges: &[(String, gauge::Gauge)],
    stat: impl Fn(&str) -> Option<memcg::MemoryStat>,
) -> Vec<(String, u64)> {
    let mut largest: Vec<(u64, &str)> = gauges
        .iter()
        .filter_map(|(path, gauge)| Some((gauge.usage_bytes?, path.as_str())))
        .collect();
    largest.sort_unstable_by_key(|&(usage, path)| (std::cmp::Reverse(usage), path));
    let of = |path: &str| {
        let charges = stat(path)?.with_descendants;
        Some((
            path.to_owned(),
            charges.anon_bytes?.saturating_add(charges.shmem_bytes.unwrap_or(0)),
        ))
    };
    largest.iter().take(MOST_STATS).filter_map(|(_, path)| of(path)).collect()
}

/// Whether a cgroup is the one that kubelet puts all pods in (`pkg/kubelet/cm/cgroup_manager_linux.go`).
fn is_pods(path: &str) -> bool {
    let last = path.rsplit('/').next().unwrap_or(path);
    last == "kubepods" || last == "kubepods.slice" || last == "kubelet-kubepods.slice"
}

fn processes(host: &Host, layout: &CgroupLayout, facts: &mut Facts) {
    let path = host.proc("");
    let failed = |cause| HostError::Read { path: path.clone(), cause };
    let Some(entries) = note(std::fs::read_dir(&path).map_err(failed), facts, host) else {
        return;
    };
    let pids =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mut seen = HashSet::new();
    let mut sizes = Vec::new();
    for pid in pids {
        if !seen.insert(pid) {
            continue;
        }
        // One that has ended meanwhile is in neither.
        let pages = footprint::pages(host, pid).ok();
        let resident = match pages {
            Some((resident, _)) => resident.saturating_mul(own_page_bytes(facts.live)),
            None => match footprint::status(host, pid) {
                Ok(status) => status.rss_bytes.unwrap_or(0),
                Err(_) => match footprint::resident_by_stat(host, pid) {
                    Ok(resident) => resident.saturating_mul(own_page_bytes(facts.live)),
                    Err(_) => continue,
                },
            },
        };
        facts.processes_seen += 1;
        if resident > 0 {
            sizes.push((resident, pid, pages));
        }
    }
    sizes.sort_unstable_by_key(|&(resident, pid, _)| (std::cmp::Reverse(resident), pid));
    for &(resident, pid, pages) in sizes.iter().take(MOST_PROCESSES) {
        facts.processes.extend(one(host, layout, pid, resident, pages));
    }
    name_containers(host, &mut facts.processes);
    let rest = sizes.get(MOST_PROCESSES..).unwrap_or_default();
    find_kubelet(host, facts, &rest.iter().map(|&(_, pid, _)| pid).collect::<Vec<_>>());
}

/// Looks up what pods and containers are called, from the node alone.
fn name_containers(host: &Host, processes: &mut [Process]) {
    let ids = |process: &Process| -> Vec<CgroupNames> {
        let contained = |ids: &CgroupNames| ids.pod_uid.is_some() || ids.container_id.is_some();
        process.cgroups().map(cgroup_path::parse).filter(contained).collect()
    };
    let all: Vec<CgroupNames> = processes.iter().flat_map(ids).collect();
    if all.is_empty() {
        return;
    }
    let mut containers = Containers::scan(host);
    containers.make_sure(host, all.iter());
    for process in processes {
        let named = ids(process).iter().map(|ids| containers.names(ids)).next();
        process.called = named.unwrap_or_default();
    }
}

/// Of a saved tree a guess: `VmRSS` of `status` is used where it is there.
fn own_page_bytes(live: bool) -> u64 {
    page_bytes(live, None)
}

fn one(
    host: &Host,
    layout: &CgroupLayout,
    pid: u32,
    resident: u64,
    pages: Option<(u64, u64)>,
) -> Option<Process> {
    let mut footprint = footprint::status(host, pid).unwrap_or_default();
    let rss = *footprint.rss_bytes.get_or_insert(resident);
    if footprint.anon_bytes.is_none()
        && let Some((all, shared)) = pages
        && all > 0
    {
        // Before 4.5: what is not of files and not shared.
        let shared = u128::from(shared) * u128::from(rss) / u128::from(all);
        let shared = u64::try_from(shared).unwrap_or(rss);
        footprint.anon_bytes = Some(rss.saturating_sub(shared));
    }
    let comm = process::comm(host, pid).or_else(|_| process::stat(host, pid).map(|stat| stat.comm));
    let comm = String::from_utf8_lossy(&comm.ok()?).into_owned();
    let memberships = process::cgroup(host, pid).unwrap_or_default();
    let cgroup = process::path_in(&memberships, layout.memory_hierarchy).map(str::to_owned);
    let systemd = memberships.iter().find(|one| one.controllers == "name=systemd");
    let systemd_cgroup =
        systemd.filter(|one| Some(&one.path) != cgroup.as_ref()).map(|one| one.path.clone());
    Some(Process { pid, comm, footprint, cgroup, systemd_cgroup, called: Named::default() })
}

/// kubelet's thresholds, where one runs or has left its configuration. `rest` are processes whose names
/// are not read yet, larger ones first.
fn find_kubelet(host: &Host, facts: &mut Facts, rest: &[u32]) {
    let is_kubelet = |comm: &[u8]| matches!(comm, b"kubelet" | b"k3s-server" | b"k3s-agent");
    let large = facts.processes.iter().find(|process| is_kubelet(process.comm.as_bytes()));
    let small = || {
        let mut rest = rest.iter().take(MOST_NAMES).copied();
        rest.find(|pid| process::comm(host, *pid).is_ok_and(|comm| is_kubelet(&comm)))
    };
    let pid = large.map(|process| process.pid).or_else(small);
    let arguments = pid.and_then(|pid| read(&host.proc(format!("{pid}/cmdline"))).ok());
    let in_pod = |path: &str| cgroup_path::parse(path).pod_uid.is_some();
    let pods = facts.processes.iter().any(|one| one.cgroup.as_deref().is_some_and(in_pod));
    let mut kubelet = facts.kubelet.clone().unwrap_or_default();
    let mut file = "var/lib/kubelet/config.yaml".to_owned();
    if let Some(arguments) = &arguments {
        super::kubelet::of_command_line(arguments, &mut kubelet);
        file = super::kubelet::config_file(arguments).unwrap_or(file);
    }
    let text = read_text(&host.join(&file)).ok();
    if let Some(text) = &text {
        super::kubelet::of_config(text, &mut kubelet);
    }
    if facts.kubelet.is_some() || pid.is_some() || text.is_some() || pods {
        facts.kubelet = Some(kubelet);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_a_saved_tree_follow_from_its_slabs() {
        let cache = |object_size, objects_per_slab, pages_per_slab| SlabCache {
            object_size,
            objects_per_slab,
            pages_per_slab,
            ..SlabCache::default()
        };
        assert_eq!(page_bytes(false, None), 4_096);
        assert_eq!(page_bytes(false, Some(&[cache(512, 32, 4), cache(136, 30, 1)])), 4_096);
        assert_eq!(page_bytes(false, Some(&[cache(512, 128, 1)])), 65_536);
        assert_eq!(page_bytes(false, Some(&[cache(u64::MAX, 2, 0)])), 4_096);
    }

    #[test]
    fn zfs_says_how_much_its_cache_has() {
        let text = "9 1 0x01 123 33456 1 2\nname type data\nhits 4 7\nsize 4 8589934592\n";
        assert_eq!(zfs_size(text), Some(8 << 30));
        assert_eq!(zfs_size("size\n"), None);
    }
}

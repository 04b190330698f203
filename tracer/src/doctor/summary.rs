//! Puts a report together: rows of what is largest, the answer in one sentence, the one command.

use super::{
    facts::{Cgroups, Facts},
    findings::{self, Context},
    owner,
    report::{
        CacheRow, CgroupRow, CgroupsRow, DoctorReport, Finding, Machine, ProcessRow, SCHEMA,
        Severity, UnreadRow,
    },
};
use crate::{
    cgroups::limit,
    host::{cgroup::MemoryVersion, gauge::Limit},
    report::human,
};

/// Rows of each table.
const ROWS: usize = 10;

pub(super) fn report(context: &Context<'_>, findings: Vec<Finding>) -> DoctorReport {
    let facts = context.facts;
    let next = findings.iter().find_map(|finding| finding.next.clone());
    DoctorReport {
        schema: SCHEMA.to_owned(),
        host: Machine {
            kernel: facts.kernel.clone(),
            machine: facts.machine.clone(),
            cgroup: facts.cgroup_mode.map(str::to_owned),
            hostname: facts.hostname.clone(),
        },
        live: facts.live,
        looked_s: facts.looked_s,
        summary: sentence(context, &findings),
        memory: context.memory.clone(),
        findings,
        next,
        processes: processes(facts),
        caches: caches(facts),
        cgroups: facts.cgroups.as_ref().map(|cgroups| cgroups_row(facts, cgroups)),
        unread: facts
            .unread
            .iter()
            .map(|unread| UnreadRow { path: unread.path.clone(), why: unread.why.clone() })
            .collect(),
    }
}

fn sentence(context: &Context<'_>, findings: &[Finding]) -> String {
    if let Some(worst) = findings.first().filter(|finding| finding.severity != Severity::Info) {
        return format!("{}.", worst.summary);
    }
    let of = match (context.available, context.facts.total()) {
        (Some(available), Some(total)) => {
            format!(": {} of {} is available", human::bytes(available), human::bytes(total))
        }
        _ => String::new(),
    };
    // slabinfo is what it takes to judge the kernel's part.
    let partly = context.facts.caches.is_none() || context.facts.meminfo.is_none();
    let so_far = if partly { " in what could be read" } else { "" };
    format!("nothing stands out{so_far}{of}.")
}

fn processes(facts: &Facts) -> Vec<ProcessRow> {
    facts
        .processes
        .iter()
        .take(ROWS)
        .map(|process| {
            let owner = owner::of(process);
            let limit = owner::limit(facts, process);
            ProcessRow {
                pid: process.pid,
                comm: process.comm.clone(),
                rss_bytes: process.footprint.rss_bytes,
                anon_bytes: process.footprint.anon_bytes,
                shmem_bytes: process.footprint.shmem_bytes,
                swap_bytes: process.footprint.swap_bytes,
                cgroup: process.cgroup.clone(),
                unit: owner.unit,
                pod: owner.pod,
                namespace: owner.namespace,
                container: owner.container,
                pod_uid: owner.pod_uid,
                container_id: owner.container_id,
                limit_bytes: bytes(limit),
                limited: limit.map(|limit| limit != Limit::None),
            }
        })
        .collect()
}

fn bytes(limit: Option<Limit>) -> Option<u64> {
    match limit {
        Some(Limit::Bytes(bytes)) => Some(bytes),
        _ => None,
    }
}

fn caches(facts: &Facts) -> Option<Vec<CacheRow>> {
    let mut rows: Vec<CacheRow> = facts
        .caches
        .as_ref()?
        .iter()
        .map(|cache| {
            let growth = facts.growth.iter().find(|growth| growth.name == cache.slab.name);
            let seconds = growth.map_or(0.0, |growth| growth.seconds.iter().sum());
            CacheRow {
                name: cache.slab.name.clone(),
                bytes: cache.slab.slab_bytes(facts.page_bytes),
                objects: cache.slab.total_objects,
                active_objects: cache.slab.active_objects,
                object_size_bytes: cache.slab.object_size,
                reclaimable: cache.reclaimable,
                growth_objects_per_s: growth.filter(|_| seconds > 0.0).map(|growth| {
                    growth.objects[2].saturating_sub(growth.objects[0]) as f64 / seconds
                }),
            }
        })
        .collect();
    rows.sort_by(|a, b| (b.bytes, &a.name).cmp(&(a.bytes, &b.name)));
    rows.truncate(ROWS);
    Some(rows)
}

fn cgroups_row(facts: &Facts, cgroups: &Cgroups) -> CgroupsRow {
    let ids = findings::ids(facts, cgroups);
    let below = |path: &str, above: &str| {
        path.strip_prefix(above).is_some_and(|rest| rest.starts_with('/'))
    };
    let mut used: Vec<(&str, u64, Option<Limit>)> = cgroups
        .gauges
        .iter()
        .filter_map(|(path, gauge)| Some((path.as_str(), gauge.usage_bytes?, gauge.limit)))
        .collect();
    used.sort_unstable_by_key(|&(path, usage, _)| (std::cmp::Reverse(usage), path));
    used.truncate(ROWS * 8);
    let largest = used
        .iter()
        // The innermost ones that hold most of what is below them.
        .filter(|(path, usage, _)| {
            !used.iter().any(|(other, part, _)| below(other, path) && *part >= *usage / 4 * 3)
        })
        .take(ROWS)
        .map(|(path, usage, own)| CgroupRow {
            path: (*path).to_owned(),
            usage_bytes: *usage,
            limit_bytes: bytes(*own),
            limited: cgroups.limit(path).map(|limit| limit != Limit::None),
        })
        .collect();
    CgroupsRow {
        version: match cgroups.version {
            MemoryVersion::V1 => "v1",
            MemoryVersion::V2 => "v2",
        }
        .to_owned(),
        live: cgroups.census.groups.len() as u64,
        dying: cgroups.census.dying,
        ids: limit::MAX_IDS,
        used_at_least: ids.least,
        used_at_most: ids.most,
        largest,
    }
}

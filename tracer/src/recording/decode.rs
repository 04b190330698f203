//! From what a frame holds to evidence. Whoever wrote the file, what comes out makes sense, or is an error.

use std::sync::Arc;

use hashbrown::HashMap;
use kleak_common::{context, kind};

use super::{
    Settings,
    format::{self, Allocator, Body, Context, Stack},
    limits::{self, Excess},
};
use crate::{
    analyse::{Evidence, Point, SlabCount},
    report::{Frames, Owner},
    snapshot::{BIRTH_SLICES, Group, GroupKey, SiteFacts, Snapshot},
};

/// What does not fit together in a frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Misfit {
    /// A row refers to what there is none of.
    #[error("{what} {place} of {of} is not there")]
    Missing { what: &'static str, place: i64, of: &'static str },
    /// It is more than any recording holds.
    #[error(transparent)]
    Excess(#[from] Excess),
}

/// What was recorded.
///
/// Errors: something refers to what is not there.
pub(super) fn evidence(body: Body) -> Result<(Evidence, Settings), Misfit> {
    limits::check(&body)?;
    let end_ns = body.start_ns.checked_add(body.length_ns).ok_or(Misfit::Missing {
        what: "nanosecond",
        place: i64::MAX,
        of: "the window",
    })?;
    let names: Vec<Arc<str>> = body.names.iter().map(|name| Arc::from(name.as_str())).collect();
    let kernel = stacks(&body.stacks, &names)?;
    let user = stacks(&body.user_stacks, &names)?;
    let owners: Vec<Owner> = body.owners.0.into_iter().map(Into::into).collect();

    let mut evidence = Evidence {
        host: body.host.into(),
        filter: body.filter.into(),
        snapshot: Snapshot {
            start_ns: body.start_ns,
            at_ns: end_ns,
            missed_events: body.loss.missed_events,
            scale: body.scale,
            ..Snapshot::default()
        },
        history: points(&body.points_ns, &body.sites, body.start_ns),
        owners: HashMap::new(),
        cache_names: HashMap::new(),
        aliases: body.aliases.0.into_iter().map(|row| (row.cache, row.others.into())).collect(),
        kernel_stacks: HashMap::new(),
        user_stacks: HashMap::new(),
        call_sites: HashMap::new(),
        slab_before: slabs(&body.slabinfo, |row| row.before),
        slab_after: slabs(&body.slabinfo, |row| row.after),
        percpu_growth_bytes: body.percpu_growth_bytes,
        mem_available_bytes: body.mem_available_bytes,
        cpus: body.cpus,
        cgroups: body.cgroups.into(),
        mode: body.mode.into(),
        older_frees: body.older_frees.map(|rows| by_cache(rows.0)),
        queued: by_cache(body.queued.0),
        loss: body.loss.into(),
        cost: body.cost.into(),
        sampling: body.sampling.map(Into::into),
        command: body.command.map(Into::into),
        notes: body.notes.0,
    };
    for (key, site) in (1..).zip(body.sites.iter()) {
        add_site(&mut evidence, key, site, &names, &owners)?;
    }
    for row in body.groups.iter() {
        add_group(&mut evidence, row, body.sites.len(), &kernel, &user)?;
    }
    let settings = Settings {
        top: body.settings.top.map(|top| usize::try_from(top).unwrap_or(usize::MAX)),
        family_only: body.settings.family_only,
    };
    Ok((evidence, settings))
}

/// What is at a place of a table.
fn at<'a, T>(
    table: &'a [T],
    place: u32,
    what: &'static str,
    of: &'static str,
) -> Result<&'a T, Misfit> {
    let found = usize::try_from(place).ok().and_then(|place| table.get(place));
    found.ok_or(Misfit::Missing { what, place: i64::from(place), of })
}

fn stacks(rows: &[Stack], names: &[Arc<str>]) -> Result<Vec<Frames>, Misfit> {
    let name = |place: &u32| at(names, *place, "name", "a stack").map(Arc::clone);
    rows.iter().map(|row| row.iter().map(name).collect()).collect()
}

fn points(points_ns: &[u64], sites: &[format::Site], start_ns: u64) -> Vec<Point> {
    let mut points: Vec<Point> = points_ns
        .iter()
        .map(|at_ns| Point { at_ns: start_ns.saturating_add(*at_ns), outstanding: HashMap::new() })
        .collect();
    for (key, site) in (1..).zip(sites) {
        for (point, count) in
            points.iter_mut().zip(site.held.iter()).filter(|(_, count)| **count > 0)
        {
            point.outstanding.insert(key, *count);
        }
    }
    points
}

fn add_site(
    evidence: &mut Evidence,
    key: u64,
    row: &format::Site,
    names: &[Arc<str>],
    owners: &[Owner],
) -> Result<(), Misfit> {
    if row.lost {
        return Ok(());
    }
    // Functions stand in for the addresses that call them.
    let call_site = match row.function {
        None => 0,
        Some(place) => {
            let call_site = u64::from(place) + 1;
            let name = at(names, place, "function", "a site")?;
            evidence.call_sites.entry(call_site).or_insert_with(|| name.as_ref().to_owned());
            call_site
        }
    };
    if let Some(place) = row.owner {
        evidence.owners.insert(key, at(owners, place, "owner", "a site")?.clone());
    }
    if let Some(place) = row.cache {
        let name = at(names, place, "slab cache", "a site")?.as_ref().to_owned();
        evidence.cache_names.insert(key, name);
    }
    let site = kleak_common::Site {
        start_ns: row.process_start_ns,
        call_site,
        tgid: row.pid,
        size: row.size,
        context: match row.context {
            Context::Task => context::TASK,
            Context::Kthread => context::KTHREAD,
            Context::Softirq => context::SOFTIRQ,
            Context::Hardirq => context::HARDIRQ,
        },
        family: u8::from(row.family),
        kind: match row.kind {
            Allocator::Kmalloc => kind::KMALLOC,
            Allocator::Cache => kind::CACHE,
            Allocator::Page => kind::PAGE,
            Allocator::Percpu => kind::PERCPU,
        },
        ..kleak_common::Site::default()
    };
    let facts = SiteFacts {
        site,
        allocated: row.allocated,
        untracked: row.untracked,
        reused: row.reused,
        scale: row.scale,
    };
    evidence.snapshot.sites.insert(key, facts);
    Ok(())
}

fn add_group(
    evidence: &mut Evidence,
    row: &format::Group,
    sites: usize,
    kernel: &[Frames],
    user: &[Frames],
) -> Result<(), Misfit> {
    let site = u64::from(row.site);
    if site == 0 || usize::try_from(site).is_ok_and(|site| site > sites) {
        return Err(Misfit::Missing { what: "site", place: i64::from(row.site), of: "a group" });
    }
    let key = GroupKey {
        site,
        kernel_stack: row.stack.unwrap_or(-1),
        user_stack: row.user.unwrap_or(-1),
    };
    if let Ok(place) = u32::try_from(key.kernel_stack) {
        let frames = at(kernel, place, "kernel stack", "a group")?;
        evidence.kernel_stacks.entry(key.kernel_stack).or_insert_with(|| Arc::clone(frames));
    }
    if let Ok(place) = u32::try_from(key.user_stack) {
        let frames = at(user, place, "user stack", "a group")?;
        evidence.user_stacks.insert((site, key.user_stack), Arc::clone(frames));
    }
    let mut births = [0; BIRTH_SLICES];
    for (slice, count) in births.iter_mut().zip(row.births.iter()) {
        *slice = *count;
    }
    let start_ns = evidence.snapshot.start_ns;
    let group = Group {
        objects: row.objects,
        requested: row.requested,
        weight: row.weight,
        oldest_ns: row.oldest_ns.map_or(u64::MAX, |at| start_ns.saturating_add(at)),
        births,
    };
    match evidence.snapshot.groups.insert(key, group) {
        None => Ok(()),
        Some(_) => Err(Misfit::Missing {
            what: "a second group of site",
            place: i64::from(row.site),
            of: "its stack",
        }),
    }
}

fn slabs(
    rows: &[format::Slab],
    when: impl Fn(&format::Slab) -> Option<format::SlabCount>,
) -> HashMap<String, SlabCount> {
    let count = |count: format::SlabCount| SlabCount {
        active_objects: count.active,
        objects_per_slab: count.per_slab,
    };
    rows.iter().filter_map(|row| Some((row.name.clone(), count(when(row)?)))).collect()
}

fn by_cache(rows: Vec<format::Count>) -> HashMap<String, u64> {
    rows.into_iter().map(|row| (row.cache, row.objects)).collect()
}

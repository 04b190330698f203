//! The window: attach, look around, follow events, look around again.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    Place,
    census::Census,
    life::{Life, Maker},
    snapshot::{CgroupsSnapshot, Watched},
};
use crate::{
    host::{Host, meminfo, process},
    probe::{self, CgroupSource, Probe, now_ns},
    progress::say,
    report::Owner,
    resolve::{
        cgroups::Cgroups,
        containers::Containers,
        machine,
        owners::{self, Home},
    },
    trace::{
        Failure,
        signals::{Arrived, Signals},
    },
};

/// How often events are taken from the ring buffer, which holds 1,700: 34,000 a second can pass.
const DRAIN: Duration = Duration::from_millis(50);

/// How a window ended.
pub(super) enum End {
    /// As it should.
    Window(Box<CgroupsSnapshot>),
    /// By a signal other than INT and TERM.
    Signal(i32),
}

/// Watches one window. Where events cannot be followed, it looks twice, at its ends; without a
/// length, once and at once.
pub(super) async fn run(
    place: &Place,
    duration: Option<Duration>,
    signals: &mut Signals,
) -> Result<End, Failure> {
    let mut events = match Events::attach(place) {
        Ok(events) => Ok(events),
        Err(error) if error.is_inability() => Err(error.to_string()),
        Err(error) => return Err(error.into()),
    };
    let before = Census::take(&place.host, &place.layout);
    let start_ns = match &mut events {
        Ok(events) => {
            events.probe.start()?;
            say(&format!(
                "attached: creation, removal and release of memory cgroups; {:.1} MiB of kernel \
                 memory; no allocation is traced",
                events.probe.map_bytes() as f64 / f64::from(1 << 20)
            ));
            events.probe.start_ns()
        }
        Err(why) => {
            let first = why.lines().next().unwrap_or_default();
            say(&format!("without BPF, so who makes cgroups stays unknown: {first}"));
            now_ns()
        }
    };
    let deadline = duration.map(|duration| Instant::now() + duration);
    // Without events and without an end there is nothing to wait for.
    if events.is_ok() || deadline.is_some() {
        let arrived = watch(events.as_mut().ok(), deadline, signals).await;
        if let Some(Arrived::Other(number)) = arrived {
            return Ok(End::Signal(number));
        }
    }
    let watched = match events {
        Ok(events) => Ok(events.finish(place)?),
        Err(why) => Err(why),
    };
    let at_ns = match (&watched, deadline) {
        // One look is no window.
        (Err(_), None) => start_ns,
        _ => now_ns(),
    };
    let mut after =
        if at_ns == start_ns { before.clone() } else { Census::take(&place.host, &place.layout) };
    let charges_read = after.read_charges(&place.host, &place.layout);
    Ok(End::Window(Box::new(CgroupsSnapshot {
        host: machine::of(&place.host, &place.layout),
        version: place.version,
        mount: place.mount.clone(),
        start_ns,
        at_ns,
        before,
        after,
        charges_read,
        watched,
        swap_used_bytes: swap_used(&place.host),
        page_bytes: page_bytes(),
    })))
}

/// Takes events until the end of the window, and says what ended it early.
async fn watch(
    mut events: Option<&mut Events>,
    deadline: Option<Instant>,
    signals: &mut Signals,
) -> Option<Arrived> {
    let mut tick = tokio::time::interval(DRAIN);
    loop {
        tokio::select! {
            biased;
            arrived = signals.next() => return Some(arrived),
            () = sleep_until(deadline) => return None,
            _ = tick.tick() => {
                if let Some(events) = events.as_deref_mut() {
                    events.take();
                }
            }
        }
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// The events of a window.
struct Events {
    probe: Probe,
    life: Life,
    /// Paths of the makers' own cgroups.
    cgroups: Cgroups,
}

impl Events {
    fn attach(place: &Place) -> Result<Self, probe::Error> {
        let config = probe::Config::of_cgroups(&place.host, CgroupSource::of(&place.layout));
        let mut probe = Probe::load(&config)?;
        probe.attach(&config)?;
        let cgroups = Cgroups::scan(&place.host, &place.layout);
        Ok(Self { probe, life: Life::default(), cgroups })
    }

    fn take(&mut self) {
        for change in self.probe.cgroup_changes() {
            self.life.apply(&change);
            self.cgroups.apply(change);
        }
    }

    /// Detaches, and names those who were seen.
    fn finish(mut self, place: &Place) -> Result<Watched, Failure> {
        self.probe.detach();
        self.take();
        let facts = self.probe.snapshot(0)?;
        let cgroups = &mut self.cgroups;
        let makers = &self.life.makers;
        let homes: Vec<Option<Home>> = makers
            .iter()
            .map(|maker| cgroups.path(maker.cgroup, &place.host, &place.layout).map(Home::of))
            .collect();
        let mut containers = Containers::scan(&place.host);
        containers.make_sure(&place.host, homes.iter().flatten().map(|home| &home.names));
        let owners = makers
            .iter()
            .zip(&homes)
            .map(|(maker, home)| {
                let known = home.as_ref().map(|home| owners::owner_in(home, &containers));
                owner(maker, place, cgroups, known.unwrap_or_default())
            })
            .collect();
        Ok(Watched {
            counts: facts.cgroup_events,
            owners,
            lost_events: facts.tally.lost_cgroup_events,
            missed_events: facts.missed_events,
            failed_reads: facts.tally.failed_reads,
            map_bytes: self.probe.map_bytes(),
            life: self.life,
        })
    }
}

/// Who a maker is, by the name it had when it acted.
fn owner(maker: &Maker, place: &Place, cgroups: &mut Cgroups, known: Owner) -> Owner {
    let cgroup_removed = cgroups.removed(maker.cgroup, &place.host, &place.layout);
    let mut processes = maker.processes.iter();
    let only = match (processes.next(), processes.next()) {
        (Some(process), None) if !maker.more_processes => Some(process),
        _ => None,
    };
    Owner {
        kind: "process".to_owned(),
        pid: only.map(|process| process.tgid),
        comm: (!maker.comm.is_empty()).then(|| maker.comm.clone()),
        exited: only
            .and_then(|process| process::live(&place.host, process.tgid, process.start_ns).ok())
            .map(|live| !live),
        cgroup_removed,
        ..known
    }
}

fn swap_used(host: &Host) -> Option<u64> {
    let memory = meminfo::read(host).ok()?;
    // A kernel without swap says nothing of it.
    let total = memory.swap_total.unwrap_or(0);
    Some(total.saturating_sub(memory.swap_free.unwrap_or(0)))
}

fn page_bytes() -> u64 {
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE);
    size.ok().flatten().and_then(|size| u64::try_from(size).ok()).unwrap_or(4096)
}

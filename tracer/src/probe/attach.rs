//! Loading the programs that a configuration needs, attaching them in the order that keeps counts
//! true, and detaching them.
//!
//! An event that arrives while its program runs on that CPU is skipped by the kernel, which counts it: an
//! interrupt's, on top of the program. A second program catches it, and more than doubles the cost of every
//! event, as a tracepoint calls one program directly and several through a list. So the later programs of
//! a chain stand by until the kernel has skipped some events, unless exactness is worth more than time.

use std::{os::fd::AsFd as _, time::Duration};

use aya::{
    Ebpf, EbpfLoader,
    maps::Array,
    programs::{
        RawTracePoint, RawTracePointRunOptions, TestRun as _, raw_trace_point::RawTracePointLinkId,
    },
};
use kleak_common::{Control, row};

use crate::host::Host;

use super::{
    Config, Error, Following, Layout, OBJECT, Probe, Scope, functions, refused, rights, sys,
};

/// What is attached.
#[derive(Default)]
pub(super) struct Links {
    allocations: Vec<(String, RawTracePointLinkId)>,
    frees: Vec<(String, RawTracePointLinkId)>,
    life: Vec<(String, RawTracePointLinkId)>,
    functions: Vec<functions::Link>,
    /// Chains of which only the first program is attached.
    standby: Vec<Chain>,
    /// What [`Control::chained`] is when counting starts.
    chained: u32,
}

/// An event, and the first of the programs that it is offered to.
struct Chain {
    first: &'static str,
    event: &'static str,
    allocates: bool,
}

impl Chain {
    /// The kind of event: one of [`row`].
    fn kind(&self) -> u32 {
        match self.event {
            "kmalloc" | "kmalloc_node" => row::KMALLOC,
            "kfree" => row::KFREE,
            "kmem_cache_free" => row::CACHE_FREE,
            "mm_page_alloc" => row::PAGE_ALLOC,
            "mm_page_free" => row::PAGE_FREE,
            "percpu_alloc_percpu" => row::PERCPU_ALLOC,
            "percpu_free_percpu" => row::PERCPU_FREE,
            _ => row::CACHE_ALLOC,
        }
    }
}

/// From the announcement of a chain until its later programs are called: an event that is under way takes
/// microseconds, and on a virtual machine may take longer.
const GRACE: Duration = Duration::from_millis(2);

/// Interrupts, processes: needed always. Exits before entries, so that a handler that runs while
/// we attach is never seen to begin without its end.
const LIFE: [&str; 7] = [
    "softirq_exit",
    "irq_handler_exit",
    "softirq_entry",
    "irq_handler_entry",
    "sched_process_fork",
    "sched_process_exec",
    "sched_process_exit",
];
/// Cgroups: need BTF.
const CGROUPS: [&str; 4] = ["cgroup_mkdir", "cgroup_rmdir", "cgroup_release", "cgroup_attach_task"];

/// What the later programs of a chain are called, after the first: as many as `row::CHAIN`.
const LATER: [&str; 3] = ["_second", "_third", "_fourth"];
const _: () = assert!(LATER.len() + 1 == row::CHAIN as usize);

/// The chain that begins with a program, in the order in which they are to be called.
pub(super) fn chain(first: &str, layout: &Layout) -> Vec<String> {
    let later = LATER.iter().take(if layout.preemptible { LATER.len() } else { 1 });
    std::iter::once(first.to_owned()).chain(later.map(|place| format!("{first}{place}"))).collect()
}

/// `(first program of the chain, event)` of the allocations that the configuration asks for.
fn allocations(config: &Config, layout: &Layout) -> Vec<(&'static str, &'static str)> {
    let mut list = Vec::new();
    if !config.sizes.is_empty() {
        for &event in &layout.kmalloc_events {
            list.push((layout.kmalloc, event));
        }
    }
    if config.caches {
        for &event in &layout.cache_events {
            list.push((layout.cache, event));
        }
    }
    if config.pages {
        list.push(("mm_page_alloc", "mm_page_alloc"));
    }
    if config.percpu {
        list.extend(layout.percpu.map(|program| (program, "percpu_alloc_percpu")));
    }
    list
}

/// `(first program of the chain, event)` of the frees.
fn frees(config: &Config, layout: &Layout) -> Vec<(&'static str, &'static str)> {
    let mut list = Vec::new();
    if config.slab() {
        list.extend([("kfree", "kfree"), (layout.cache_free, "kmem_cache_free")]);
    }
    if config.pages {
        list.push(("mm_page_free", "mm_page_free"));
    }
    if config.percpu {
        list.push(("percpu_free_percpu", "percpu_free_percpu"));
    }
    list
}

/// Whether a program is the first of a chain.
pub(super) fn has_second(ebpf: &Ebpf, program: &str) -> bool {
    ebpf.program(&format!("{program}_second")).is_some()
}

/// Whether a program is a later one of a chain: what it is skipped for, another may have had.
pub(super) fn is_later(program: &str) -> bool {
    LATER.iter().any(|place| program.ends_with(place))
}

fn life(config: &Config, layout: &Layout) -> Vec<&'static str> {
    // A task that moves changes whose memory is whose, and no cgroup's life.
    if config.scope == Scope::Cgroups {
        return CGROUPS.into_iter().filter(|event| *event != "cgroup_attach_task").collect();
    }
    let mut list = LIFE.to_vec();
    if layout.btf {
        list.extend(CGROUPS);
    }
    list
}

/// Loads what will be attached.
pub(super) fn load_programs(
    ebpf: &mut Ebpf,
    config: &Config,
    layout: &Layout,
) -> Result<(), Error> {
    let chains = allocations(config, layout).into_iter().chain(frees(config, layout));
    let mut names: Vec<String> = chains.flat_map(|(first, _)| chain(first, layout)).collect();
    let others =
        life(config, layout).into_iter().chain(["revalidate", "learn_cache", "announce_chain"]);
    names.extend(others.map(str::to_owned));
    names.sort_unstable();
    names.dedup();
    for name in names {
        program(ebpf, &name)?
            .load()
            .map_err(|error| refused(&format!("program `{name}`"), &error))?;
    }
    Ok(())
}

pub(super) fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut RawTracePoint, Error> {
    let missing = || Error::Refused {
        what: format!("program `{name}`"),
        cause: "it is not in the BPF object this kleak was built with".to_owned(),
        advice: String::new(),
    };
    let found = ebpf.program_mut(name).ok_or_else(missing)?;
    found.try_into().map_err(|_| missing())
}

impl Links {
    fn of(&mut self, chain: &Chain) -> &mut Vec<(String, RawTracePointLinkId)> {
        if chain.allocates { &mut self.allocations } else { &mut self.frees }
    }
}

/// Events that the kernel may skip, of each kind, before more than one program is called for each: the second
/// costs as much as finding an object does. Only what comes in an interrupt is skipped (before 7.0, where
/// nobody stands by), so that nothing that a process does itself is among them.
const TOLERATED: u64 = 32;

/// Events that the kernel has skipped a program for.
fn skips(ebpf: &Ebpf, name: &str) -> u64 {
    let program = ebpf.program(name).and_then(|program| program.fd().ok());
    program.and_then(|fd| sys::program_info(fd.as_fd()).ok()).map_or(0, |(_, _, skips)| skips)
}

fn attach(
    ebpf: &mut Ebpf,
    name: &str,
    event: &str,
) -> Result<(String, RawTracePointLinkId), Error> {
    let link = program(ebpf, name)?
        .attach(event)
        .map_err(|error| refused(&format!("to attach to tracepoint `{event}`"), &error))?;
    Ok((name.to_owned(), link))
}

fn detach(ebpf: &mut Ebpf, links: &mut Vec<(String, RawTracePointLinkId)>) {
    // The last of a chain first: what comes between, the first has, and nothing counts as rescued that
    // nobody was skipped for.
    for (name, link) in links.drain(..).rev() {
        // A link that is gone is what was wanted.
        if let Ok(program) = program(ebpf, &name) {
            drop(program.detach(link));
        }
    }
}

impl Probe {
    /// Attaches everything: bookkeeping, then frees, then allocations, so that no object is
    /// entered whose free could be missed. Counting starts with [`Self::start`].
    ///
    /// Errors: the kernel refused a program.
    pub fn attach(&mut self, config: &Config) -> Result<(), Error> {
        for event in life(config, &self.layout) {
            self.links.life.push(attach(&mut self.ebpf, event, event)?);
        }
        let links = &mut self.links;
        if config.slab() {
            self.free_mode =
                functions::attach(&mut self.ebpf, &self.layout, config, &mut links.functions);
        }
        let by_function =
            self.layout.frees_fire_late && self.free_mode.following != Following::Tracepoints;
        // Functions' chains are complete at once: what they follow is rare.
        self.links.chained = 1 << row::RCU_FREE | 1 << row::BULK_FREE;
        if by_function {
            self.links.chained |= 1 << row::CACHE_FREE;
        }
        // The function has been attached in its stead.
        let followed = |event: &str| !(by_function && event == "kmem_cache_free");
        let frees = frees(config, &self.layout).into_iter().filter(|(_, event)| followed(event));
        let frees = frees.map(|(first, event)| Chain { first, event, allocates: false });
        let allocations = allocations(config, &self.layout).into_iter();
        let allocations = allocations.map(|(first, event)| Chain { first, event, allocates: true });
        for chain in frees.chain(allocations).collect::<Vec<_>>() {
            let link = attach(&mut self.ebpf, chain.first, chain.event)?;
            self.links.of(&chain).push(link);
            if config.exact || self.layout.preemptible {
                self.links.chained |= 1 << chain.kind();
                self.complete(&chain)?;
            } else {
                self.links.standby.push(chain);
            }
        }
        Ok(())
    }

    /// Attaches the later programs of those chains whose first the kernel has skipped more than a few
    /// events for. What was skipped until then is lost, and counted.
    ///
    /// Errors: the kernel refused a program.
    pub fn stand_in(&mut self) -> Result<(), Error> {
        let skipped: Vec<u32> = self
            .links
            .standby
            .iter()
            .filter(|chain| skips(&self.ebpf, chain.first) > TOLERATED)
            .map(Chain::kind)
            .collect();
        let standby = std::mem::take(&mut self.links.standby);
        let (due, rest): (Vec<Chain>, _) =
            standby.into_iter().partition(|chain| skipped.contains(&chain.kind()));
        self.links.standby = rest;
        for chain in &due {
            tracing::debug!(event = chain.event, "the kernel has skipped events: others stand in");
            self.announce(chain.kind())?;
            // Else the second would take events under way for some that the first was skipped for.
            std::thread::sleep(GRACE);
            self.complete(chain)?;
        }
        Ok(())
    }

    /// Attaches the later programs of a chain. What is attached first is called first.
    fn complete(&mut self, chain: &Chain) -> Result<(), Error> {
        for program in self::chain(chain.first, &self.layout).into_iter().skip(1) {
            let link = attach(&mut self.ebpf, &program, chain.event)?;
            self.links.of(chain).push(link);
        }
        Ok(())
    }

    /// Has the first program of a chain tell the later ones what it has seen.
    fn announce(&self, kind: u32) -> Result<(), Error> {
        let name = "announce_chain";
        let program: Option<&RawTracePoint> =
            self.ebpf.program(name).and_then(|program| program.try_into().ok());
        let mut options = RawTracePointRunOptions::new();
        options.args[0] = u64::from(kind);
        match program.map(|program| program.test_run(options)) {
            Some(Ok(_)) => Ok(()),
            Some(Err(error)) => Err(refused(&format!("to run program `{name}`"), &error)),
            None => Err(Error::Refused {
                what: format!("program `{name}`"),
                cause: "it is not in the BPF object this kleak was built with".to_owned(),
                advice: String::new(),
            }),
        }
    }

    /// Switches counting on. Before, nothing is counted; after, everything is.
    ///
    /// Errors: the switch could not be written.
    pub fn start(&mut self) -> Result<(), Error> {
        let failed = |cause: String| Error::Map { map: "CONTROL", cause };
        let map = self.ebpf.map_mut(".bss").ok_or_else(|| failed("it is missing".to_owned()))?;
        let mut control: Array<_, Control> =
            Array::try_from(map).map_err(|error| failed(error.to_string()))?;
        self.start_ns = super::read::now_ns();
        let start = Control {
            active: 1,
            chained: self.links.chained,
            credit: u64::from(self.max_objects),
            ..Control::default()
        };
        control.set(0, start, 0).map_err(|error| failed(error.to_string()))
    }

    /// Takes the later programs of the chains away, so that each event costs one run less: those that
    /// arrive while the first runs are lost from now on, and counted as missed.
    pub fn detach_later(&mut self) {
        let later = |links: &mut Vec<(String, RawTracePointLinkId)>| -> Vec<_> {
            links.extract_if(.., |(name, _)| is_later(name)).collect()
        };
        let mut links = later(&mut self.links.allocations);
        detach(&mut self.ebpf, &mut links);
        let mut links = later(&mut self.links.frees);
        detach(&mut self.ebpf, &mut links);
        functions::detach_later(&mut self.ebpf, &mut self.links.functions);
        // Nor do those come back that stand by.
        self.links.standby.clear();
    }

    /// Ends the window: allocations first, then frees, so that what is left is what was
    /// outstanding at one instant. The maps stay readable.
    pub fn detach(&mut self) {
        detach(&mut self.ebpf, &mut self.links.allocations);
        detach(&mut self.ebpf, &mut self.links.frees);
        functions::detach(&mut self.ebpf, &mut self.links.functions);
        detach(&mut self.ebpf, &mut self.links.life);
    }
}

/// Programs that do nothing, on the two hottest tracepoints: what being attached costs by itself.
/// For the benchmark.
pub struct EmptyPrograms {
    _ebpf: Ebpf,
}

impl EmptyPrograms {
    /// Loads and attaches them; they are detached on drop.
    ///
    /// Errors: as [`Probe::load`].
    pub fn attach() -> Result<Self, Error> {
        if OBJECT.is_empty() {
            return Err(Error::NoObject);
        }
        rights::check(&Host::default())?;
        let mut ebpf = EbpfLoader::new()
            .btf(None)
            .map_max_entries("OBJECTS", 1)
            .load(OBJECT)
            .map_err(|error| refused("the maps", &error))?;
        let empty = program(&mut ebpf, "empty")?;
        empty.load().map_err(|error| refused("program `empty`", &error))?;
        for event in ["kmalloc", "kfree"] {
            empty
                .attach(event)
                .map_err(|error| refused(&format!("to attach to tracepoint `{event}`"), &error))?;
        }
        Ok(Self { _ebpf: ebpf })
    }
}

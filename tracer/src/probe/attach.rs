//! Loading the programs that a configuration needs, attaching them in the order that keeps counts
//! true, and detaching them.

use aya::{
    Ebpf, EbpfLoader,
    maps::Array,
    programs::{RawTracePoint, raw_trace_point::RawTracePointLinkId},
};
use kleak_common::Control;

use super::{Config, Error, Following, Layout, OBJECT, Probe, Scope, functions, refused, rights};

/// What is attached.
#[derive(Default)]
pub(super) struct Links {
    allocations: Vec<(String, RawTracePointLinkId)>,
    frees: Vec<(String, RawTracePointLinkId)>,
    life: Vec<(String, RawTracePointLinkId)>,
    functions: Vec<functions::Link>,
}

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
const _: () = assert!(LATER.len() + 1 == kleak_common::row::CHAIN as usize);

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
    let others = life(config, layout).into_iter().chain(["lies_in", "learn_cache"]);
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
                functions::attach(&mut self.ebpf, &self.layout, &config.btf, &mut links.functions);
        }
        let by_function =
            self.layout.frees_fire_late && self.free_mode.following != Following::Tracepoints;
        // What is attached first is called first.
        for (first, event) in frees(config, &self.layout) {
            // The function has been attached in its stead.
            if by_function && event == "kmem_cache_free" {
                continue;
            }
            for program in chain(first, &self.layout) {
                links.frees.push(attach(&mut self.ebpf, &program, event)?);
            }
        }
        for (first, event) in allocations(config, &self.layout) {
            for program in chain(first, &self.layout) {
                links.allocations.push(attach(&mut self.ebpf, &program, event)?);
            }
        }
        Ok(())
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
        control
            .set(0, Control { active: 1, ..Control::default() }, 0)
            .map_err(|error| failed(error.to_string()))
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
        rights::check()?;
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

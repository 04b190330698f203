//! Programs at the entry of kernel functions, for the frees that no tracepoint shows. Some kernels
//! refuse trampolines, some have no kprobes either: then those frees cannot be followed, and that is
//! said.

use std::path::Path;

use aya::{
    Btf, Ebpf, Endianness,
    programs::{FEntry, KProbe, fentry::FEntryLinkId, kprobe::KProbeLinkId},
};
use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};

use super::{
    Config, Layout,
    attach::{chain, is_later},
    read,
};

/// How frees that no tracepoint shows are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Following {
    /// At function entries, by trampolines (fentry).
    Trampolines,
    /// At function entries, by kprobes.
    Kprobes,
    /// Not at all.
    Tracepoints,
}

impl Following {
    /// As in the JSON report.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Trampolines => "trampolines",
            Self::Kprobes => "kprobes",
            Self::Tracepoints => "tracepoints",
        }
    }
}

/// The way frees are followed on this kernel, and why it is not a better one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FreeMode {
    /// The way.
    pub following: Following,
    /// What stands in the way of a better one.
    pub obstacle: Option<String>,
}

/// A program attached to a function.
pub(super) enum Link {
    Entry(String, FEntryLinkId),
    Kprobe(&'static str, KProbeLinkId),
}

/// A kernel function and the programs for it.
struct Function {
    /// As in kallsyms.
    name: &'static str,
    /// By trampoline: the first of the chain.
    entry: &'static str,
    /// By kprobe.
    kprobe: &'static str,
}

const RCU: Function = Function {
    name: "kvfree_call_rcu",
    entry: "kvfree_call_rcu",
    kprobe: "kvfree_call_rcu_kprobe",
};
const BULK: Function = Function {
    name: "kmem_cache_free_bulk",
    entry: "kmem_cache_free_bulk",
    kprobe: "kmem_cache_free_bulk_kprobe",
};
/// Instead of the tracepoint, where that fires after the free.
const CACHE_FREE: Function = Function {
    name: "kmem_cache_free",
    entry: "kmem_cache_free_entry",
    kprobe: "kmem_cache_free_kprobe",
};

/// Attaches what this kernel lets us, the best way it does.
pub(super) fn attach(
    ebpf: &mut Ebpf,
    layout: &Layout,
    config: &Config,
    links: &mut Vec<Link>,
) -> FreeMode {
    let btf: &Path = &config.btf;
    // While this is 0, both attach without complaint and are never called (kernel/trace/ftrace.c).
    let switch = std::fs::read_to_string(config.host.proc("sys/kernel/ftrace_enabled"));
    let switch = switch.unwrap_or_default();
    if switch.trim() == "0" {
        return FreeMode {
            following: Following::Tracepoints,
            obstacle: Some(
                "function tracing is off; to follow them: sysctl kernel.ftrace_enabled=1"
                    .to_owned(),
            ),
        };
    }
    let mut functions = vec![RCU, BULK];
    if layout.frees_fire_late {
        functions.push(CACHE_FREE);
    }
    let trampolines =
        match entries(ebpf, &functions, layout, btf, links).and_then(|()| called(ebpf)) {
            Ok(()) => return FreeMode { following: Following::Trampolines, obstacle: None },
            Err(cause) => cause,
        };
    detach(ebpf, links);
    let kprobes = match kprobes(ebpf, &functions, links).and_then(|()| called(ebpf)) {
        Ok(()) => {
            return FreeMode {
                following: Following::Kprobes,
                obstacle: Some(format!("no trampolines: {trampolines}")),
            };
        }
        Err(cause) => cause,
    };
    detach(ebpf, links);
    FreeMode {
        following: Following::Tracepoints,
        obstacle: Some(format!(
            "this kernel has neither trampolines ({trampolines}) nor kprobes ({kprobes})"
        )),
    }
}

fn entries(
    ebpf: &mut Ebpf,
    functions: &[Function],
    layout: &Layout,
    btf: &Path,
    links: &mut Vec<Link>,
) -> Result<(), String> {
    // Parsed anew, as aya has a form of its own, and dropped again: it is large.
    let btf = Btf::parse_file(btf, Endianness::default()).map_err(|error| cause(&error))?;
    for function in functions {
        // What is attached last is called first (`__bpf_trampoline_link_prog` puts it at the head of its
        // list, kernel/bpf/trampoline.c, 5.5 to 7.2).
        for name in chain(function.entry, layout).into_iter().rev() {
            let program = ebpf.program_mut(&name).ok_or("they are not in this build")?;
            let program: &mut FEntry =
                program.try_into().map_err(|_| "they are not in this build")?;
            program.load(function.name, &btf).map_err(|error| cause(&error))?;
            let link = program.attach().map_err(|error| cause(&error))?;
            links.push(Link::Entry(name, link));
        }
    }
    Ok(())
}

fn kprobes(ebpf: &mut Ebpf, functions: &[Function], links: &mut Vec<Link>) -> Result<(), String> {
    for function in functions {
        let program = ebpf.program_mut(function.kprobe).ok_or("they are not in this build")?;
        let program: &mut KProbe = program.try_into().map_err(|_| "they are not in this build")?;
        program.load().map_err(|error| cause(&error))?;
        let link = program.attach(function.name, 0).map_err(|error| cause(&error))?;
        links.push(Link::Kprobe(function.kprobe, link));
    }
    Ok(())
}

pub(super) fn detach(ebpf: &mut Ebpf, links: &mut Vec<Link>) {
    for link in links.drain(..) {
        // A link that is gone is what was wanted.
        match link {
            Link::Entry(name, link) => {
                let program = ebpf.program_mut(&name).and_then(|program| program.try_into().ok());
                drop(program.map(|program: &mut FEntry| program.detach(link)));
            }
            Link::Kprobe(name, link) => {
                let program = ebpf.program_mut(name).and_then(|program| program.try_into().ok());
                drop(program.map(|program: &mut KProbe| program.detach(link)));
            }
        }
    }
}

/// Detaches the later programs of the chains.
pub(super) fn detach_later(ebpf: &mut Ebpf, links: &mut Vec<Link>) {
    let later = |link: &mut Link| matches!(link, Link::Entry(name, _) if is_later(name));
    let mut later: Vec<Link> = links.extract_if(.., later).collect();
    detach(ebpf, &mut later);
}

/// Whether they are called: that they are attached does not say so. A timer's descriptor is freed by
/// RCU when it is closed (`timerfd_release()`, fs/timerfd.c, since 3.11).
fn called(ebpf: &Ebpf) -> Result<(), String> {
    let seen = || read::tally(ebpf).map_or(0, |tally| tally.rcu_frees);
    let before = seen();
    match TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::empty()) {
        Ok(timer) => drop(timer),
        // A kernel without timer descriptors: nothing to try it with.
        Err(_) => return Ok(()),
    }
    if seen() > before { Ok(()) } else { Err("attached, but not called".to_owned()) }
}

/// The root of an error: what the kernel answered, if it did, in a few words.
fn cause(error: &dyn std::error::Error) -> String {
    let mut root = error;
    loop {
        // A refused program's has what the verifier said.
        tracing::debug!(error = %root, "function programs");
        let Some(source) = root.source() else { break };
        root = source;
    }
    let text = root.to_string();
    text.lines().next().unwrap_or_default().trim_end_matches('.').to_owned()
}

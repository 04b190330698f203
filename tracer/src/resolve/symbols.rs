//! Addresses to function names, by blazesym.

use std::{path::PathBuf, sync::Arc};

use blazesym::{
    MaybeDefault, Pid,
    symbolize::{
        Input, Symbolizer,
        source::{Kernel, Process, Source},
    },
};
use hashbrown::HashMap;
use kleak_common::{ProcessKey, context};

use super::{modules::Modules, roles};
use crate::{
    host::{Host, system},
    report::Frames,
};

/// Where a kernel stack begins for a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaf {
    /// One function before this return address: the allocator that it called.
    Caller(u64),
    /// The first function of this [`kleak_common::role`]: an allocator that is reached through several.
    Role(u8),
}

/// Looks up kernel functions, and remembers them.
pub struct KernelSymbols {
    symbolizer: Symbolizer,
    kallsyms: PathBuf,
    names: HashMap<u64, Option<Arc<str>>>,
    modules: Modules,
    /// Names of frames, of which those of modules say so.
    frames: HashMap<u64, Arc<str>>,
}

impl Default for KernelSymbols {
    fn default() -> Self {
        Self::of(&Host::default())
    }
}

impl KernelSymbols {
    /// Functions of the running kernel.
    #[must_use]
    pub fn of(host: &Host) -> Self {
        let (symbolizer, names, frames) = (Symbolizer::new(), HashMap::new(), HashMap::new());
        let kallsyms = host.proc("kallsyms");
        Self { symbolizer, kallsyms, names, modules: Modules::of(host), frames }
    }

    /// The function that a return address lies in; the address itself where it has no name (no
    /// right to read `/proc/kallsyms`, or `kptr_restrict`).
    pub fn name(&mut self, address: u64) -> Arc<str> {
        self.lookup(address).unwrap_or_else(|| number(address))
    }

    /// As [`Self::name`], `None` where there is none.
    pub fn lookup(&mut self, address: u64) -> Option<Arc<str>> {
        if let Some(known) = self.names.get(&address) {
            return known.clone();
        }
        let source = Source::Kernel(Kernel {
            kallsyms: MaybeDefault::Some(self.kallsyms.clone()),
            // A vmlinux with debug information is large, and tells no more than the names.
            vmlinux: MaybeDefault::None,
            ..Kernel::default()
        });
        // A return address may be the first byte after a function whose last act was the call.
        let input = Input::AbsAddr(address.saturating_sub(1));
        let found = self.symbolizer.symbolize_single(&source, input).ok();
        let name = found.as_ref().and_then(|found| found.as_sym()).map(|sym| Arc::from(&*sym.name));
        self.names.insert(address, name.clone());
        name
    }

    /// [`Self::name`], with the module where it is a module's: `nf_conntrack_alloc [nf_conntrack]`, as perf
    /// writes it.
    pub fn frame(&mut self, address: u64) -> Arc<str> {
        if let Some(known) = self.frames.get(&address) {
            return Arc::clone(known);
        }
        let frame = match self.lookup(address) {
            None => number(address),
            Some(name) => match self.modules.find(address.saturating_sub(1), &name) {
                Some(module) => format!("{name} [{module}]").into(),
                None => name,
            },
        };
        self.frames.insert(address, Arc::clone(&frame));
        frame
    }

    /// Names of a kernel stack's functions, leaf first, from the allocator on: the frames of the
    /// tracing itself are left out.
    ///
    /// In an interrupt, the frames below its entry are of the task that it interrupted, and are
    /// left out too.
    pub fn frames(&mut self, addresses: &[u64], leaf: Leaf, context: u8) -> Frames {
        let from = match leaf {
            // One before the caller is the allocator.
            Leaf::Caller(call_site) => addresses
                .iter()
                .position(|&address| address == call_site)
                .map(|caller| caller.saturating_sub(1)),
            Leaf::Role(role) => addresses
                .iter()
                .position(|&a| self.lookup(a).is_some_and(|name| roles::role(&name) == role)),
        };
        let from = match from {
            Some(from) => from,
            None => addresses
                .iter()
                .position(|&address| self.lookup(address).is_none_or(|name| !is_tracing(&name)))
                .unwrap_or(0),
        };
        let kept = addresses.get(from..).unwrap_or_default();
        let names: Vec<Arc<str>> = kept.iter().map(|&address| self.frame(address)).collect();
        // A stack cut at one frame before the caller may still begin with the tracing.
        let skip = names.iter().take_while(|name| is_tracing(name)).count();
        let own = names.into_iter().skip(skip);
        let is_entry = match context {
            context::SOFTIRQ => is_softirq_entry,
            context::HARDIRQ => is_hardirq_entry,
            _ => return own.collect(),
        };
        let mut own: Vec<Arc<str>> = own.collect();
        if let Some(entry) = own.iter().position(|name| is_entry(name)) {
            own.truncate(entry + 1);
        }
        own.into()
    }
}

/// Whether a function is of the machinery between the allocator and our program.
fn is_tracing(name: &str) -> bool {
    ["bpf_prog_", "bpf_trace_run", "__bpf_trace_", "__traceiter_", "__bpf_prog", "trace_call_bpf"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

/// Where softirqs begin: `handle_softirqs` from 6.10, `__do_softirq` before (`kernel/softirq.c`).
fn is_softirq_entry(name: &str) -> bool {
    ["handle_softirqs", "__do_softirq", "__softirqentry_text_start"].iter().any(|entry| {
        name.strip_prefix(entry).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    })
}

/// Where hardware interrupts begin: x86 (`arch/x86/kernel/irq.c`, `include/asm/idtentry.h`) and
/// arm64 (`arch/arm64/kernel/entry-common.c`).
fn is_hardirq_entry(name: &str) -> bool {
    matches!(name, "common_interrupt" | "__common_interrupt" | "do_IRQ" | "gic_handle_irq")
        || [
            "sysvec_",
            "__sysvec_",
            "asm_common_interrupt",
            "asm_sysvec_",
            "el1_interrupt",
            "el0_interrupt",
        ]
        .iter()
        .any(|entry| name.starts_with(entry))
}

/// Addresses remembered of processes, 10 MB of them: whoever jumps about more than that is looked up
/// again.
const USER_NAMES: usize = 1 << 17;

/// Looks up functions of processes, while they live, and remembers them: of 100,000 stacks most
/// addresses are the same.
pub struct UserSymbols {
    symbolizer: Symbolizer,
    /// Whether the ids of processes mean the same to blazesym, which reads this process's `/proc`.
    readable: bool,
    names: HashMap<(ProcessKey, u64), Arc<str>>,
}

impl UserSymbols {
    /// Functions of the processes of a machine.
    #[must_use]
    pub fn of(host: &Host) -> Self {
        let readable = system::own_proc_is_of(host);
        Self { symbolizer: Symbolizer::new(), readable, names: HashMap::new() }
    }

    /// Names of a user stack's functions, leaf first; an address without a name stays a number.
    /// `None` when the process cannot be read, most often because it has ended.
    pub fn frames(&mut self, process: ProcessKey, addresses: &[u64]) -> Option<Frames> {
        let unknown: Vec<u64> = addresses
            .iter()
            .copied()
            .filter(|&address| !self.names.contains_key(&(process, address)))
            .collect();
        if !unknown.is_empty() {
            if self.names.len() + unknown.len() > USER_NAMES {
                self.names.clear();
                // What was known of this stack is forgotten with the rest.
                return self.frames(process, addresses);
            }
            self.look_up(process, &unknown)?;
        }
        addresses.iter().map(|&address| self.names.get(&(process, address)).cloned()).collect()
    }

    fn look_up(&mut self, key: ProcessKey, addresses: &[u64]) -> Option<()> {
        if !self.readable {
            return None;
        }
        let mut process = Process::new(Pid::from(key.tgid));
        // Its file lies in a directory that anyone can write to.
        process.perf_map = false;
        // Debug information of somebody's binary can take more memory than the node has left.
        process.debug_syms = false;
        let source = Source::Process(process);
        let found = self.symbolizer.symbolize(&source, Input::AbsAddr(addresses)).ok()?;
        for (found, &address) in found.iter().zip(addresses) {
            let name = found.as_sym().map_or_else(|| number(address), |sym| Arc::from(&*sym.name));
            self.names.insert((key, address), name);
        }
        Some(())
    }
}

/// An address without a name.
pub(crate) fn number(address: u64) -> Arc<str> {
    format!("{address:#x}").into()
}

#[cfg(test)]
mod tests {
    use super::{Frames, KernelSymbols, Leaf, is_tracing};
    use crate::host::Host;
    use kleak_common::{context, role};

    fn names(frames: &Frames) -> Vec<&str> {
        frames.iter().map(AsRef::as_ref).collect()
    }

    fn symbols(names: &[(u64, &str)]) -> KernelSymbols {
        let mut symbols = KernelSymbols::default();
        symbols.names.extend(names.iter().map(|(a, n)| (*a, Some((*n).into()))));
        symbols
    }

    #[test]
    fn a_stack_starts_at_the_allocator() {
        let mut symbols = symbols(&[
            (1, "bpf_prog_0123456789abcdef_kmalloc"),
            (2, "bpf_trace_run6"),
            (3, "__kmalloc_noprof"),
            (4, "load_msg"),
            (5, "do_msgsnd"),
        ]);
        let whole = ["__kmalloc_noprof", "load_msg", "do_msgsnd"];
        assert_eq!(names(&symbols.frames(&[1, 2, 3, 4, 5], Leaf::Caller(4), 0)), whole);
        // Our own frame is skipped.
        assert_eq!(names(&symbols.frames(&[2, 3, 4, 5], Leaf::Caller(4), 0)), whole);
        // A call site that is not in the stack: tracing frames go by name.
        assert_eq!(names(&symbols.frames(&[1, 2, 3, 4, 5], Leaf::Caller(99), 0)), whole);
        // The tracepoint fires in the caller itself.
        assert_eq!(
            names(&symbols.frames(&[1, 2, 4, 5], Leaf::Caller(4), 0)),
            ["load_msg", "do_msgsnd"]
        );
        assert!(symbols.frames(&[], Leaf::Caller(4), 0).is_empty());
    }

    #[test]
    fn a_stack_of_pages_starts_where_the_page_allocator_does() {
        let mut symbols = symbols(&[
            (1, "bpf_prog_0123456789abcdef_mm_page_alloc"),
            (2, "bpf_trace_run4"),
            (3, "__alloc_frozen_pages_noprof"),
            (4, "alloc_pages_noprof"),
            (5, "anon_pipe_write"),
        ]);
        let whole = ["__alloc_frozen_pages_noprof", "alloc_pages_noprof", "anon_pipe_write"];
        assert_eq!(names(&symbols.frames(&[1, 2, 3, 4, 5], Leaf::Role(role::PAGES), 0)), whole);
        // A kernel whose page allocator has names that are not known.
        assert_eq!(
            names(&symbols.frames(&[1, 2, 5], Leaf::Role(role::PAGES), 0)),
            ["anon_pipe_write"]
        );
    }

    #[test]
    fn functions_of_modules_say_so() {
        let tree = tempfile::tempdir().unwrap();
        std::fs::create_dir(tree.path().join("proc")).unwrap();
        let text = "ffffffffc0a20000 T nf_conntrack_alloc\t[nf_conntrack]\n";
        std::fs::write(tree.path().join("proc/kallsyms"), text).unwrap();
        let mut symbols = KernelSymbols::of(&Host::new(tree.path()));
        let at = 0xffff_ffff_c0a2_0010;
        symbols.names.extend([
            (1, Some("__kmalloc_noprof".into())),
            (at, Some("nf_conntrack_alloc".into())),
            (3, None),
        ]);
        let frames = symbols.frames(&[1, at, 3], Leaf::Caller(at), 0);
        assert_eq!(
            names(&frames),
            ["__kmalloc_noprof", "nf_conntrack_alloc [nf_conntrack]", "0x3"]
        );
        // What a call site is called says less.
        assert_eq!(&*symbols.name(at), "nf_conntrack_alloc");
    }

    #[test]
    fn an_interrupt_s_stack_ends_where_it_began() {
        let mut symbols = symbols(&[
            (1, "__kmalloc_noprof"),
            (2, "___neigh_create"),
            (3, "handle_softirqs"),
            (4, "do_softirq.part.0"),
            (5, "common_interrupt"),
            (6, "__x64_sys_sendto"),
        ]);
        let all = [1, 2, 3, 4, 5, 6];
        let softirq = ["__kmalloc_noprof", "___neigh_create", "handle_softirqs"];
        assert_eq!(names(&symbols.frames(&all, Leaf::Caller(2), context::SOFTIRQ)), softirq);
        assert_eq!(
            &**symbols.frames(&all, Leaf::Caller(2), context::HARDIRQ).last().unwrap(),
            "common_interrupt"
        );
        assert_eq!(symbols.frames(&all, Leaf::Caller(2), context::TASK).len(), 6);
    }

    #[test]
    fn tracing_frames_are_known() {
        assert!(is_tracing("bpf_trace_run6"));
        assert!(!is_tracing("bpf_map_area_alloc"));
    }
}

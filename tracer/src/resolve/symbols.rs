//! Addresses to function names, by blazesym.

use blazesym::{
    MaybeDefault, Pid,
    symbolize::{
        Input, Symbolizer,
        source::{Kernel, Process, Source},
    },
};
use hashbrown::HashMap;

/// Looks up kernel functions, and remembers them.
pub struct KernelSymbols {
    symbolizer: Symbolizer,
    names: HashMap<u64, Option<String>>,
}

impl Default for KernelSymbols {
    fn default() -> Self {
        Self { symbolizer: Symbolizer::new(), names: HashMap::new() }
    }
}

impl KernelSymbols {
    /// The function that a return address lies in; the address itself where it has no name (no
    /// right to read `/proc/kallsyms`, or `kptr_restrict`).
    pub fn name(&mut self, address: u64) -> String {
        self.lookup(address).unwrap_or_else(|| format!("{address:#x}"))
    }

    /// As [`Self::name`], `None` where there is none.
    pub fn lookup(&mut self, address: u64) -> Option<String> {
        if let Some(known) = self.names.get(&address) {
            return known.clone();
        }
        let source = Source::Kernel(Kernel {
            kallsyms: MaybeDefault::Default,
            // A vmlinux with debug information is large, and tells no more than the names.
            vmlinux: MaybeDefault::None,
            ..Kernel::default()
        });
        // A return address may be the first byte after a function whose last act was the call.
        let input = Input::AbsAddr(address.saturating_sub(1));
        let found = self.symbolizer.symbolize_single(&source, input).ok();
        let name = found.as_ref().and_then(|found| found.as_sym()).map(|sym| sym.name.to_string());
        self.names.insert(address, name.clone());
        name
    }

    /// Names of a kernel stack's functions, leaf first, from the allocator on: the frames of the
    /// tracing itself are left out.
    pub fn frames(&mut self, addresses: &[u64], call_site: u64) -> Vec<String> {
        let from = match addresses.iter().position(|&address| address == call_site) {
            // One before the caller is the allocator.
            Some(caller) => caller.saturating_sub(1),
            None => addresses
                .iter()
                .position(|&address| self.lookup(address).is_none_or(|name| !is_tracing(&name)))
                .unwrap_or(0),
        };
        let kept = addresses.get(from..).unwrap_or_default();
        let names: Vec<String> = kept.iter().map(|&address| self.name(address)).collect();
        // A stack cut at one frame before the caller may still begin with the tracing.
        let skip = names.iter().take_while(|name| is_tracing(name)).count();
        names.into_iter().skip(skip).collect()
    }
}

/// Whether a function is of the machinery between the allocator and our program.
fn is_tracing(name: &str) -> bool {
    ["bpf_prog_", "bpf_trace_run", "__bpf_trace_", "__traceiter_", "__bpf_prog", "trace_call_bpf"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

/// Looks up functions of processes, while they live, and remembers whole stacks.
pub struct UserSymbols {
    symbolizer: Symbolizer,
}

impl Default for UserSymbols {
    fn default() -> Self {
        Self { symbolizer: Symbolizer::new() }
    }
}

impl UserSymbols {
    /// Names of a user stack's functions, leaf first; an address without a name stays a number.
    /// `None` when the process cannot be read, most often because it has ended.
    pub fn frames(&self, pid: u32, addresses: &[u64]) -> Option<Vec<String>> {
        let mut process = Process::new(Pid::from(pid));
        // Its file lies in a directory that anyone can write to.
        process.perf_map = false;
        // Debug information of somebody's binary can take more memory than the node has left.
        process.debug_syms = false;
        let source = Source::Process(process);
        let found = self.symbolizer.symbolize(&source, Input::AbsAddr(addresses)).ok()?;
        let named = found.iter().zip(addresses).map(|(found, address)| {
            found.as_sym().map_or_else(|| format!("{address:#x}"), |sym| sym.name.to_string())
        });
        Some(named.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::{KernelSymbols, is_tracing};

    fn symbols(names: &[(u64, &str)]) -> KernelSymbols {
        let mut symbols = KernelSymbols::default();
        symbols.names.extend(names.iter().map(|(a, n)| (*a, Some((*n).to_owned()))));
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
        assert_eq!(symbols.frames(&[1, 2, 3, 4, 5], 4), whole);
        // The second stack map skips our own frame.
        assert_eq!(symbols.frames(&[2, 3, 4, 5], 4), whole);
        // A call site that is not in the stack: tracing frames go by name.
        assert_eq!(symbols.frames(&[1, 2, 3, 4, 5], 99), whole);
        // The tracepoint fires in the caller itself.
        assert_eq!(symbols.frames(&[1, 2, 4, 5], 4), ["load_msg", "do_msgsnd"]);
        assert!(symbols.frames(&[], 4).is_empty());
    }

    #[test]
    fn tracing_frames_are_known() {
        assert!(is_tracing("bpf_trace_run6"));
        assert!(!is_tracing("bpf_map_area_alloc"));
    }
}

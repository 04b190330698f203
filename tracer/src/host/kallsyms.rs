//! `/proc/kallsyms`: addresses of kernel symbols by name.

use std::io::{BufRead as _, BufReader};
use std::sync::Arc;

use super::Host;

/// Addresses of some symbols, each `None` where the kernel does not list it (variables need
/// `CONFIG_KALLSYMS_ALL`) or hides it (`kernel.kptr_restrict`).
#[must_use]
pub fn addresses<const N: usize>(host: &Host, names: [&str; N]) -> [Option<u64>; N] {
    let mut found = [None; N];
    let Ok(file) = std::fs::File::open(host.proc("kallsyms")) else { return found };
    for line in BufReader::new(file).lines().map_while(Result::ok) {
        let Some((address, name)) = symbol(&line) else { continue };
        for (wanted, place) in names.iter().zip(&mut found) {
            if *wanted == name && place.is_none() {
                *place = Some(address).filter(|&address| address != 0);
            }
        }
        if found.iter().all(Option::is_some) {
            break;
        }
    }
    found
}

/// Functions of the kernel itself, in order of address; `None` where the kernel does not list them
/// (`CONFIG_KALLSYMS`) or hides their addresses (`kernel.kptr_restrict`).
///
/// Takes some 20 MB for a moment: a kernel has 100,000 of them.
#[must_use]
pub fn functions(host: &Host) -> Option<Vec<(u64, String)>> {
    let file = std::fs::File::open(host.proc("kallsyms")).ok()?;
    let mut functions: Vec<(u64, String)> = BufReader::new(file)
        .lines()
        .map_while(Result::ok)
        .filter_map(|line| {
            let (address, name) = symbol(&line)?;
            let kind = line.split_ascii_whitespace().nth(1)?;
            let text = matches!(kind, "t" | "T" | "w" | "W") && address != 0;
            text.then(|| (address, name.to_owned()))
        })
        .collect();
    functions.sort_unstable();
    (!functions.is_empty()).then_some(functions)
}

/// A function of a module.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Foreign {
    /// Where it begins.
    pub address: u64,
    /// Its name.
    pub name: Box<str>,
    /// The module's name.
    pub module: Arc<str>,
}

/// Functions of modules, in order of address; none where the kernel hides them or has no modules. Programs of
/// BPF and trampolines, which are listed as if of modules (`bpf`, `__builtin__ftrace`), are not among them.
#[must_use]
pub fn of_modules(host: &Host) -> Vec<Foreign> {
    let Ok(file) = std::fs::File::open(host.proc("kallsyms")) else { return Vec::new() };
    let mut functions: Vec<Foreign> = Vec::new();
    for line in BufReader::new(file).lines().map_while(Result::ok) {
        let Some((address, name, module)) = foreign(&line) else { continue };
        // Those of one module come in a row.
        let module = match functions.last() {
            Some(last) if *last.module == *module => Arc::clone(&last.module),
            _ => module.into(),
        };
        functions.push(Foreign { address, name: name.into(), module });
    }
    functions.sort_unstable();
    functions
}

/// `ffffffffc0a20000 t nf_conntrack_alloc [nf_conntrack]`, with a tab before the module.
fn foreign(line: &str) -> Option<(u64, &str, &str)> {
    let mut words = line.split_ascii_whitespace();
    let address = u64::from_str_radix(words.next()?, 16).ok().filter(|&address| address != 0)?;
    words.next().filter(|kind| matches!(*kind, "t" | "T" | "w" | "W"))?;
    let name = words.next()?;
    let module = words.next()?.strip_prefix('[')?.strip_suffix(']')?;
    let is_one = module != "bpf" && !module.starts_with("__builtin__");
    is_one.then_some((address, name, module))
}

/// `ffffffff81000000 T _text`, of the kernel itself: a module's lines end in `[module]`.
fn symbol(line: &str) -> Option<(u64, &str)> {
    let mut words = line.split_ascii_whitespace();
    let address = u64::from_str_radix(words.next()?, 16).ok()?;
    let (_kind, name) = (words.next()?, words.next()?);
    words.next().is_none().then_some((address, name))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{addresses, foreign, functions, symbol};
    use crate::host::Host;

    #[test]
    fn symbols_are_found_by_their_whole_name() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("proc")).unwrap();
        let text = "ffffffff81000000 T _text\nffffffff82a00010 d vmemmap_base_not\n\
                    ffffffffc0000000 d vmemmap_base\t[odd]\nffffffff82a00018 D vmemmap_base\n\
                    0000000000000000 D hidden\n";
        std::fs::write(dir.path().join("proc/kallsyms"), text).unwrap();
        let host = Host::new(dir.path());
        let found = addresses(&host, ["vmemmap_base", "hidden", "missing", "_text"]);
        assert_eq!(found, [Some(0xffff_ffff_82a0_0018), None, None, Some(0xffff_ffff_8100_0000)]);
        assert_eq!(functions(&host), Some(vec![(0xffff_ffff_8100_0000, "_text".to_owned())]));
    }

    proptest! {
        #[test]
        fn any_line_is_read_without_a_panic(line in "\\PC*") {
            let _ = symbol(&line);
            let _ = foreign(&line);
        }
    }
}

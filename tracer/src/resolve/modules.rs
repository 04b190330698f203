//! Which kernel module a function belongs to.

use std::sync::Arc;

use crate::host::{Host, kallsyms};

/// Functions of modules, read when first needed: a machine may have 100,000 of them.
#[derive(Debug)]
pub(super) struct Modules {
    host: Host,
    /// By address.
    functions: Option<Vec<kallsyms::Foreign>>,
}

impl Modules {
    pub(super) fn of(host: &Host) -> Self {
        Self { host: host.clone(), functions: None }
    }

    /// The module of a function at an address; `None` where it is of the kernel itself, or not known.
    ///
    /// The name has to be the same: between the functions of modules there may lie some that are of none.
    pub(super) fn find(&mut self, address: u64, name: &str) -> Option<Arc<str>> {
        let host = &self.host;
        let functions = self.functions.get_or_insert_with(|| read(host));
        let after = functions.partition_point(|function| function.address <= address);
        let mut before = functions.get(..after)?.iter().rev();
        let nearest = before.next()?;
        // One address may have several names.
        let same = |function: &&kallsyms::Foreign| function.address == nearest.address;
        let mut alike = std::iter::once(nearest).chain(before.take_while(same));
        alike.find(|function| *function.name == *name).map(|function| Arc::clone(&function.module))
    }
}

/// Without a module loaded there is nothing to find in some 10 MB of text.
fn read(host: &Host) -> Vec<kallsyms::Foreign> {
    match std::fs::read(host.proc("modules")) {
        Ok(loaded) if loaded.is_empty() => Vec::new(),
        _ => kallsyms::of_modules(host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_of_modules() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("proc")).unwrap();
        let text = "ffffffff81000000 T load_msg\n\
                    ffffffffc0a20000 t nf_alias\t[nf_conntrack]\n\
                    ffffffffc0a20000 T nf_conntrack_alloc\t[nf_conntrack]\n\
                    ffffffffc0a10000 T zfs_open\t[zfs]\n\
                    ffffffffc0a30000 d a_variable\t[zfs]\n\
                    ffffffffc0a40000 t bpf_prog_6deef7357e7b4530_x\t[bpf]\n\
                    ffffffffc0a50000 t ftrace_trampoline\t[__builtin__ftrace]\n\
                    0000000000000000 t hidden\t[zfs]\n";
        std::fs::write(dir.path().join("proc/kallsyms"), text).unwrap();
        let mut modules = Modules::of(&Host::new(dir.path()));
        let mut find = |address, name| modules.find(address, name).map(|name| name.to_string());
        assert_eq!(
            find(0xffff_ffff_c0a2_0010, "nf_conntrack_alloc").as_deref(),
            Some("nf_conntrack")
        );
        assert_eq!(find(0xffff_ffff_c0a2_0010, "nf_alias").as_deref(), Some("nf_conntrack"));
        assert_eq!(find(0xffff_ffff_c0a1_0000, "zfs_open").as_deref(), Some("zfs"));
        // What lies behind a module's function is not its own.
        assert_eq!(find(0xffff_ffff_c0a2_0010, "another"), None);
        for (address, name) in [
            (0xffff_ffff_8100_0010, "load_msg"),
            (0xffff_ffff_c0a4_0000, "bpf_prog_6deef7357e7b4530_x"),
            (0xffff_ffff_c0a5_0000, "ftrace_trampoline"),
            (0, "hidden"),
        ] {
            assert_eq!(find(address, name), None, "{name}");
        }
        std::fs::write(dir.path().join("proc/modules"), "").unwrap();
        let mut none = Modules::of(&Host::new(dir.path()));
        assert_eq!(none.find(0xffff_ffff_c0a1_0000, "zfs_open"), None);
        std::fs::write(dir.path().join("proc/modules"), "zfs 1 0 - Live 0x0\n").unwrap();
        let mut one = Modules::of(&Host::new(dir.path()));
        assert_eq!(one.find(0xffff_ffff_c0a1_0000, "zfs_open").as_deref(), Some("zfs"));
    }
}

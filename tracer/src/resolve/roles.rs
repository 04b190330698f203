//! Which functions of the kernel belong to which allocator: the events of the page and per-CPU
//! allocators do not say who called them, so the kernel side looks for the first function on the
//! stack that is none of these.
//!
//! Names as in `mm/page_alloc.c`, `mempolicy.c`, `slub.c`, `slab.c`, `slab_common.c`, `util.c`,
//! `vmalloc.c` and `percpu.c` of 5.10 to 7.2; from 6.10 on many end in `_noprof`.

use kleak_common::{CallPath, PIECES, role};

/// The role of a function, by its name as in kallsyms.
#[must_use]
pub fn role(symbol: &str) -> u8 {
    // Without the suffix of a copy that the compiler made: `.isra.0`, `.constprop.0`.
    let name = symbol.split('.').next().unwrap_or(symbol);
    let name = name.strip_suffix("_noprof").unwrap_or(name);
    let begins = |with: &[&str]| with.iter().any(|start| name.starts_with(start));
    if LARGE_KMALLOC.contains(&name) {
        role::LARGE_KMALLOC
    } else if PAGES.contains(&name) || begins(&PAGES_BEGIN) {
        role::PAGES
    } else if SLAB.contains(&name) || begins(&SLAB_BEGIN) {
        role::SLAB
    } else if VMALLOC.contains(&name) || begins(&VMALLOC_BEGIN) {
        role::VMALLOC
    } else if begins(&PERCPU_BEGIN) {
        role::PERCPU
    } else {
        role::OTHER
    }
}

const LARGE_KMALLOC: [&str; 9] = [
    "kmalloc_large",
    "kmalloc_large_node",
    "__kmalloc_large",
    "__kmalloc_large_node",
    "___kmalloc_large_node",
    "kmalloc_order",
    "kmalloc_order_trace",
    "kmalloc_large_node_hook",
    "kmalloc_large_node_notrace",
];

const PAGES: [&str; 12] = [
    "__folio_alloc",
    "__folio_alloc_node",
    "folio_alloc",
    "folio_alloc_mpol",
    "alloc_page_interleave",
    "alloc_page_vma",
    "get_free_pages",
    "__get_free_pages",
    "get_zeroed_page",
    "__get_dma_pages",
    "try_alloc_pages",
    "make_alloc_exact",
];
const PAGES_BEGIN: [&str; 6] = [
    "__alloc_pages",
    "alloc_pages",
    "__alloc_frozen_pages",
    "alloc_frozen_pages",
    "vma_alloc_folio",
    "__alloc_page_",
];

const SLAB: [&str; 21] = [
    "allocate_slab",
    "new_slab",
    "new_slab_objects",
    "alloc_slab_page",
    "___slab_alloc",
    "__slab_alloc",
    "__slab_alloc_node",
    "slab_alloc_node",
    "slab_alloc",
    "refill_objects",
    "refill_sheaf",
    "alloc_from_pcs",
    "alloc_full_sheaf",
    "alloc_empty_sheaf",
    "__alloc_empty_sheaf",
    "alloc_slab_obj_exts",
    "kmem_getpages",
    "cache_grow_begin",
    "cache_alloc_refill",
    "fallback_alloc",
    "krealloc",
];
const SLAB_BEGIN: [&str; 14] = [
    "kmem_cache_alloc",
    "__kmem_cache_alloc",
    "___kmem_cache_alloc",
    "kmem_cache_prefill",
    "kmem_buckets_alloc",
    "__pcs_replace",
    "__refill_",
    "__kmalloc",
    "___kmalloc",
    "__do_kmalloc",
    "kmalloc_trace",
    "kmalloc_node_trace",
    "kmalloc_nolock",
    "__krealloc",
];

const VMALLOC: [&str; 6] = [
    "vm_area_alloc_pages",
    "__kvmalloc_node",
    "kvmalloc_node",
    "kvmalloc",
    "kvrealloc",
    "__do_kvmalloc",
];
const VMALLOC_BEGIN: [&str; 7] = [
    "__vmalloc",
    "vmalloc_",
    "vzalloc",
    "vrealloc",
    "kvmalloc_array",
    "__kvmalloc_array",
    "__vcalloc",
];

const PERCPU_BEGIN: [&str; 4] = ["pcpu_", "__alloc_percpu", "__alloc_reserved_percpu", "__pcpu_"];

/// The kernel's text cut up by role; `functions` in order of address, each up to the next.
///
/// `None` when there are more pieces than the kernel side takes: better no caller than a wrong one.
#[must_use]
pub fn call_path(functions: &[(u64, String)]) -> Option<CallPath> {
    let mut pieces: Vec<(u64, u8)> = Vec::new();
    let mut functions = functions.iter().peekable();
    while let Some((start, name)) = functions.next() {
        let mut found = role(name);
        // Several names of one function: any that says something.
        while let Some((_, alias)) = functions.next_if(|(next, _)| next == start) {
            found = found.max(role(alias));
        }
        if pieces.last().map_or(role::OTHER, |&(_, role)| role) != found {
            pieces.push((*start, found));
        }
    }
    let mut path = CallPath::NONE;
    // The first piece is never asked for: what lies before all others.
    let first = PIECES.checked_sub(pieces.len()).filter(|&first| first > 0)?;
    for ((start, role), (place, kind)) in
        pieces.into_iter().zip(path.starts.iter_mut().zip(&mut path.roles).skip(first))
    {
        (*place, *kind) = (start, role);
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::{call_path, role};
    use kleak_common::{CallPath, role as is};

    #[test]
    fn allocators_are_known_by_their_names_on_all_kernels() {
        for (name, kind) in [
            ("__alloc_pages_nodemask", is::PAGES),
            ("__alloc_pages", is::PAGES),
            ("__alloc_frozen_pages_noprof", is::PAGES),
            ("alloc_pages_mpol_noprof.part.0", is::PAGES),
            ("alloc_pages_current", is::PAGES),
            ("get_free_pages_noprof", is::PAGES),
            ("vma_alloc_folio_noprof", is::PAGES),
            ("new_slab", is::SLAB),
            ("allocate_slab.isra.0", is::SLAB),
            ("__kmalloc_node_track_caller_noprof", is::SLAB),
            ("__kmalloc_large_node_noprof", is::LARGE_KMALLOC),
            ("___kmalloc_large_node", is::LARGE_KMALLOC),
            ("kmalloc_order_trace", is::LARGE_KMALLOC),
            ("__kvmalloc_node_noprof", is::VMALLOC),
            ("__vmalloc_area_node", is::VMALLOC),
            ("pcpu_alloc_noprof", is::PERCPU),
            ("__alloc_percpu_gfp", is::PERCPU),
            ("anon_pipe_write", is::OTHER),
            ("alloc_page_buffers", is::OTHER),
            ("filemap_alloc_folio_noprof", is::OTHER),
            ("bpf_map_alloc_percpu", is::OTHER),
            ("kmemdup_noprof", is::OTHER),
        ] {
            assert_eq!(role(name), kind, "{name}");
        }
    }

    fn at(path: &CallPath, address: u64) -> u8 {
        path.roles[CallPath::piece(address, |index| path.starts[index])]
    }

    #[test]
    fn every_address_has_the_role_of_its_function() {
        const TEXT: u64 = 0xffff_ffff_8100_0000;
        let names =
            ["_text", "alloc_pages_mpol", "__alloc_pages", "pipe_write", "new_slab", "fput"];
        let functions: Vec<(u64, String)> =
            (0..).zip(names).map(|(index, name)| (TEXT + index * 0x100, name.to_owned())).collect();
        let path = call_path(&functions).unwrap();
        for (address, role) in [
            (TEXT - 1, is::OTHER),
            (TEXT, is::OTHER),
            (TEXT + 0xff, is::OTHER),
            (TEXT + 0x100, is::PAGES),
            (TEXT + 0x2ff, is::PAGES),
            (TEXT + 0x300, is::OTHER),
            (TEXT + 0x400, is::SLAB),
            (TEXT + 0x4ff, is::SLAB),
            (TEXT + 0x500, is::OTHER),
            (u64::MAX, is::OTHER),
        ] {
            assert_eq!(at(&path, address), role, "{address:#x}");
        }
        // An alias without a role hides nothing.
        let aliases = [(TEXT, "__do_nothing".to_owned()), (TEXT, "__alloc_pages".to_owned())];
        assert_eq!(at(&call_path(&aliases).unwrap(), TEXT + 5), is::PAGES);
    }

    #[test]
    fn too_many_pieces_are_refused() {
        let names = ["new_slab", "fput"];
        let functions = |count: u64| -> Vec<(u64, String)> {
            (0..count)
                .zip(names.iter().cycle())
                .map(|(index, name)| ((1 << 63) + index, (*name).to_owned()))
                .collect()
        };
        assert!(call_path(&functions(511)).is_some());
        assert!(call_path(&functions(512)).is_none());
    }
}

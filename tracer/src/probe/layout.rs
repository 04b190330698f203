//! What this kernel's tracepoints carry and where its structs keep things: from BTF, and from
//! tracefs where there is no BTF.

use std::path::{Path, PathBuf};

use kleak_common::Offsets;

use super::{Error, types::KernelTypes};

/// Shape of this kernel's tracepoints and structs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own about a kernel")]
pub struct Layout {
    /// The first program of the chain for the `kmalloc` event.
    pub kmalloc: &'static str,
    /// Events that it is attached to.
    pub kmalloc_events: Vec<&'static str>,
    /// The first program for the `kmem_cache_alloc` event.
    pub cache: &'static str,
    /// Events that it is attached to.
    pub cache_events: Vec<&'static str>,
    /// Whether those name the slab cache (from 6.0); elsewhere it is found by the object's address,
    /// or not at all.
    pub named: bool,
    /// The first program for the `kmem_cache_free` event.
    pub cache_free: &'static str,
    /// Whether that event may fire after the free, when another CPU may have been given the address
    /// (up to 5.16; told by the cache that it does not name, so up to 5.19).
    pub frees_fire_late: bool,
    /// The first program for the `percpu_alloc_percpu` event; `None` where its shape is not known.
    pub percpu: Option<&'static str>,
    /// Whether a task may be preempted in the midst of a program.
    pub preemptible: bool,
    /// Whether the offsets come from BTF.
    pub btf: bool,
    /// Struct offsets.
    pub offsets: Offsets,
    /// Size of a kernel stack, bytes, where BTF tells.
    pub stack_size: Option<u64>,
    /// Size of a `struct page`, bytes, where BTF tells.
    pub page_struct: Option<u32>,
    /// Where slab caches list their slabs, where BTF tells.
    pub slab_lists: Option<SlabLists>,
    /// `__GFP_DMA`, `__GFP_RECLAIMABLE`, `__GFP_ACCOUNT`.
    pub gfp: [u32; 3],
}

/// Offsets, bytes, on the way from a slab cache to an object of its slabs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlabLists {
    /// `kmem_cache.oo`, a word with the order of its slabs.
    pub cache_order: u32,
    /// `kmem_cache.node`, pointers to `struct kmem_cache_node`, that of node 0 first.
    pub cache_node: u32,
    /// `kmem_cache_node.partial`, the list of slabs with free objects.
    pub node_partial: u32,
    /// `slab.slab_list` (`page` before 5.17), their place on it.
    pub slab_list: u32,
    /// `slab.freelist` (likewise), the first free object.
    pub freelist: u32,
}

/// Of every kernel but 6.0.
const KMALLOC: &str = "kmalloc";
/// 6.0 has the slab cache between address and size.
const KMALLOC_6_0: &str = "kmalloc_with_cache";

/// From 6.0 on.
const CACHE_NAMED: &str = "kmem_cache_alloc";
const CACHE_FREE_NAMED: &str = "kmem_cache_free_named";
/// Before.
const CACHE_UNNAMED: &str = "kmem_cache_alloc_unnamed";
const CACHE_FREE_UNNAMED: &str = "kmem_cache_free";

/// From 5.19, where the event begins with the call site and ends with the flags.
const PERCPU: &str = "percpu_alloc_percpu";
/// Before.
const PERCPU_NAMELESS: &str = "percpu_alloc_nameless";

/// `__GFP_DMA`, `__GFP_RECLAIMABLE` (both unchanged since 2.6.23) and `__GFP_ACCOUNT` (0x400000
/// since 5.4) of `include/linux/gfp_types.h`, for kernels whose BTF does not name the bits (they
/// are enumerators since 6.10).
const GFP: [u32; 3] = [0x01, 0x10, 0x40_0000];

/// Finds the layout, on a kernel of that release (`uname -r`).
///
/// Errors: neither BTF nor tracefs can be read, or the events have a shape that kleak does not
/// know.
pub fn find(btf: &Path, tracefs: &[PathBuf], release: &str) -> Result<Layout, Error> {
    let preemptible = preemptible(release);
    if let Some(types) = KernelTypes::open(btf) {
        return from_btf(&types, preemptible);
    }
    let Some(events) = tracefs.iter().map(|root| root.join("events/kmem")).find(|d| d.is_dir())
    else {
        return Err(Error::NoLayout { btf: btf.to_owned() });
    };
    from_tracefs(&events, preemptible)
}

/// From 7.0 on tracepoints call their programs with preemption enabled (`__DO_TRACE_CALL` under
/// `srcu_fast`, include/linux/tracepoint.h), which no type and no symbol tells.
fn preemptible(release: &str) -> bool {
    release.split('.').next().and_then(|major| major.parse::<u32>().ok()).is_none_or(|n| n >= 7)
}

fn from_btf(types: &KernelTypes, preemptible: bool) -> Result<Layout, Error> {
    let Some(kmalloc) = types.tracepoint("kmalloc") else {
        return Err(Error::UnknownShape { event: "kmalloc" });
    };
    let twins = types.tracepoint("kmalloc_node").is_some();
    let named_at = |args: &[String]| args.get(2).is_some_and(|name| name == "kmem_cache");
    let named = types.tracepoint("kmem_cache_alloc").is_some_and(|args| named_at(&args));
    let free_named = types.tracepoint("kmem_cache_free").is_some_and(|args| named_at(&args));
    let bit = |name: &str, default: u32| {
        types
            .enumerator(name)
            .and_then(|bit| u32::try_from(bit).ok())
            .and_then(|bit| 1_u32.checked_shl(bit))
            .unwrap_or(default)
    };
    Ok(Layout {
        kmalloc: match (kmalloc.len(), named_at(&kmalloc)) {
            (5 | 6, false) => KMALLOC,
            (6 | 7, true) => KMALLOC_6_0,
            _ => return Err(Error::UnknownShape { event: "kmalloc" }),
        },
        kmalloc_events: events("kmalloc", "kmalloc_node", twins),
        cache: if named { CACHE_NAMED } else { CACHE_UNNAMED },
        cache_events: events("kmem_cache_alloc", "kmem_cache_alloc_node", twins),
        named,
        cache_free: if free_named { CACHE_FREE_NAMED } else { CACHE_FREE_UNNAMED },
        frees_fire_late: !free_named,
        percpu: types.tracepoint("percpu_alloc_percpu").and_then(|args| match args.len() {
            7 => Some(PERCPU_NAMELESS),
            10 => Some(PERCPU),
            _ => None,
        }),
        preemptible,
        btf: true,
        offsets: offsets(types),
        stack_size: types.size("thread_union"),
        page_struct: types.size("page").and_then(|size| u32::try_from(size).ok()),
        slab_lists: slab_lists(types),
        gfp: [
            bit("___GFP_DMA_BIT", GFP[0]),
            bit("___GFP_RECLAIMABLE_BIT", GFP[1]),
            bit("___GFP_ACCOUNT_BIT", GFP[2]),
        ],
    })
}

fn events(name: &'static str, twin: &'static str, twins: bool) -> Vec<&'static str> {
    if twins { vec![name, twin] } else { vec![name] }
}

fn offsets(types: &KernelTypes) -> Offsets {
    let at = |structure, field| types.offset(structure, field).unwrap_or(Offsets::UNKNOWN);
    let memory = types.enumerator("memory_cgrp_id").and_then(|id| u32::try_from(id).ok());
    let in_subsys = |structure| {
        types
            .offset(structure, "subsys")
            .zip(memory)
            .map_or(Offsets::UNKNOWN, |(subsys, id)| subsys + 8 * id)
    };
    Offsets {
        task_group_leader: at("task_struct", "group_leader"),
        task_start: types
            .offset("task_struct", "start_boottime")
            .unwrap_or_else(|| at("task_struct", "real_start_time")),
        task_flags: at("task_struct", "flags"),
        task_comm: at("task_struct", "comm"),
        task_tgid: at("task_struct", "tgid"),
        task_stack: at("task_struct", "stack"),
        task_signal: at("task_struct", "signal"),
        signal_live: at("signal_struct", "live"),
        task_cgroups: at("task_struct", "cgroups"),
        css_set_memory: in_subsys("css_set"),
        css_cgroup: at("cgroup_subsys_state", "cgroup"),
        cgroup_kn: at("cgroup", "kn"),
        cgroup_root: at("cgroup", "root"),
        root_hierarchy: at("cgroup_root", "hierarchy_id"),
        kn_id: at("kernfs_node", "id"),
        cgroup_memory: in_subsys("cgroup"),
        memcg_usage: match (types.offset("mem_cgroup", "css"), types.offset("mem_cgroup", "memory"))
        {
            // The event reaches the struct through its `css`.
            (Some(0), Some(memory)) => {
                types.offset("page_counter", "usage").map_or(Offsets::UNKNOWN, |at| memory + at)
            }
            _ => Offsets::UNKNOWN,
        },
        cache_name: at("kmem_cache", "name"),
        cache_size: at("kmem_cache", "size"),
        cache_object_size: at("kmem_cache", "object_size"),
        cache_list: at("kmem_cache", "list"),
        page_head: types
            .offset("page", "compound_head")
            .unwrap_or_else(|| at("page", "compound_info")),
        slab_cache: types.offset("slab", "slab_cache").unwrap_or_else(|| at("page", "slab_cache")),
    }
}

fn slab_lists(types: &KernelTypes) -> Option<SlabLists> {
    let of_slab = |field| types.offset("slab", field).or_else(|| types.offset("page", field));
    Some(SlabLists {
        cache_order: types.offset("kmem_cache", "oo")?,
        cache_node: types.offset("kmem_cache", "node")?,
        node_partial: types.offset("kmem_cache_node", "partial")?,
        slab_list: of_slab("slab_list")?,
        freelist: of_slab("freelist")?,
    })
}

/// The shapes by what tracefs shows: `_node` twins were there up to 6.0, and `accounted` came with
/// the cache argument in 6.0 (`include/trace/events/kmem.h`).
fn from_tracefs(kmem: &Path, preemptible: bool) -> Result<Layout, Error> {
    let format = std::fs::read_to_string(kmem.join("kmalloc/format"))
        .map_err(|_| Error::UnknownShape { event: "kmalloc" })?;
    let has = |field: &str| format.contains(&format!(" {field};"));
    if !(has("call_site") && has("ptr") && has("bytes_req") && has("bytes_alloc")) {
        return Err(Error::UnknownShape { event: "kmalloc" });
    }
    let twins = kmem.join("kmalloc_node").is_dir();
    Ok(Layout {
        kmalloc: if twins && has("accounted") { KMALLOC_6_0 } else { KMALLOC },
        kmalloc_events: events("kmalloc", "kmalloc_node", twins),
        // The `_node` twins went with 6.1, two releases after the free was mended.
        frees_fire_late: twins,
        percpu: percpu_from_tracefs(kmem),
        ..bare(preemptible)
    })
}

/// What is the same wherever no types are shown: without them a cache's name cannot be read from its
/// struct.
pub(super) const fn bare(preemptible: bool) -> Layout {
    Layout {
        kmalloc: KMALLOC,
        kmalloc_events: Vec::new(),
        cache: CACHE_UNNAMED,
        cache_events: Vec::new(),
        named: false,
        cache_free: CACHE_FREE_UNNAMED,
        frees_fire_late: false,
        percpu: None,
        preemptible,
        btf: false,
        offsets: Offsets::NONE,
        stack_size: None,
        page_struct: None,
        slab_lists: None,
        gfp: GFP,
    }
}

/// `call_site` came as the first field of the event, and as its first argument, in 5.19
/// (`include/trace/events/percpu.h`).
fn percpu_from_tracefs(kmem: &Path) -> Option<&'static str> {
    let format = kmem.parent()?.join("percpu/percpu_alloc_percpu/format");
    let format = std::fs::read_to_string(format).ok()?;
    let has = |field: &str| format.contains(&format!(" {field};"));
    if !(has("size") && has("base_addr") && has("off")) {
        return None;
    }
    Some(if has("call_site") { PERCPU } else { PERCPU_NAMELESS })
}

#[cfg(test)]
mod tests {
    use super::{find, from_tracefs};
    use std::path::{Path, PathBuf};

    const FIELDS: &str = "\tfield:unsigned long call_site;\toffset:8;\n\tfield:const void * ptr;\n\
                          \tfield:size_t bytes_req;\n\tfield:size_t bytes_alloc;\n\
                          \tfield:unsigned long gfp_flags;\n";

    fn tree(twins: bool, extra: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("kmalloc")).unwrap();
        if twins {
            std::fs::create_dir_all(dir.path().join("kmalloc_node")).unwrap();
        }
        std::fs::write(dir.path().join("kmalloc/format"), format!("{FIELDS}{extra}")).unwrap();
        dir
    }

    #[test]
    fn tracefs_tells_the_three_shapes_apart() {
        let old = from_tracefs(tree(true, "").path(), false).unwrap();
        assert_eq!((old.kmalloc, old.kmalloc_events.len()), (super::KMALLOC, 2));
        let v6_0 = from_tracefs(tree(true, "\tfield:bool accounted;\n").path(), false).unwrap();
        assert_eq!(v6_0.kmalloc, super::KMALLOC_6_0);
        let new = from_tracefs(tree(false, "\tfield:bool accounted;\n").path(), false).unwrap();
        assert_eq!((new.kmalloc, new.kmalloc_events.len()), (super::KMALLOC, 1));
    }

    #[test]
    fn tracefs_tells_whether_per_cpu_allocations_have_a_call_site() {
        let dir = tempfile::tempdir().unwrap();
        let kmem = dir.path().join("kmem");
        assert_eq!(super::percpu_from_tracefs(&kmem), None);
        let event = dir.path().join("percpu/percpu_alloc_percpu");
        std::fs::create_dir_all(&event).unwrap();
        let old = "\tfield:size_t size;\n\tfield:void * base_addr;\n\tfield:int off;\n";
        std::fs::write(event.join("format"), old).unwrap();
        assert_eq!(super::percpu_from_tracefs(&kmem), Some(super::PERCPU_NAMELESS));
        let new = format!("\tfield:unsigned long call_site;\n{old}");
        std::fs::write(event.join("format"), new).unwrap();
        assert_eq!(super::percpu_from_tracefs(&kmem), Some(super::PERCPU));
    }

    #[test]
    fn programs_may_be_preempted_from_7_0_on() {
        for release in ["7.0.0", "7.2.12+deb13-cloud-amd64", "10.1", "unheard of"] {
            assert!(super::preemptible(release), "{release}");
        }
        for release in ["6.18.33", "5.10.0-33-amd64", "6.12.57+deb13-amd64"] {
            assert!(!super::preemptible(release), "{release}");
        }
    }

    #[test]
    fn nothing_to_read_is_an_error_that_says_what_to_do() {
        let error = find(Path::new("/nonexistent/btf"), &[PathBuf::from("/nonexistent")], "6.1.0")
            .unwrap_err()
            .to_string();
        assert!(error.contains("mount -t tracefs"), "{error}");
    }
}

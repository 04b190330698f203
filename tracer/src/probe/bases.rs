//! Where the kernel keeps what tells the slab cache of an object by its address: from kallsyms where
//! that lists variables (`CONFIG_KALLSYMS_ALL`), and worked out from a few slabs where it does not.
//!
//! Only x86-64, whose direct map and page structs are each one straight range.

use aya::{
    Ebpf, EbpfLoader,
    maps::Array,
    programs::{RawTracePoint, RawTracePointRunOptions, TestRun as _},
};
use kleak_common::{Control, Offsets};

use super::{Layout, OBJECT, attach::program, caches::MOST, layout::SlabLists};
use crate::host::{Host, kallsyms};

/// Where the arithmetic from an object to its slab cache starts, and where the list of caches does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bases {
    /// `page_offset_base`, or an address below it.
    pub page_offset: u64,
    /// Where the `struct page` of that address lies or would lie: `vmemmap_base`, for the former.
    pub vmemmap: u64,
    /// Address of `slab_caches`.
    pub caches: u64,
}

/// Below this no kernel has its direct map (five-level paging;
/// `Documentation/arch/x86/x86_64/mm.rst`, 5.10 to 7.2).
const LOWEST_DIRECT: u64 = 0xff11_0000_0000_0000;
/// From here on lies the kernel's image, with its variables; slab objects lie below.
const IMAGE: u64 = 0xffff_ffff_8000_0000;
/// log2 of bytes in a page.
const PAGE_SHIFT: u32 = 12;
/// Slabs that have to agree.
const WITNESSES: usize = 3;

/// Finds them; `None` where they cannot be known for sure.
pub(super) fn find(layout: &Layout, host: &Host) -> Option<Bases> {
    let offsets = &layout.offsets;
    let needed = [offsets.page_head, offsets.slab_cache, offsets.cache_list];
    let page_struct = layout.page_struct?;
    if !cfg!(target_arch = "x86_64") || needed.contains(&Offsets::UNKNOWN) {
        return None;
    }
    let names = ["page_offset_base", "vmemmap_base", "slab_caches"];
    let [direct, pages, caches] = kallsyms::addresses(host, names);
    let mut kernel = Kernel::load()?;
    let found = match (direct, pages, caches) {
        (Some(direct), Some(pages), Some(caches)) => kernel
            .word(direct)
            .zip(kernel.word(pages))
            .map(|(page_offset, vmemmap)| Bases { page_offset, vmemmap, caches }),
        _ if layout.named => kernel
            .first_cache(layout)
            .and_then(|cache| work_out(cache, layout, page_struct, |at| kernel.word(at))),
        _ => None,
    };
    tracing::debug!(?found, listed = direct.is_some(), "where slab caches are told by address");
    found.filter(|bases| bases.page_offset >= LOWEST_DIRECT)
}

/// The kernel's memory, a word at a time.
struct Kernel(Ebpf);

impl Kernel {
    fn load() -> Option<Self> {
        let mut loader = EbpfLoader::new();
        loader.btf(None);
        // None of them is used.
        for map in [
            "OBJECTS",
            "SITES",
            "COUNTS",
            "QUEUED",
            "PROCESSES",
            "FAMILY",
            "CACHES",
            "OLDER",
            "STACKS",
            "LONG_STACKS",
            "DEFERRED",
        ] {
            loader.map_max_entries(map, 1);
        }
        let mut ebpf = loader.load(OBJECT).ok()?;
        program(&mut ebpf, "peek").ok()?.load().ok()?;
        Some(Self(ebpf))
    }

    /// The word at an address; `None` where there is none.
    fn word(&mut self, address: u64) -> Option<u64> {
        let program: &RawTracePoint = self.0.program("peek")?.try_into().ok()?;
        let mut options = RawTracePointRunOptions::new();
        options.args[0] = address;
        let result = program.test_run(options).ok()?;
        (result.return_value == 1).then(|| self.answer())?
    }

    /// Any slab cache: the one that an allocation is made from while a program looks.
    fn first_cache(&mut self, layout: &Layout) -> Option<u64> {
        let event = layout.cache_events.first()?;
        self.set_answer(0)?;
        let program = program(&mut self.0, "first_cache").ok()?;
        program.load().ok()?;
        let link = program.attach(event).ok()?;
        // An open file is a slab object, as is what opening one takes.
        drop(std::fs::File::open("/proc/self/stat"));
        drop(program.detach(link));
        self.answer().filter(|&cache| cache != 0)
    }

    fn answer(&self) -> Option<u64> {
        let control: Array<_, Control> = Array::try_from(self.0.map(".bss")?).ok()?;
        control.get(&0, 0).ok().map(|control| control.answer)
    }

    fn set_answer(&mut self, answer: u64) -> Option<()> {
        let mut control: Array<_, Control> = Array::try_from(self.0.map_mut(".bss")?).ok()?;
        control.set(0, Control { answer, ..Control::default() }, 0).ok()
    }
}

/// From one slab cache, all: they are on one ring, whose head is the only one of its links that lies
/// in the kernel's image. And on a list of each cache's lie slabs with free objects, which give both the
/// address of a page struct and that of an object in the page. `word` reads the kernel's memory.
fn work_out(
    cache: u64,
    layout: &Layout,
    page_struct: u32,
    mut word: impl FnMut(u64) -> Option<u64>,
) -> Option<Bases> {
    let lists = layout.slab_lists?;
    let in_cache = u64::from(layout.offsets.cache_list);
    let (first, mut head) = (cache.wrapping_add(in_cache), None);
    let mut witnesses = Vec::new();
    let mut link = first;
    for _ in 0..MOST {
        if link >= IMAGE {
            head = Some(link);
        } else if witnesses.len() < WITNESSES {
            let cache = link.wrapping_sub(in_cache);
            let slab_cache = layout.offsets.slab_cache;
            witnesses.extend(witness(cache, &lists, slab_cache, page_struct, &mut word));
        }
        link = word(link)?;
        if link == first || (head.is_some() && witnesses.len() == WITNESSES) {
            break;
        }
    }
    let &vmemmap = witnesses.first().filter(|_| witnesses.len() == WITNESSES)?;
    let agreed = witnesses.iter().all(|&other| other == vmemmap);
    head.filter(|_| agreed).map(|caches| Bases { page_offset: LOWEST_DIRECT, vmemmap, caches })
}

/// Where the page struct of [`LOWEST_DIRECT`] would lie, by the first slab of a cache's that has free
/// objects. Nobody holds its lock: what is read may be wrong, which is why others have to agree.
fn witness(
    cache: u64,
    lists: &SlabLists,
    slab_cache: u32,
    page_struct: u32,
    mut word: impl FnMut(u64) -> Option<u64>,
) -> Option<u64> {
    // Only slabs of one page: an object may lie in any page of a larger one. The order is in the upper
    // half of `oo` (`OO_SHIFT`, mm/slub.c, 5.10 to 7.2).
    let mut field = |of: u64, offset: u32| word(of.wrapping_add(u64::from(offset)));
    if field(cache, lists.cache_order)? >> 16 & 0xffff != 0 {
        return None;
    }
    let node = field(cache, lists.cache_node)?;
    let partial = node.wrapping_add(u64::from(lists.node_partial));
    let slab = field(partial, 0).filter(|&link| link != partial)?;
    let slab = slab.wrapping_sub(u64::from(lists.slab_list));
    if field(slab, slab_cache)? != cache {
        return None;
    }
    let object = field(slab, lists.freelist)?;
    let frame = object.checked_sub(LOWEST_DIRECT)? >> PAGE_SHIFT;
    Some(slab.wrapping_sub(frame.wrapping_mul(u64::from(page_struct))))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use kleak_common::Offsets;
    use proptest::prelude::*;

    use super::{Bases, IMAGE, LOWEST_DIRECT, work_out};
    use crate::probe::layout::{Layout, SlabLists, bare};

    const PAGE_OFFSET: u64 = 0xffff_9a40_0000_0000;
    const VMEMMAP: u64 = 0xffff_f2c0_4000_0000;
    const HEAD: u64 = IMAGE + 0x2a4_5b60;
    const LIST: u32 = 0x68;
    const PAGE_STRUCT: u32 = 64;
    const LISTS: SlabLists = SlabLists {
        cache_order: 0x28,
        cache_node: 0xd0,
        node_partial: 0x10,
        slab_list: 0x10,
        freelist: 0x20,
    };

    fn layout() -> Layout {
        let offsets = Offsets { cache_list: LIST, page_head: 8, slab_cache: 8, ..Offsets::NONE };
        Layout { offsets, slab_lists: Some(LISTS), page_struct: Some(PAGE_STRUCT), ..bare(false) }
    }

    fn cache(index: u64) -> u64 {
        PAGE_OFFSET + 0x10_0000 + index * 0x400
    }

    /// Memory of a kernel with that many caches, each with one slab of `order` on its list.
    fn kernel(caches: u64, order: u64) -> HashMap<u64, u64> {
        let mut memory = HashMap::new();
        let mut links: Vec<u64> = (0..caches).map(|index| cache(index) + u64::from(LIST)).collect();
        links.push(HEAD);
        for (at, next) in links.iter().zip(links.iter().cycle().skip(1)) {
            memory.insert(*at, *next);
        }
        for index in 0..caches {
            let (cache, node) = (cache(index), PAGE_OFFSET + 0x20_0000 + index * 0x100);
            let frame = 0x4_0000 + 8 * index;
            let slab = VMEMMAP + frame * u64::from(PAGE_STRUCT);
            memory.insert(cache + 0x28, 0xdead_0000_0000_0010 | order << 16);
            memory.insert(cache + 0xd0, node);
            memory.insert(node + 0x10, slab + 0x10);
            memory.insert(slab + 8, cache);
            memory.insert(slab + 0x20, PAGE_OFFSET + (frame << 12) + 0x180);
        }
        memory
    }

    fn found(memory: &HashMap<u64, u64>) -> Option<Bases> {
        work_out(cache(1), &layout(), PAGE_STRUCT, |at| memory.get(&at).copied())
    }

    #[test]
    fn one_cache_leads_to_all() {
        let bases = found(&kernel(9, 0)).unwrap();
        assert_eq!(bases.caches, HEAD);
        // What the arithmetic makes of them, for any page of the direct map.
        let address = PAGE_OFFSET + 0x1234_5678;
        let page = bases.vmemmap.wrapping_add(((address - bases.page_offset) >> 12) * 64);
        assert_eq!(page, VMEMMAP + 0x1_2345 * 64);
    }

    #[test]
    fn what_does_not_agree_is_not_believed() {
        let mut memory = kernel(3, 0);
        let slab = VMEMMAP + 0x4_0008 * u64::from(PAGE_STRUCT);
        memory.insert(slab + 0x20, LOWEST_DIRECT + 0x5000);
        assert_eq!(found(&memory), None);
    }

    #[test]
    fn what_is_too_little_is_not_believed() {
        assert_eq!(found(&kernel(2, 0)), None, "two witnesses");
        assert_eq!(found(&kernel(9, 1)), None, "objects in any page of two");
        let mut memory = kernel(9, 0);
        memory.insert(HEAD, cache(4) + u64::from(LIST));
        memory.insert(cache(4) + u64::from(LIST), cache(1) + u64::from(LIST));
        memory.remove(&(cache(2) + u64::from(LIST)));
        assert_eq!(found(&memory), None, "a ring that cannot be followed");
    }

    proptest! {
        #[test]
        fn any_memory_will_do(words in prop::collection::vec(any::<u64>(), 1..32)) {
            let mut words = words.into_iter().cycle();
            let bases = work_out(u64::MAX - 3, &layout(), u32::MAX, |_| words.next());
            prop_assert!(bases.is_none_or(|bases| bases.caches >= IMAGE));
        }
    }
}

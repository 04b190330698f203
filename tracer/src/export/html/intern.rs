//! Names, frames and call paths of the page, each once.

use std::sync::Arc;

use hashbrown::HashMap;
use serde::Serialize;

use crate::export::frames::{self, Frame, Kind};
use crate::report::{Owner, Report, ledger::Ledger, names, profile::Sample, sanitize};

/// Every name, as model.js reads it. Numbers refer to rows of the other fields.
#[derive(Debug, Default, Serialize)]
pub(super) struct Names {
    strings: Vec<String>,
    /// Kind and name.
    frames: Vec<(u8, u32)>,
    /// Frames that are allocators themselves, which say nothing of what a stack is about.
    allocators: Vec<u32>,
    owners: Vec<OwnerData>,
    caches: Vec<CacheData>,
    nodes: Nodes,
}

#[derive(Debug, Serialize)]
struct OwnerData {
    name: u32,
    place: Option<u32>,
    /// Frames, as in every export.
    roots: Vec<u32>,
    cgroup: u32,
}

#[derive(Debug, Serialize)]
struct CacheData {
    name: u32,
    frame: u32,
    book: usize,
    /// Of an object; of pages, which differ, of an average one.
    object_bytes: u64,
}

/// Call paths: the path of a node is that of its parent and one frame more. Node 0 is the empty one; a
/// node's parent comes before it.
#[derive(Debug, Serialize)]
struct Nodes {
    parent: Vec<u32>,
    frame: Vec<u32>,
}

impl Default for Nodes {
    fn default() -> Self {
        Self { parent: vec![0], frame: vec![0] }
    }
}

/// Names as they are found.
#[derive(Debug, Default)]
pub(super) struct Interned {
    names: Names,
    strings: HashMap<String, u32>,
    frames: HashMap<(u8, u32), u32>,
    /// By the name as it came, and whether it is the kernel's.
    functions: HashMap<(bool, Arc<str>), u32>,
    owners: HashMap<Owner, u32>,
    caches: HashMap<Arc<str>, u32>,
    nodes: HashMap<(u32, u32), u32>,
    bytes: usize,
}

/// The kind of frame that stands for several paths, which only pages have.
const MORE: u8 = 7;

impl Interned {
    /// What it all takes in JSON, about.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn finish(self) -> Names {
        self.names
    }

    /// The id of an owner.
    pub(super) fn owner(&mut self, owner: &Owner) -> u32 {
        if let Some(&id) = self.owners.get(owner) {
            return id;
        }
        let name = self.string(&if owner.exited == Some(true) {
            format!("{}†", names::who(owner))
        } else {
            names::who(owner)
        });
        let place = names::place(owner).map(|place| self.string(&place));
        let roots = frames::roots(owner).iter().map(|root| self.frame(root)).collect();
        let cgroup = self.frame(&frames::cgroup(owner));
        self.bytes += 60;
        self.names.owners.push(OwnerData { name, place, roots, cgroup });
        let id = last(&self.names.owners);
        self.owners.insert(owner.clone(), id);
        id
    }

    /// The same, unless it is a new one and there are `most` already.
    pub(super) fn owner_within(&mut self, owner: &Owner, most: usize) -> Option<u32> {
        let known = self.owners.contains_key(owner) || self.names.owners.len() < most;
        known.then(|| self.owner(owner))
    }

    /// The id of a sample's cache.
    pub(super) fn cache(&mut self, sample: &Sample) -> u32 {
        if let Some(&id) = self.caches.get(&sample.cache) {
            return id;
        }
        let name = self.string(&sanitize::terminal(&sample.cache));
        let frame = self.frame(&frames::leaf(&sample.cache));
        let object_bytes = match sample.outstanding_objects {
            0 => sample.allocated_bytes.checked_div(sample.allocated_objects).unwrap_or(0),
            objects => sample.outstanding_bytes / objects,
        };
        let book = Ledger::of_cache(&sample.cache) as usize;
        self.names.caches.push(CacheData { name, frame, book, object_bytes });
        let id = last(&self.names.caches);
        self.caches.insert(Arc::clone(&sample.cache), id);
        id
    }

    /// The id of a path; both parts are leaf first.
    pub(super) fn path(&mut self, user: &[Arc<str>], kernel: &[Arc<str>]) -> u32 {
        let mut node = 0;
        for (of_kernel, functions) in [(false, user), (true, kernel)] {
            for function in functions.iter().rev() {
                let frame = self.function(of_kernel, function);
                node = self.step(node, frame);
            }
        }
        node
    }

    /// The frame in the place of paths that are folded together.
    pub(super) fn more(&mut self, name: &str) -> u32 {
        let name = self.string(name);
        self.frame_of(MORE, name)
    }

    /// The books to begin with: those of the verdict, if there is anything in them, else those of the
    /// first sample's cache.
    pub(super) fn first_book(&self, report: &Report, cache: Option<u32>) -> usize {
        let caches = &self.names.caches;
        let named = report.verdict.cache.as_deref().map(|name| Ledger::of_cache(name) as usize);
        let first = || cache.and_then(|cache| caches.get(cache as usize)).map(|cache| cache.book);
        named
            .filter(|book| caches.iter().any(|cache| cache.book == *book))
            .or_else(first)
            .unwrap_or_default()
    }

    fn function(&mut self, of_kernel: bool, function: &Arc<str>) -> u32 {
        let key = (of_kernel, Arc::clone(function));
        if let Some(&id) = self.functions.get(&key) {
            return id;
        }
        let frame = if of_kernel {
            frames::kernel_function(function)
        } else {
            frames::user_function(function)
        };
        let id = self.frame(&frame);
        if of_kernel && names::is_allocator(function) && !self.names.allocators.contains(&id) {
            self.names.allocators.push(id);
        }
        self.functions.insert(key, id);
        id
    }

    fn step(&mut self, parent: u32, frame: u32) -> u32 {
        if let Some(&node) = self.nodes.get(&(parent, frame)) {
            return node;
        }
        self.names.nodes.parent.push(parent);
        self.names.nodes.frame.push(frame);
        self.bytes += 12;
        let node = last(&self.names.nodes.parent);
        self.nodes.insert((parent, frame), node);
        node
    }

    fn frame(&mut self, frame: &Frame) -> u32 {
        let kind = match frame.kind {
            Kind::Ledger => 0,
            Kind::Group => 1,
            Kind::Owner => 2,
            Kind::User => 3,
            Kind::Kernel => 4,
            Kind::Module => 5,
            Kind::Cache => 6,
        };
        let name = self.string(&frame.name);
        self.frame_of(kind, name)
    }

    fn frame_of(&mut self, kind: u8, name: u32) -> u32 {
        if let Some(&id) = self.frames.get(&(kind, name)) {
            return id;
        }
        self.names.frames.push((kind, name));
        self.bytes += 10;
        let id = last(&self.names.frames);
        self.frames.insert((kind, name), id);
        id
    }

    fn string(&mut self, name: &str) -> u32 {
        if let Some(&id) = self.strings.get(name) {
            return id;
        }
        self.names.strings.push(name.to_owned());
        self.bytes += name.len() + 3;
        let id = last(&self.names.strings);
        self.strings.insert(name.to_owned(), id);
        id
    }
}

/// The number of what was added last: what is embedded is bounded far below 2³² rows.
fn last<T>(rows: &[T]) -> u32 {
    u32::try_from(rows.len().saturating_sub(1)).unwrap_or(u32::MAX)
}

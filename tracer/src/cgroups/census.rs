//! Every cgroup of the memory controller's hierarchy at one instant, and the kernel's own count of
//! those that have no directory any more.

use std::path::Path;

use hashbrown::HashMap;

use crate::host::{
    Host, HostError,
    cgroup::{self, CgroupLayout, MemoryVersion},
    memcg::{self, Charges, MemoryStat},
    read_text,
};

/// Most cgroups whose charges are read: each takes the kernel some 50 µs.
const MOST_STATS: usize = 4_096;

/// The hierarchy at one instant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Cgroups that have a directory, by path from the mount; the root is `/`.
    pub groups: HashMap<String, Group>,
    /// Removed ones that the kernel still holds; `None` where it does not say.
    pub dying: Option<u64>,
    /// Memory controller states of cgroups that are there (version 2, from 6.12).
    pub memory: Option<u64>,
    /// The same of dying ones.
    pub dying_memory: Option<u64>,
    /// Directories that could not be read, or were left out at the bound of 262,144.
    pub incomplete: bool,
}

/// A cgroup that is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// Its id: inode number of the directory.
    pub id: u64,
    /// Whether its files of the memory controller are there.
    pub memory: bool,
    /// Dying ones below it (version 2).
    pub dying_below: Option<u64>,
    /// What is charged to it; read only where [`Census::read_charges`] was asked to.
    pub charges: Option<MemoryStat>,
}

impl Census {
    /// Walks the hierarchy.
    #[must_use]
    pub fn take(host: &Host, layout: &CgroupLayout) -> Self {
        let (scan, dying) = layout.scan_with_dying(host);
        let mount = layout.memory_mount.as_ref().map(|mount| host.join(mount)).unwrap_or_default();
        let v2 = layout.memory_version() == Some(MemoryVersion::V2);
        let mut census =
            Self { dying, incomplete: scan.unreadable > 0 || scan.truncated, ..Self::default() };
        for (id, path) in scan.paths {
            let directory = directory(&mount, &path);
            let stat = v2.then(|| stat(&directory)).flatten().unwrap_or_default();
            if path == "/" {
                (census.memory, census.dying_memory) = (stat.memory, stat.dying_memory);
            }
            let memory = !v2 || path == "/" || directory.join("memory.stat").exists();
            let group = Group { id, memory, dying_below: stat.dying, charges: None };
            census.groups.insert(path, group);
        }
        census
    }

    /// Reads what is charged to those that tell what dying ones hold: each cgroup that may have
    /// dying ones directly below it, and its children. Says whether that could be done.
    pub fn read_charges(&mut self, host: &Host, layout: &CgroupLayout) -> bool {
        let (Some(mount), Some(version)) = (&layout.memory_mount, layout.memory_version()) else {
            return false;
        };
        let mount = host.join(mount);
        let wanted: Vec<String> = match version {
            // It does not say below which, so all are needed.
            MemoryVersion::V1 if self.dying == Some(0) => return true,
            MemoryVersion::V1 => self.groups.keys().cloned().collect(),
            MemoryVersion::V2 => {
                let direct = self.dying_by_parent();
                let near = |path: &str| {
                    direct.contains_key(path)
                        || parent(path).is_some_and(|p| direct.contains_key(p))
                };
                self.groups.keys().filter(|path| near(path)).cloned().collect()
            }
        };
        if wanted.len() > MOST_STATS {
            return false;
        }
        for path in wanted {
            let stat = memcg::stat(&directory(&mount, &path), version);
            let Some(group) = self.groups.get_mut(&path) else { continue };
            // One that is removed meanwhile is dying: what is charged to it is of those.
            group.memory &= !stat.as_ref().is_err_and(HostError::is_missing);
            group.charges = stat.ok();
        }
        true
    }

    /// Cgroups with files of the memory controller.
    #[must_use]
    pub fn with_memory(&self) -> u64 {
        self.groups.values().filter(|group| group.memory).count() as u64
    }

    /// By the kernel's count (version 2): dying ones for which this is the nearest cgroup above
    /// that is there. Those without any are left out.
    #[must_use]
    pub fn dying_by_parent(&self) -> HashMap<&str, u64> {
        let mut direct: HashMap<&str, u64> = self
            .groups
            .iter()
            .filter_map(|(path, group)| Some((path.as_str(), group.dying_below?)))
            .collect();
        for (path, group) in &self.groups {
            if let (Some(below), Some(parent)) = (group.dying_below, parent(path))
                && let Some(count) = direct.get_mut(parent)
            {
                *count = count.saturating_sub(below);
            }
        }
        direct.retain(|_, count| *count > 0);
        direct
    }

    /// The nearest cgroup that is there: `path` itself or one above it.
    #[must_use]
    pub fn nearest<'a>(&self, path: &'a str) -> &'a str {
        let mut at = path;
        while !self.groups.contains_key(at) {
            match parent(at) {
                Some(above) => at = above,
                None => return "/",
            }
        }
        at
    }

    /// Children, by parent, of those that are there.
    #[must_use]
    pub fn children(&self) -> HashMap<&str, Vec<&Group>> {
        let mut children: HashMap<&str, Vec<&Group>> = HashMap::new();
        for (path, group) in &self.groups {
            if let Some(parent) = parent(path) {
                children.entry(parent).or_default().push(group);
            }
        }
        children
    }

    /// What is charged to a cgroup with all below it, and is not charged to a child that is there:
    /// what dying ones below it hold, and on version 2 what it holds itself. `None` when the
    /// charges of one of them are not known.
    #[must_use]
    pub fn beside_children(&self, path: &str, children: &[&Group]) -> Option<Charges> {
        let stat = self.groups.get(path)?.charges?;
        let mut rest = stat.with_descendants;
        if let Some(own) = stat.own {
            rest = rest.combine(own, u64::saturating_sub);
        }
        for child in children {
            // A child without a memory controller is charged nothing of its own.
            if child.memory {
                rest = rest.combine(child.charges?.with_descendants, u64::saturating_sub);
            }
        }
        Some(rest)
    }
}

/// The cgroup above; `None` for the root.
#[must_use]
pub fn parent(path: &str) -> Option<&str> {
    if path == "/" {
        return None;
    }
    match path.rfind('/') {
        Some(0) => Some("/"),
        Some(at) => path.get(..at),
        None => None,
    }
}

fn directory(mount: &Path, path: &str) -> std::path::PathBuf {
    mount.join(path.trim_start_matches('/'))
}

fn stat(directory: &Path) -> Option<cgroup::CgroupStat> {
    Some(cgroup::parse_stat(&read_text(&directory.join("cgroup.stat")).ok()?))
}

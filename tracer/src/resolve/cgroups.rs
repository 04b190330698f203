//! Cgroup paths by id, remembered after a cgroup is gone.

use std::os::unix::fs::MetadataExt as _;

use hashbrown::HashMap;

use crate::{
    host::{Host, cgroup::CgroupLayout},
    probe::CgroupChange,
};

/// Most paths remembered, some 100 bytes each; past it those of removed cgroups are forgotten.
const MOST: usize = 100_000;

/// What is known of the cgroups of the memory controller's hierarchy.
#[derive(Debug, Default)]
pub struct Cgroups {
    paths: HashMap<u64, Known>,
    /// Ids that a walk did not find, so that it is done once only.
    unknown: hashbrown::HashSet<u64>,
    /// When those were removed that the kernel still holds, `CLOCK_MONOTONIC` nanoseconds.
    dying: HashMap<u64, u64>,
}

#[derive(Debug)]
struct Known {
    path: String,
    removed: bool,
}

impl Cgroups {
    /// Walks the hierarchy as it is now.
    #[must_use]
    pub fn scan(host: &Host, layout: &CgroupLayout) -> Self {
        let found = layout.scan(host).paths;
        let known = |path| Known { path, removed: false };
        let paths = found.into_iter().map(|(id, path)| (id, known(path))).collect();
        Self { paths, ..Self::default() }
    }

    /// The paths that are known.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.paths.values().map(|known| known.path.as_str())
    }

    /// Takes note of an event. A path that was cut in the event does not replace a whole one.
    pub fn apply(&mut self, change: CgroupChange) {
        use crate::probe::ChangeKind::{Created, Released, Removed};
        match change.kind {
            Removed if self.dying.len() < MOST => drop(self.dying.insert(change.id, change.at_ns)),
            Released => drop(self.dying.remove(&change.id)),
            Created | Removed => {}
        }
        if !change.path.starts_with('/') || change.path_cut {
            return;
        }
        match change.kind {
            Created => {
                self.unknown.remove(&change.id);
                self.paths.insert(change.id, Known { path: change.path, removed: false });
            }
            Removed | Released => {
                let known = self.paths.entry(change.id);
                known.or_insert(Known { path: change.path, removed: true }).removed = true;
            }
        }
        if self.paths.len() > MOST {
            self.paths.retain(|_, known| !known.removed);
        }
    }

    /// The path of a cgroup, from memory or by a walk; `None` when neither knows it.
    pub fn path(&mut self, id: u64, host: &Host, layout: &CgroupLayout) -> Option<String> {
        if id == 0 || self.unknown.contains(&id) {
            return None;
        }
        if let Some(known) = self.paths.get(&id) {
            return Some(known.path.clone());
        }
        let found = layout.find(host, id);
        match &found {
            Some(path) => {
                self.paths.insert(id, Known { path: path.clone(), removed: false });
            }
            None => {
                self.unknown.insert(id);
            }
        }
        found
    }

    /// Whether a cgroup has been removed; `None` when that is not known.
    pub fn removed(&mut self, id: u64, host: &Host, layout: &CgroupLayout) -> Option<bool> {
        let known = self.paths.get_mut(&id)?;
        if known.removed {
            return Some(true);
        }
        // Its removal may have been missed, or have been before the path was learned. A path that
        // is not as the kernel has it says nothing.
        if known.path.contains('\u{fffd}') {
            return None;
        }
        let mount = host.join(layout.memory_mount.as_ref()?);
        let gone = match std::fs::metadata(mount.join(known.path.trim_start_matches('/'))) {
            Ok(directory) => directory.ino() != id,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => true,
            Err(_) => return None,
        };
        known.removed = gone;
        Some(gone)
    }

    /// When the oldest of those removed since the scan, and not let go of by the kernel yet, was
    /// removed, `CLOCK_MONOTONIC` nanoseconds; `None` when there is none.
    #[must_use]
    pub fn oldest_dying_ns(&self) -> Option<u64> {
        self.dying.values().copied().min()
    }
}

#[cfg(test)]
mod tests {
    use super::Cgroups;
    use crate::{
        host::{Host, cgroup::CgroupLayout},
        probe::{Actor, CgroupChange, ChangeKind},
    };

    #[test]
    fn a_path_outlives_its_cgroup() {
        let (host, layout) = (Host::new("/nonexistent"), CgroupLayout::from_parts(b"", &[]));
        let mut cgroups = Cgroups::default();
        let change = |kind| CgroupChange {
            id: 7,
            kind,
            at_ns: 5,
            path: "/kubepods/pod1".to_owned(),
            path_cut: false,
            counted: true,
            actor: Actor::default(),
            charged_pages: None,
        };
        assert_eq!(cgroups.path(7, &host, &layout), None);
        cgroups.apply(change(ChangeKind::Created));
        cgroups.apply(change(ChangeKind::Removed));
        assert_eq!(cgroups.path(7, &host, &layout).as_deref(), Some("/kubepods/pod1"));
        assert_eq!(cgroups.removed(7, &host, &layout), Some(true));
        assert_eq!(cgroups.oldest_dying_ns(), Some(5));
        cgroups.apply(change(ChangeKind::Released));
        assert_eq!(cgroups.oldest_dying_ns(), None);
        assert_eq!(cgroups.removed(7, &host, &layout), Some(true));
        assert_eq!(cgroups.removed(8, &host, &layout), None);
        assert_eq!(cgroups.path(0, &host, &layout), None);
    }
}

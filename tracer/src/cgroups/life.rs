//! The life of cgroups as events tell it: who made which, who removed it, and when the kernel let
//! go of it. Pure: events go in, and what is kept is bounded.

use hashbrown::{HashMap, HashSet};
use kleak_common::ProcessKey;

use super::census::parent;
use crate::probe::{Actor, CgroupChange, ChangeKind};

/// Most cgroups followed at once, some 200 bytes each.
const MOST_CGROUPS: usize = 131_072;
/// Most names (with their cgroups) that makers are told apart by.
const MOST_MAKERS: usize = 4_096;
/// Most processes counted under a name.
const MOST_PROCESSES: usize = 10_000;
/// Most cgroups under which others are counted; past it, by one further up.
const MOST_PARENTS: usize = 16_384;

/// What has been seen since the window began.
#[derive(Clone, Debug, Default)]
pub struct Life {
    /// Made in the window and still there, by id.
    pub born: HashMap<u64, Born>,
    /// Removed in the window and still held by the kernel, by id.
    pub dying: HashMap<u64, Dying>,
    /// Who made and removed them.
    pub makers: Vec<Maker>,
    /// Under which cgroup, by path.
    pub parents: HashMap<String, Deeds>,
    /// Time from removal to release.
    pub deaths: Deaths,
    /// Released in the window and removed before it.
    pub released_older: u64,
    /// Events of cgroups that found no room here.
    pub untracked: u64,
    /// Index of each maker, by name and own cgroup.
    by_name: HashMap<(String, u64), usize>,
}

/// A cgroup made in the window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Born {
    /// Path from the mount.
    pub path: String,
    /// When, `CLOCK_MONOTONIC` nanoseconds.
    pub at_ns: u64,
    /// Who made it: index in [`Life::makers`].
    pub maker: Option<usize>,
}

/// A cgroup removed in the window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dying {
    /// Path from the mount.
    pub path: String,
    /// When it was made; `None` before the window.
    pub made_ns: Option<u64>,
    /// When it was removed, `CLOCK_MONOTONIC` nanoseconds.
    pub removed_ns: u64,
    /// Who made it; `None` before the window.
    pub maker: Option<usize>,
    /// Who removed it.
    pub remover: Option<usize>,
    /// Pages charged to it when it was removed.
    pub charged_pages: Option<u64>,
}

/// Processes of one name in one cgroup that made or removed cgroups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Maker {
    /// Name; empty when unknown.
    pub comm: String,
    /// Id of their own cgroup; 0 when unknown.
    pub cgroup: u64,
    /// Which, up to a bound.
    pub processes: HashSet<ProcessKey>,
    /// Whether there were more.
    pub more_processes: bool,
    /// What they did.
    pub deeds: Deeds,
}

/// Counts of one maker or one parent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deeds {
    /// Cgroups made.
    pub created: u64,
    /// Cgroups removed.
    pub removed: u64,
    /// Of those it made in the window (a parent: of those removed in it): let go of by the kernel.
    pub released: u64,
}

/// How long the dead took to die.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deaths {
    /// How many were seen from removal to release.
    pub count: u64,
    /// Their times together, nanoseconds.
    pub total_ns: u64,
    /// The longest.
    pub longest_ns: u64,
}

impl Life {
    /// Takes note of an event. Those from before the window are passed over.
    pub fn apply(&mut self, change: &CgroupChange) {
        if !change.counted {
            return;
        }
        match change.kind {
            ChangeKind::Created => self.created(change),
            ChangeKind::Removed => self.removed(change),
            ChangeKind::Released => self.released(change),
        }
    }

    fn created(&mut self, change: &CgroupChange) {
        let maker = self.maker(&change.actor);
        if let Some(maker) = self.deeds(maker) {
            maker.created += 1;
        }
        self.parent(&change.path).created += 1;
        if self.has_room() {
            let born = Born { path: whole(change), at_ns: change.at_ns, maker };
            self.born.insert(change.id, born);
        }
    }

    fn removed(&mut self, change: &CgroupChange) {
        let remover = self.maker(&change.actor);
        if let Some(remover) = self.deeds(remover) {
            remover.removed += 1;
        }
        self.parent(&change.path).removed += 1;
        let born = self.born.remove(&change.id);
        if self.has_room() {
            let dying = Dying {
                path: whole(change),
                made_ns: born.as_ref().map(|born| born.at_ns),
                removed_ns: change.at_ns,
                maker: born.and_then(|born| born.maker),
                remover,
                charged_pages: change.charged_pages,
            };
            self.dying.insert(change.id, dying);
        }
    }

    fn released(&mut self, change: &CgroupChange) {
        let Some(dead) = self.dying.remove(&change.id) else {
            // Its removal was lost, or was before the window.
            if let Some(born) = self.born.remove(&change.id) {
                if let Some(maker) = self.deeds(born.maker) {
                    maker.released += 1;
                }
                self.parent(&born.path).released += 1;
            } else {
                self.released_older += 1;
            }
            return;
        };
        if let Some(maker) = self.deeds(dead.maker) {
            maker.released += 1;
        }
        self.parent(&dead.path).released += 1;
        let took = change.at_ns.saturating_sub(dead.removed_ns);
        self.deaths.count += 1;
        self.deaths.total_ns = self.deaths.total_ns.saturating_add(took);
        self.deaths.longest_ns = self.deaths.longest_ns.max(took);
    }

    fn has_room(&mut self) -> bool {
        let room = self.born.len() + self.dying.len() < MOST_CGROUPS;
        self.untracked += u64::from(!room);
        room
    }

    fn deeds(&mut self, maker: Option<usize>) -> Option<&mut Deeds> {
        self.makers.get_mut(maker?).map(|maker| &mut maker.deeds)
    }

    /// The index of a process's entry; `None` when there is no room for its name.
    fn maker(&mut self, actor: &Actor) -> Option<usize> {
        let key = (actor.comm.clone(), actor.cgroup);
        let index = match self.by_name.get(&key) {
            Some(&index) => index,
            None if self.makers.len() >= MOST_MAKERS => {
                self.untracked += 1;
                return None;
            }
            None => {
                let (comm, cgroup) = key.clone();
                self.makers.push(Maker { comm, cgroup, ..Maker::default() });
                self.by_name.insert(key, self.makers.len() - 1);
                self.makers.len() - 1
            }
        };
        if let Some(maker) = self.makers.get_mut(index) {
            if maker.processes.len() < MOST_PROCESSES {
                maker.processes.insert(actor.process);
            } else if !maker.processes.contains(&actor.process) {
                maker.more_processes = true;
            }
        }
        Some(index)
    }

    /// The counts of the cgroup above `path`.
    fn parent(&mut self, path: &str) -> &mut Deeds {
        let mut above = parent(path).unwrap_or("/");
        while self.parents.len() >= MOST_PARENTS && !self.parents.contains_key(above) {
            match parent(above) {
                Some(next) => above = next,
                None => break,
            }
        }
        self.parents.entry_ref(above).or_default()
    }
}

/// The path, marked where the event could not hold all of it.
fn whole(change: &CgroupChange) -> String {
    if change.path_cut { format!("{}…", change.path) } else { change.path.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(kind: ChangeKind, id: u64, path: &str, at_ns: u64, tgid: u32) -> CgroupChange {
        CgroupChange {
            id,
            kind,
            at_ns,
            path: path.to_owned(),
            path_cut: false,
            counted: true,
            actor: Actor {
                process: ProcessKey { start_ns: 1, tgid, _pad: 0 },
                comm: "runc".to_owned(),
                cgroup: 9,
            },
            charged_pages: Some(3),
        }
    }

    #[test]
    fn from_birth_to_release() {
        use ChangeKind::{Created, Released, Removed};
        let mut life = Life::default();
        life.apply(&change(Created, 7, "/pods/a", 10, 100));
        assert_eq!(life.born[&7].path, "/pods/a");
        life.apply(&change(Removed, 7, "/pods/a", 20, 101));
        assert!(life.born.is_empty());
        let dying = &life.dying[&7];
        assert_eq!((dying.made_ns, dying.removed_ns), (Some(10), 20));
        assert_eq!((dying.maker, dying.charged_pages), (Some(0), Some(3)));
        life.apply(&change(Released, 7, "/pods/a", 50, 2));
        assert!(life.dying.is_empty());
        assert_eq!(life.deaths, Deaths { count: 1, total_ns: 30, longest_ns: 30 });
        let deeds = Deeds { created: 1, removed: 1, released: 1 };
        assert_eq!(life.parents["/pods"], deeds);
        // One name in one cgroup, two processes; the kernel's worker made nothing.
        assert_eq!((life.makers.len(), life.makers[0].processes.len()), (1, 2));
        assert_eq!(life.makers[0].deeds, deeds);
    }

    #[test]
    fn what_was_there_before_has_no_known_maker() {
        let mut life = Life::default();
        life.apply(&change(ChangeKind::Removed, 7, "/a", 20, 101));
        assert_eq!((life.dying[&7].maker, life.dying[&7].made_ns), (None, None));
        assert_eq!(life.dying[&7].remover, Some(0));
        life.apply(&change(ChangeKind::Released, 8, "/b", 30, 2));
        assert_eq!(life.released_older, 1);
        assert_eq!(life.deaths, Deaths::default());
    }

    #[test]
    fn a_lost_removal_does_not_leave_the_dead_among_the_living() {
        let mut life = Life::default();
        life.apply(&change(ChangeKind::Created, 7, "/a", 10, 100));
        life.apply(&change(ChangeKind::Released, 7, "/a", 50, 2));
        assert!(life.born.is_empty());
        assert_eq!((life.released_older, life.deaths.count), (0, 0));
        assert_eq!(life.makers[0].deeds.released, 1);
    }

    #[test]
    fn events_before_the_window_are_not_of_it() {
        let mut life = Life::default();
        let early = CgroupChange { counted: false, ..change(ChangeKind::Created, 7, "/a", 1, 100) };
        life.apply(&early);
        assert!(life.born.is_empty() && life.makers.is_empty());
    }

    #[test]
    fn memory_is_bounded_and_what_is_left_out_is_counted() {
        let mut life = Life::default();
        let some = MOST_CGROUPS as u64 + 5;
        for id in 0..some {
            let mut event = change(ChangeKind::Created, id, &format!("/p{id}/x"), 1, 7);
            event.actor.process.tgid = u32::try_from(id).unwrap();
            life.apply(&event);
        }
        assert_eq!((life.born.len(), life.untracked), (MOST_CGROUPS, 5));
        assert_eq!(life.parents.len(), MOST_PARENTS + 1);
        let all: u64 = life.parents.values().map(|deeds| deeds.created).sum();
        assert_eq!((all, life.makers[0].deeds.created), (some, some));
        assert!(life.makers[0].more_processes);
        assert_eq!(life.makers[0].processes.len(), MOST_PROCESSES);
    }
}

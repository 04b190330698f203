//! What `--fail-on` came to: the judgement on a report, as data. [`crate::judge`] makes it.

use serde::{Deserialize, Serialize};

use super::{Frames, Owner};

/// The judgement on a report.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
pub struct Judgement {
    /// Each `--fail-on`, in the order given.
    pub conditions: Vec<Outcome>,
    /// What was judged, after suppressions and baseline: owner by owner, largest first, ten at most.
    pub judged: Vec<Guilty>,
    /// Suppressions that took something out.
    pub suppressed: Vec<Suppressed>,
    /// Suppressions that did not, and why.
    pub unused_suppressions: Vec<Unused>,
    /// With `--baseline`.
    pub baseline: Option<BaselineUse>,
    /// What weakens or explains the judgement, one sentence each.
    pub notes: Vec<String>,
    /// A command line that watches and judges the same.
    pub reproduce: String,
}

impl Judgement {
    /// Conditions that hold.
    pub fn held(&self) -> impl Iterator<Item = &Outcome> {
        self.conditions.iter().filter(|condition| condition.held)
    }
}

/// A condition, and whether it holds.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
pub struct Outcome {
    /// As `--fail-on` takes it.
    pub expression: String,
    /// Whether it holds. What is unknown does not.
    pub held: bool,
    /// How it holds and who is guilty, or what could not be measured; `null` when there is nothing to say.
    pub message: Option<String>,
    /// Who has most of what made it hold; `null` when it does not hold, or nobody is to blame.
    pub guilty: Option<Guilty>,
}

/// An owner, and what it has in a slab cache of what was judged.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct Guilty {
    /// Who.
    pub owner: Owner,
    /// Slab cache.
    pub cache: String,
    /// What was judged of its outstanding objects: those that could be followed, without what was excused.
    pub outstanding_objects: u64,
    /// The same in bytes of slab.
    pub outstanding_bytes: u64,
    /// Its growth, in proportion when only a part was excused; `null` when unknown.
    pub growth_bytes_per_s: Option<f64>,
    /// Scaled up from a sample.
    pub estimated: bool,
    /// Kernel functions of the path that most of it came by, leaf first.
    pub kernel: Frames,
    /// User functions of that path, leaf first.
    pub user: Frames,
}

/// What a suppression took out.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct Suppressed {
    /// The file it is in.
    pub file: String,
    /// The line its `[[suppress]]` is in.
    pub line: u64,
    /// Its reason.
    pub reason: String,
    /// How much.
    pub amounts: Vec<Amount>,
    /// Whether it would have taken out more, but for its `max`.
    pub max_reached: bool,
}

/// Memory that was excused: slab memory, pages and per-CPU memory apart, as one is made of the other.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct Amount {
    /// `slab memory`, `pages` or `per-CPU memory`.
    pub memory: String,
    /// Outstanding objects.
    pub outstanding_objects: u64,
    /// The same in bytes.
    pub outstanding_bytes: u64,
    /// Scaled up from a sample.
    pub estimated: bool,
}

/// A suppression that took nothing out.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct Unused {
    /// The file it is in.
    pub file: String,
    /// The line its `[[suppress]]` is in.
    pub line: u64,
    /// Its reason.
    pub reason: String,
    /// Why it took nothing out.
    pub why: String,
}

/// How a baseline was used.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct BaselineUse {
    /// The file.
    pub file: String,
    /// The kernel it was recorded on.
    pub kernel: String,
    /// Length of its window, seconds.
    pub window_s: f64,
    /// `run`: the same command leaves the same behind, however long it takes. `time`: what grew with time
    /// was allowed for by the length of the window.
    pub per: String,
    /// What it excused.
    pub amounts: Vec<Amount>,
}

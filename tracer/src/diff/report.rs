//! What a comparison found, as data: JSON of schema `kleak.diff/1` (`schema/kleak.diff-1.schema.json`).

use serde::Serialize;

use crate::report::{Filter, Frames, Host, program::Program};

/// Value of [`Diff::schema`].
pub const SCHEMA: &str = "kleak.diff/1";

/// What changed from one recording to another.
#[derive(Clone, Debug, Serialize, PartialEq)]
pub struct Diff {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// The first recording.
    pub before: Run,
    /// The second.
    pub after: Run,
    /// What rows of [`Diff::owners`] stand for: `process`, `cgroup`, `pod`, `cache`, `stack` or `site`.
    pub by: String,
    /// The answer.
    pub verdict: Verdict,
    /// Sums of what was compared: slab memory, pages and per-CPU memory, of which one is made of the other.
    pub totals: Vec<Total>,
    /// By what rows stand for and slab cache: what grew and appeared, then what shrank and went, then what
    /// did not change, each with the largest difference first.
    pub owners: Vec<Row>,
    /// By program, slab cache and path, in the same order.
    pub stacks: Vec<Stack>,
    /// Things that weaken or explain the answer, one sentence each.
    pub notes: Vec<String>,
    /// Of these, what is not exact.
    #[serde(skip)]
    pub(super) doubts: Vec<String>,
}

/// One of the recordings.
#[derive(Clone, Debug, Serialize, PartialEq)]
pub struct Run {
    /// Where it was made.
    pub host: Host,
    /// Length of its window.
    pub window_s: f64,
    /// What was followed and selected in it.
    pub filter: Filter,
}

/// The answer in one object.
#[derive(Clone, Debug, Serialize, PartialEq)]
pub struct Verdict {
    /// Whether something leaves more behind than before, past what chance explains.
    pub worse: bool,
    /// The program that does so most; when none does, `null`.
    pub owner: Option<Program>,
    /// In this slab cache.
    pub cache: Option<String>,
    /// How much more it leaves behind.
    pub change_bytes_per_s: Option<f64>,
    /// Its part of all that grew in the same books, 0 to 1.
    pub share: Option<f64>,
    /// One sentence a tired person can act on.
    pub summary: String,
}

/// A sum.
#[derive(Clone, Debug, Serialize, PartialEq)]
pub struct Total {
    /// `slab memory`, `pages` or `per-CPU memory`.
    pub of: &'static str,
    /// Of the first recording.
    pub before: Residue,
    /// Of the second.
    pub after: Residue,
    /// Whether one of them is scaled up from a part of the objects.
    pub estimated: bool,
}

/// What was allocated in a window and not freed.
#[derive(Clone, Copy, Debug, Default, Serialize, PartialEq)]
pub struct Residue {
    /// Objects.
    pub objects: u64,
    /// Bytes of slab.
    pub bytes: u64,
    /// The same over the length of the window.
    pub bytes_per_s: f64,
}

/// What became of something.
#[derive(Clone, Copy, Debug, Serialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// There is more of it, per second.
    Grew,
    /// There was none of it.
    Appeared,
    /// There is none of it.
    Went,
    /// There is less of it, per second.
    Shrank,
    /// Not by more than a tenth and by more than chance explains, by the second and in sum.
    Unchanged,
}

impl Change {
    /// As in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Grew => "grew",
            Self::Appeared => "appeared",
            Self::Went => "went",
            Self::Shrank => "shrank",
            Self::Unchanged => "unchanged",
        }
    }

    /// Whether it is for the worse.
    #[must_use]
    pub const fn is_worse(self) -> bool {
        matches!(self, Self::Grew | Self::Appeared)
    }
}

/// A difference.
#[derive(Clone, Debug, Serialize, PartialEq)]
pub struct Difference {
    /// What became of it.
    pub change: Change,
    /// Of the first recording.
    pub before: Residue,
    /// Of the second.
    pub after: Residue,
    /// Their difference in time.
    pub change_bytes_per_s: f64,
    /// What it is uncertain by, were there none: of a count that chance has a part in, and of figures that are scaled up.
    /// `null` where nobody knows, as for one of several stacks that a sample divides a sum among.
    pub standard_error_bytes_per_s: Option<f64>,
    /// Whether it is no more than three of these; `null` where that is not known.
    pub within_noise: Option<bool>,
    /// Whether a figure is scaled up from a sample.
    pub estimated: bool,
    /// Whether most of the change is freed by paths that could not be followed: no evidence of a leak.
    pub unfollowed: bool,
}

impl Difference {
    /// Whether it is for the worse by more than an error that is known.
    #[must_use]
    pub fn is_known_worse(&self) -> bool {
        self.change.is_worse() && self.within_noise == Some(false)
    }
}

/// What an owner's residue in a cache became.
#[derive(Clone, Debug, Serialize, PartialEq)]
pub struct Row {
    /// What the row stands for.
    pub name: String,
    /// The program, by `process`; else `null`.
    pub owner: Option<Program>,
    /// Slab cache.
    pub cache: String,
    /// How it changed.
    #[serde(flatten)]
    pub difference: Difference,
    /// Ids in [`Diff::stacks`], largest difference first.
    pub stacks: Vec<u32>,
}

/// What a code path's residue became.
#[derive(Clone, Debug, Serialize, PartialEq)]
pub struct Stack {
    /// For [`Row::stacks`].
    pub id: u32,
    /// Who.
    pub owner: Program,
    /// Slab cache.
    pub cache: String,
    /// Kernel functions from the one that called the allocator on, leaf first.
    pub kernel: Frames,
    /// User functions, leaf first.
    pub user: Frames,
    /// How it changed.
    #[serde(flatten)]
    pub difference: Difference,
}

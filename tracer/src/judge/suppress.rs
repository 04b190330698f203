//! Suppressions: what is known, has a reason, and is not to fail a build.

use std::fmt;

use globset::GlobMatcher;

use super::remains::{Amounts, Part, Remains};
use crate::report::judgement::{Suppressed, Unused};
use crate::report::{function, profile::Sample};

/// Suppressions, in the order in which they apply.
#[derive(Clone, Debug, Default)]
pub struct Suppressions {
    pub(super) all: Vec<Suppression>,
}

/// What is suppressed, and why.
#[derive(Clone, Debug)]
pub(super) struct Suppression {
    pub(super) file: String,
    pub(super) line: u64,
    pub(super) reason: String,
    /// Functions that occur in this order from the leaf outwards. Empty: any stack.
    pub(super) stack: Vec<GlobMatcher>,
    pub(super) comm: Option<GlobMatcher>,
    pub(super) unit: Option<GlobMatcher>,
    pub(super) cgroup: Option<GlobMatcher>,
    pub(super) pod: Option<GlobMatcher>,
    pub(super) cache: Option<GlobMatcher>,
    /// Bytes, of all that it matches together.
    pub(super) max: Option<u64>,
    /// The last day on which it applies.
    pub(super) until: Option<Day>,
}

/// A day, in UTC.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Day(String);

impl Day {
    /// `2027-01-31`; `None` when it is not a day.
    pub fn parse(text: &str) -> Option<Self> {
        // Otherwise a time could be smuggled in.
        let shape = text.len() == 10 && text.is_ascii();
        humantime::parse_rfc3339(&format!("{text}T00:00:00Z")).ok().filter(|_| shape)?;
        Some(Self(text.to_owned()))
    }

    /// The day of `time`.
    pub fn of(time: std::time::SystemTime) -> Self {
        // Years past 9999 do not come.
        let text = humantime::format_rfc3339_seconds(time).to_string();
        Self(text.split('T').next().unwrap_or_default().to_owned())
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What suppressions did.
pub(super) struct Applied {
    pub(super) suppressed: Vec<Suppressed>,
    pub(super) unused: Vec<Unused>,
    /// Some pattern of functions met stacks that are a sample.
    pub(super) by_estimate: bool,
}

impl Suppressions {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Adds those of another file.
    pub fn extend(&mut self, more: Self) {
        self.all.extend(more.all);
    }

    /// Takes out of `remains` what is suppressed.
    pub(super) fn apply(&self, remains: &mut Remains<'_>, today: &Day) -> Applied {
        let mut applied =
            Applied { suppressed: Vec::new(), unused: Vec::new(), by_estimate: false };
        for suppression in &self.all {
            let unused = |why: String| Unused {
                file: suppression.file.clone(),
                line: suppression.line,
                reason: suppression.reason.clone(),
                why,
            };
            if let Some(until) = suppression.until.as_ref().filter(|until| *until < today) {
                let why = format!("it ended on {until}: what it matched is judged");
                applied.unused.push(unused(why));
                continue;
            }
            let taken = suppression.apply(&mut remains.parts);
            applied.by_estimate |= taken.estimated && !suppression.stack.is_empty();
            let amounts = taken.amounts.into_vec();
            if !amounts.is_empty() {
                applied.suppressed.push(Suppressed {
                    file: suppression.file.clone(),
                    line: suppression.line,
                    reason: suppression.reason.clone(),
                    amounts,
                    max_reached: taken.max_reached,
                });
            } else if taken.max_reached {
                let max = suppression.max.unwrap_or_default();
                let max = super::condition::exact_size(max as f64);
                applied.unused.push(unused(format!("not one object fits its max of {max}")));
            } else if taken.earlier {
                let why = "all that it matches was taken out by suppressions before it";
                applied.unused.push(unused(why.to_owned()));
            } else {
                let why = "nothing that was left behind matches it";
                applied.unused.push(unused(why.to_owned()));
            }
        }
        applied
    }
}

/// What a suppression took.
#[derive(Default)]
struct Taken {
    amounts: Amounts,
    max_reached: bool,
    /// It matched what was already gone.
    earlier: bool,
    estimated: bool,
}

impl Suppression {
    fn apply(&self, parts: &mut [Part<'_>]) -> Taken {
        let mut taken = Taken::default();
        let mut room = self.max;
        // An object that is in no slab of its own costs nothing by itself.
        for part in parts.iter_mut().filter(|part| self.matches(part.sample)) {
            if part.objects == 0 {
                taken.earlier |= part.sample.outstanding_objects > part.sample.unfollowed_objects;
                continue;
            }
            let objects = room.map_or(part.objects, |room| part.objects_in(room));
            taken.max_reached |= objects < part.objects;
            taken.estimated |= part.sample.estimated;
            let (objects, bytes) = part.excuse(objects);
            taken.amounts.add(part.sample, (objects, bytes));
            room = room.map(|room| room.saturating_sub(bytes));
        }
        taken
    }

    fn matches(&self, sample: &Sample) -> bool {
        let matches = |glob: &Option<GlobMatcher>, names: &[Option<&str>]| {
            glob.as_ref().is_none_or(|glob| names.iter().flatten().any(|name| glob.is_match(name)))
        };
        let owner = &sample.owner;
        let cgroup = owner.cgroup.as_deref();
        let full_name = owner.namespace.as_ref().zip(owner.pod.as_ref());
        let full_name = full_name.map(|(namespace, pod)| format!("{namespace}/{pod}"));
        let pod = [full_name.as_deref(), owner.pod.as_deref(), owner.pod_uid.as_deref()];
        matches(&self.comm, &[owner.comm.as_deref()])
            && matches(&self.unit, &[owner.unit.as_deref()])
            && matches(&self.cgroup, &[cgroup, cgroup.map(|path| path.trim_start_matches('/'))])
            && matches(&self.pod, &pod)
            && matches(&self.cache, &[Some(&sample.cache)])
            && self.matches_stack(sample)
    }

    /// Whether the functions asked for occur one after the other, leaf first.
    fn matches_stack(&self, sample: &Sample) -> bool {
        let mut frames = sample.kernel.iter().chain(sample.user.iter());
        // The first that matches is as good as any later one: it leaves most for what follows.
        self.stack.iter().all(|glob| frames.any(|frame| names_function(glob, frame)))
    }
}

/// Whether a pattern names a function: as it is, in a build of its own, or without its module, whose brackets
/// would be a class of characters in a pattern.
fn names_function(glob: &GlobMatcher, frame: &str) -> bool {
    let plain = function::plain(frame);
    let bare = plain.split_once(" [").map_or(&*plain, |(function, _)| function);
    glob.glob().glob() == frame || [frame, &*plain, bare].iter().any(|name| glob.is_match(name))
}

#[cfg(test)]
mod tests {
    use super::{Day, names_function};

    #[test]
    fn functions_of_modules_have_their_names() {
        let names = |pattern: &str, frame: &str| {
            names_function(&globset::Glob::new(pattern).unwrap().compile_matcher(), frame)
        };
        for pattern in ["nf_alloc", "nf_*", "nf_alloc.isra.0 [nf_conntrack]"] {
            assert!(names(pattern, "nf_alloc.isra.0 [nf_conntrack]"), "{pattern}");
        }
        assert!(!names("nf_conntrack", "nf_alloc [nf_conntrack]"));
    }

    #[test]
    fn days() {
        for text in ["2027-01-31", "2028-02-29", "1999-12-31"] {
            assert_eq!(Day::parse(text).map(|day| day.to_string()).as_deref(), Some(text));
        }
        for text in [
            "",
            "2027-02-30",
            "2027-2-3",
            "2027-13-01",
            "2027-01-00",
            "31.1.2027",
            "soon",
            "2027-01-31T",
            "27-01-31",
            "２０27-01",
        ] {
            assert_eq!(Day::parse(text), None, "{text}");
        }
        assert!(Day::parse("2026-12-31") < Day::parse("2027-01-01"));
        let epoch = std::time::SystemTime::UNIX_EPOCH;
        assert_eq!(Day::of(epoch).to_string(), "1970-01-01");
    }
}

//! Call paths as two kernels have them: without what compilers add to names, and without the allocator's own
//! functions, which are called otherwise in each version.

use std::{borrow::Cow, sync::Arc};

use crate::report::{Frames, function, names, profile::Sample};

/// What is left of paths, so that both recordings have it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Detail {
    /// Only who called the allocator: one of the recordings has no stacks.
    pub(super) sites: bool,
    /// No functions of processes: one of the recordings has none.
    pub(super) kernel_only: bool,
}

/// A path, leaf first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Path {
    pub(super) kernel: Frames,
    pub(super) user: Frames,
}

impl Path {
    /// Of a sample.
    pub(super) fn of(sample: &Sample, detail: Detail) -> Self {
        let most = if detail.sites { 1 } else { usize::MAX };
        let kernel = names::past_allocator(&sample.kernel).iter().take(most).map(plain).collect();
        let user = if detail.kernel_only || detail.sites { &[] } else { &*sample.user };
        Self { kernel, user: user.iter().map(plain).collect() }
    }

    /// The function that called the allocator.
    pub(super) fn site(&self) -> &str {
        self.kernel.first().map_or("[unknown]", AsRef::as_ref)
    }
}

/// A function's name without what a compiler or a kernel's build adds to it.
fn plain(name: &Arc<str>) -> Arc<str> {
    match function::plain(name) {
        Cow::Borrowed(plain) if plain.len() == name.len() => Arc::clone(name),
        plain => plain.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::frames;

    #[test]
    fn paths_begin_past_the_allocator() {
        let sample = Sample {
            kernel: frames(["__kmalloc_noprof", "load_msg", "do_msgsnd.isra.0"]),
            user: frames(["main"]),
            ..Sample::default()
        };
        let path = Path::of(&sample, Detail::default());
        assert_eq!(
            path,
            Path { kernel: frames(["load_msg", "do_msgsnd"]), user: frames(["main"]) }
        );
        assert_eq!(path.site(), "load_msg");
        let path = Path::of(&sample, Detail { sites: true, kernel_only: false });
        assert_eq!(path, Path { kernel: frames(["load_msg"]), user: frames::<&str>([]) });
        let path = Path::of(&sample, Detail { sites: false, kernel_only: true });
        assert_eq!(path.user.len(), 0);
    }
}

//! Call paths as two kernels have them: without what compilers add to names, and without the allocator's own
//! functions, which are called otherwise in each version.

use std::sync::Arc;

use crate::report::{Frames, names, profile::Sample};

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
        let past = sample.kernel.iter().position(|frame| !names::is_allocator(frame)).unwrap_or(0);
        let most = if detail.sites { 1 } else { usize::MAX };
        let kernel = sample.kernel.iter().skip(past).take(most).map(plain).collect();
        let user = if detail.kernel_only || detail.sites { &[] } else { &*sample.user };
        Self { kernel, user: user.iter().map(plain).collect() }
    }

    /// The function that called the allocator.
    pub(super) fn site(&self) -> &str {
        self.kernel.first().map_or("[unknown]", AsRef::as_ref)
    }
}

/// What a number stands for that has no name: it is another in each boot.
const UNNAMED: &str = "[unnamed]";

/// A function's name without what a compiler or a kernel's build adds to it.
fn plain(name: &Arc<str>) -> Arc<str> {
    if name.starts_with("0x") {
        return UNNAMED.into();
    }
    let (function, module) = match name.split_once(" [") {
        Some((function, _)) => (function, name.get(function.len()..).unwrap_or_default()),
        None => (&**name, ""),
    };
    let stripped = strip(function);
    if stripped.len() == function.len() {
        return Arc::clone(name);
    }
    format!("{stripped}{module}").into()
}

/// Suffixes of copies that GCC and clang make (`.isra.0`, `.llvm.123`), and that of allocation profiling
/// (`include/linux/alloc_tag.h`, from 6.10).
fn strip(mut name: &str) -> &str {
    loop {
        let numbered = name.rsplit_once('.').and_then(|(rest, number)| {
            let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
            let kinds = [".isra", ".constprop", ".part", ".llvm", ".cold"];
            let kind = kinds.iter().find_map(|kind| rest.strip_suffix(kind));
            kind.filter(|_| is_number)
        });
        let shorter = numbered
            .or_else(|| name.strip_suffix(".cold"))
            .or_else(|| name.strip_suffix("_noprof"))
            .filter(|shorter| !shorter.is_empty());
        match shorter {
            Some(shorter) => name = shorter,
            None => return name,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::report::frames;

    #[test]
    fn names_lose_what_compilers_add() {
        for (name, expected) in [
            ("load_msg", "load_msg"),
            ("__kmalloc_noprof", "__kmalloc"),
            ("do_msgsnd.isra.0", "do_msgsnd"),
            ("f.constprop.1.isra.0", "f"),
            ("f.part.0.cold", "f"),
            ("f.cold.3", "f"),
            ("kvmalloc_node_noprof.llvm.1234", "kvmalloc_node"),
            ("nf_alloc.isra.0 [nf_conntrack]", "nf_alloc [nf_conntrack]"),
            ("main.main", "main.main"),
            ("os.(*File).Open", "os.(*File).Open"),
            (".isra.0", ".isra.0"),
            ("_noprof", "_noprof"),
            ("0xffffffff81000000", "[unnamed]"),
        ] {
            assert_eq!(&*plain(&name.into()), expected, "{name}");
        }
    }

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

    proptest! {
        #[test]
        fn any_name_is_taken(name in any::<String>()) {
            let once = plain(&name.as_str().into());
            prop_assert!(once.is_empty() == name.is_empty());
        }
    }
}

//! Folded stacks, the input of every flame-graph tool: a line a stack, `;`-separated, root first,
//! then a space and the bytes.

use std::collections::BTreeMap;
use std::io;

use super::{Exhibit, Exporter, frames::Frame, held};

/// The folded format as an [`Exporter`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Folded;

impl Exporter for Folded {
    /// Writes `[pod or unit or cgroup];comm-pid;user…;kernel…;[cache] BYTES` lines, sorted, each once;
    /// with pages beside what is made of them, below a root for each: `[slab memory];…`, `[pages];…`.
    fn write(&self, what: &Exhibit<'_>, w: &mut dyn io::Write) -> io::Result<()> {
        // Names that differ only in what was replaced fold into one line.
        let mut lines: BTreeMap<String, u64> = BTreeMap::new();
        for (path, sample) in held::paths(what.profile) {
            let bytes = lines.entry(stack(&path)).or_default();
            *bytes = bytes.saturating_add(sample.outstanding_bytes);
        }
        let mut text = String::new();
        for (frames, bytes) in lines {
            text.extend([frames.as_str(), " ", &bytes.to_string(), "\n"]);
        }
        w.write_all(text.as_bytes())
    }
}

/// Frames as one line has them.
pub(crate) fn stack(path: &[Frame]) -> String {
    let names: Vec<&str> = path.iter().map(|frame| frame.name.as_str()).collect();
    names.join(";")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::report::{Owner, Report, sample};

    fn folded(report: &Report) -> String {
        let mut out = Vec::new();
        let profile = sample::profile(report);
        Folded.write(&Exhibit { report, profile: &profile }, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_incident() {
        insta::assert_snapshot!(folded(&sample::incident()), @r"
        [coredns-5d78c9869d-x2x7k];coredns-20417;main.main;os.(*File).Open;vfs_open;do_dentry_open;kernfs_fop_open;__kmalloc_cache_noprof;[kmalloc-512] 205824
        [kubelet.service];kubelet-1165;entry_SYSCALL_64_after_hwframe;do_syscall_64;__x64_sys_msgsnd;do_msgsnd;load_msg;__kmalloc_noprof;[kmalloc-512] 7286272
        ");
    }

    #[test]
    fn nothing_is_nothing() {
        assert_eq!(folded(&sample::nothing()), "");
    }

    #[test]
    fn owners_that_are_not_processes_have_roots_too() {
        let mut report = sample::nothing();
        for (i, kind) in ["softirq", "kthread", "unknown"].into_iter().enumerate() {
            let mut stack = sample::msg_stack(0);
            stack.kernel = crate::report::frames(["load_msg", ""]);
            stack.owner = Owner { kind: kind.into(), ..Owner::default() }.into();
            if kind == "kthread" {
                let owner = std::sync::Arc::make_mut(&mut stack.owner);
                owner.comm = Some("kworker/0:1".into());
                owner.pid = Some(12);
            }
            stack.outstanding_bytes = 512 << i;
            report.stacks.push(stack);
        }
        assert_eq!(
            folded(&report),
            "[kernel];kworker/0:1-12;[unknown];load_msg;[kmalloc-512] 1024\n\
             [kernel];softirq;[unknown];load_msg;[kmalloc-512] 512\n\
             [unknown];[unknown];[unknown];load_msg;[kmalloc-512] 2048\n"
        );
    }

    #[test]
    fn pages_and_what_is_made_of_them_have_roots_of_their_own() {
        let mut report = sample::incident();
        let mut pages = sample::msg_stack(3);
        pages.cache = "page order-3 unmovable (slab)".into();
        report.stacks.push(pages);
        let text = folded(&report);
        let roots: Vec<&str> = text.lines().filter_map(|line| line.split(';').next()).collect();
        assert_eq!(roots, ["[pages]", "[slab memory]", "[slab memory]"]);
    }

    #[test]
    fn equal_lines_are_summed() {
        let mut report = sample::incident();
        report.stacks = vec![sample::msg_stack(1), sample::msg_stack(2)];
        let text = folded(&report);
        assert_eq!(text.lines().count(), 1);
        assert!(text.ends_with("[kmalloc-512] 14572544\n"), "{text}");
    }

    /// What a flame-graph tool does with a line.
    fn parse(line: &str) -> (Vec<&str>, u64) {
        let (frames, count) = line.rsplit_once(' ').unwrap();
        (frames.split(';').collect(), count.parse().unwrap())
    }

    proptest! {
        #[test]
        fn any_names_keep_the_format(
            comm in "\\PC{0,8}|[ ;\n\t\u{1b}]{0,8}",
            frames in prop::collection::vec(any::<String>(), 0..6),
            cache in any::<String>(),
        ) {
            let mut stack = sample::msg_stack(1);
            std::sync::Arc::make_mut(&mut stack.owner).comm = Some(comm);
            stack.kernel = crate::report::frames(&frames);
            stack.cache = cache;
            let mut report = sample::nothing();
            report.stacks.push(stack);
            let text = folded(&report);
            prop_assert_eq!(text.lines().count(), 1);
            let (parsed, bytes) = parse(text.trim_end_matches('\n'));
            prop_assert_eq!(parsed.len(), frames.len() + 3);
            prop_assert_eq!(bytes, 7_286_272);
            prop_assert!(parsed.iter().all(|frame| !frame.is_empty()));
        }
    }

    #[test]
    fn hostile_names_keep_the_format() {
        let text = folded(&sample::hostile());
        assert_eq!(text.lines().count(), 1);
        assert!(!text.trim_end().contains(char::is_control));
        assert_eq!(parse(text.trim_end()).0.len(), 3 + 20 + 3);
    }
}

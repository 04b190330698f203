//! Folded stacks, the input of every flame-graph tool: a line a stack, `;`-separated, root first,
//! then a space and the bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::{Exhibit, Exporter};
use crate::report::{Owner, ledger::Ledger, profile::Sample, sanitize};

/// The folded format as an [`Exporter`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Folded;

impl Exporter for Folded {
    /// Writes `[pod or unit or cgroup];comm-pid;user…;kernel…;[cache] BYTES` lines, sorted, each once;
    /// with pages beside what is made of them, below a root for each: `[slab memory];…`, `[pages];…`.
    fn write(&self, what: &Exhibit<'_>, w: &mut dyn io::Write) -> io::Result<()> {
        // Names that differ only in what was replaced fold into one line.
        let mut lines: BTreeMap<String, u64> = BTreeMap::new();
        let held = || what.profile.samples.iter().filter(|sample| sample.outstanding_bytes > 0);
        // What one allocator makes of its memory is memory of the other: no tool may add them up, so
        // each has a root of its own.
        let ledgers: BTreeSet<Ledger> =
            held().map(|sample| Ledger::of_cache(&sample.cache)).collect();
        for sample in held() {
            let mut path = line(sample);
            if ledgers.len() > 1 {
                path = format!("[{}];{path}", Ledger::of_cache(&sample.cache));
            }
            let bytes = lines.entry(path).or_default();
            *bytes = bytes.saturating_add(sample.outstanding_bytes);
        }
        let mut text = String::new();
        for (frames, bytes) in lines {
            text.extend([frames.as_str(), " ", &bytes.to_string(), "\n"]);
        }
        w.write_all(text.as_bytes())
    }
}

fn line(sample: &Sample) -> String {
    let mut frames = roots(&sample.owner);
    for frame in sample.user.iter().rev().chain(sample.kernel.iter().rev()) {
        frames.push(name(frame.as_ref()));
    }
    frames.push(format!("[{}]", bare(&sample.cache)));
    frames.join(";")
}

/// What every stack of an owner begins with: the group it belongs to, and itself.
fn roots(owner: &Owner) -> Vec<String> {
    let itself = match (present(owner.comm.as_ref()), owner.pid) {
        (Some(comm), Some(pid)) => format!("{comm}-{pid}"),
        (Some(comm), None) => comm,
        (None, Some(pid)) => format!("[unknown]-{pid}"),
        (None, None) => "[unknown]".into(),
    };
    match owner.kind.as_str() {
        kind @ ("softirq" | "hardirq") => return vec!["[kernel]".into(), kind.into()],
        "kthread" => return vec!["[kernel]".into(), itself],
        _ => (),
    }
    // An id says no more than the path that it is in.
    let container = owner.container.as_ref().filter(|_| owner.container != owner.container_id);
    let group = [
        owner.pod.as_ref(),
        owner.pod_uid.as_ref(),
        owner.unit.as_ref(),
        container,
        owner.cgroup.as_ref(),
    ];
    let group = group.into_iter().find_map(present).unwrap_or_else(|| "unknown".into());
    vec![format!("[{group}]"), itself]
}

fn name(frame: &str) -> String {
    present(Some(frame)).unwrap_or_else(|| "[unknown]".into())
}

fn bare(frame: &str) -> String {
    present(Some(frame)).unwrap_or_else(|| "unknown".into())
}

/// The name, fit for a frame; blanks at its ends would be lost or misread by other tools.
fn present(name: Option<&(impl AsRef<str> + ?Sized)>) -> Option<String> {
    let name = name?.as_ref().trim();
    (!name.is_empty()).then(|| sanitize::folded(name).into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::report::{Report, sample};

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

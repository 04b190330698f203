//! Judgements on reports made up to test with.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::report::judgement::{Judgement, Outcome};
use crate::report::profile::Sample;
use crate::report::{Command, Owner, StackRow, frames, sample};

/// A day on which nothing has expired.
fn today() -> Day {
    Day::parse("2026-11-21").unwrap()
}

fn conditions(texts: &[&str]) -> Vec<Condition> {
    texts.iter().map(|text| text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))).collect()
}

fn suppressions(text: &str) -> Suppressions {
    file::parse(text, "kleak.toml").unwrap_or_else(|e| panic!("{e}"))
}

/// A run and what it is judged by.
struct Case {
    report: Report,
    profile: Profile,
    suppressions: Suppressions,
    baseline: Option<Baseline>,
}

impl Case {
    fn of(report: Report) -> Self {
        let profile = sample::profile(&report);
        Self { report, profile, suppressions: Suppressions::default(), baseline: None }
    }

    fn incident() -> Self {
        let mut report = sample::incident();
        // As text of the row that has no stack.
        let mut softirq = sample::msg_stack(9);
        softirq.kernel = frames(["kmem_cache_alloc_noprof", "__alloc_skb", "tcp_stream_alloc_skb"]);
        softirq.owner = Owner { kind: "softirq".into(), ..Owner::default() }.into();
        softirq.outstanding_objects = 38;
        softirq.outstanding_bytes = 38 * 512;
        report.stacks.push(softirq);
        Self::of(report)
    }

    fn suppressing(mut self, text: &str) -> Self {
        self.suppressions = suppressions(text);
        self
    }

    /// Compared with another run.
    fn against(mut self, other: Self) -> Self {
        self.baseline = Some(Baseline::new("run.kleak".into(), other.report, other.profile));
        self
    }

    fn judge(&self, texts: &[&str]) -> Judgement {
        let rules = Rules {
            conditions: &conditions(texts),
            suppressions: &self.suppressions,
            baseline: self.baseline.as_ref(),
            today: &today(),
        };
        judge(&self.report, &self.profile, &rules)
    }

    fn one(&self, text: &str) -> Outcome {
        self.judge(&[text]).conditions.remove(0)
    }

    fn holds(&self, text: &str) -> Option<String> {
        let outcome = self.one(text);
        outcome.held.then(|| outcome.message.unwrap())
    }

    /// Objects left to be judged.
    fn left(&self) -> u64 {
        let (mut low, mut high) = (0, 1 << 40);
        while low < high {
            let middle = u64::midpoint(low, high);
            if self.one(&format!("objects>{middle}")).held {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
}

#[test]
fn a_sentence_names_the_guilty() {
    let case = Case::incident();
    assert_eq!(
        case.holds("growth>1MiB").unwrap(),
        "growth>1MiB: 7.2 MiB left behind, most by kubelet[1165], most through load_msg < \
         do_msgsnd"
    );
    assert_eq!(
        case.holds("objects>1000").unwrap(),
        "objects>1000: 14,671 objects left behind, most by kubelet[1165], most through \
         load_msg < do_msgsnd"
    );
    assert_eq!(
        case.holds("growth>1MiB/min").unwrap(),
        "growth>1MiB/min: growing by 14.3 MiB/min, most by kubelet[1165], most through \
         load_msg < do_msgsnd"
    );
    assert_eq!(
        case.holds("owner.share>50%").unwrap(),
        "owner.share>0.5: kubelet[1165] has 97 % of the growth in kmalloc-512, most through \
         load_msg < do_msgsnd"
    );
    assert_eq!(
        Case::of(sample::lossy()).holds("untracked>0").unwrap(),
        "untracked>0: 120,000 allocations were not followed, so the report is incomplete: \
         raise --max-objects"
    );
    let mut alone = case;
    alone.profile.samples.truncate(1);
    assert_eq!(
        alone.holds("growth>1MiB").unwrap(),
        "growth>1MiB: 6.9 MiB left behind by kubelet[1165], most through load_msg < do_msgsnd"
    );
}

#[test]
fn what_does_not_hold_is_silent() {
    let case = Case::incident();
    for text in ["growth>8MiB", "growth>15MiB/min", "objects>14671", "owner.share>0.97"] {
        assert_eq!(case.holds(text), None, "{text}");
    }
    assert!(case.holds("objects>=14671").is_some());
    let nothing = Case::of(sample::nothing());
    assert!(nothing.holds("growth>=0").is_some());
    for text in ["growth>0", "growth>=0/s", "objects>0", "owner.share>=0", "untracked>0"] {
        assert_eq!(nothing.holds(text), None, "{text}");
    }
}

#[test]
fn a_rate_that_is_unknown_is_said_to_be() {
    let mut case = Case::incident();
    for sample in &mut case.profile.samples {
        sample.growth_bytes_per_s = None;
    }
    let outcome = case.one("growth>0/s");
    assert!(!outcome.held);
    assert!(outcome.message.unwrap().contains("unknown"));
}

#[test]
fn shrinking_owners_do_not_hide_growing_ones() {
    let mut case = Case::incident();
    case.profile.samples[1].growth_bytes_per_s = Some(-1e9);
    assert!(case.holds("growth>200KiB/s").unwrap().contains("growing by 238 KiB/s"));
}

/// What `--top` leaves out of the report, and what `--by` calls its rows, is judged all the same.
#[test]
fn top_and_by_do_not_change_what_is_judged() {
    let case = Case::incident();
    let texts = ["growth>7MiB", "objects>14670", "growth>1MiB/min"];
    let whole = case.judge(&texts);
    assert!(whole.conditions.iter().all(|outcome| outcome.held), "{whole:#?}");
    let mut cut = Case::incident();
    cut.report.owners.truncate(1);
    cut.report.stacks.truncate(1);
    cut.report.filter.by = "cache".into();
    cut.report.owners[0].owner =
        Owner { kind: "cache".into(), comm: Some("kmalloc-512".into()), ..Owner::default() };
    assert_eq!(cut.judge(&texts), whole);
}

#[test]
fn books_are_never_added_up() {
    let mut case = Case::incident();
    let mut pages = case.profile.samples[0].clone();
    pages.cache = "page order-0 unmovable (slab)".into();
    pages.outstanding_objects = 9000;
    case.profile.samples.push(pages);
    assert_eq!(case.holds("objects>14671"), None);
    assert!(case.holds("objects>14670").is_some());
}

#[test]
fn objects_whose_frees_are_not_seen_are_no_evidence() {
    let mut case = Case::incident();
    for sample in &mut case.profile.samples {
        sample.unfollowed_objects = sample.outstanding_objects;
    }
    for text in ["growth>0", "objects>0", "growth>=0/s"] {
        assert_eq!(case.holds(text), None, "{text}");
    }
    case.profile.samples[0].unfollowed_objects -= 5;
    assert_eq!(case.left(), 5);
    assert!(case.holds("growth>=2560").is_some());
    assert_eq!(case.holds("growth>2560"), None);
}

const MESSAGES: &str = r#"
[[suppress]]
reason = "messages are received later"
stack = "load_msg"
"#;

#[test]
fn what_is_suppressed_is_not_judged() {
    let case = Case::incident().suppressing(MESSAGES);
    assert_eq!(case.left(), 440);
    let judgement = case.judge(&["growth>1MiB", "growth>1MiB/min"]);
    assert_eq!(judgement.held().count(), 0, "{judgement:#?}");
    let [suppressed] = &judgement.suppressed[..] else { panic!("{judgement:#?}") };
    assert_eq!((suppressed.line, suppressed.amounts[0].outstanding_objects), (2, 14_231));
    assert_eq!(judgement.unused_suppressions, []);
    // Whose share it is then.
    assert_eq!(
        case.holds("owner.share>50%").unwrap(),
        "owner.share>0.5: coredns[20417] has 91 % of the growth in kmalloc-512, most through \
         kernfs_fop_open < do_dentry_open"
    );
    let all = "[[suppress]]\nreason = 'x'\ncache = '*'\n";
    assert_eq!(Case::incident().suppressing(all).holds("owner.share>0"), None);
}

#[test]
fn suppressions_match_by_everything_that_they_say() {
    let left = |keys: &str| {
        let text = format!("[[suppress]]\nreason = 'x'\n{keys}\n");
        Case::incident().suppressing(&text).left()
    };
    for (keys, expected) in [
        ("comm = 'kubelet'", ALL - 14_231),
        ("comm = 'kube*'\ncache = 'kmalloc-*'", ALL - 14_231),
        ("comm = 'kubelet'\ncache = 'dentry'", ALL),
        ("unit = '*.service'", ALL - 14_231),
        ("cgroup = 'system.slice/*'", ALL - 14_231),
        ("cgroup = '/system.slice/*'", ALL - 14_231),
        ("pod = 'kube-system/coredns-*'", ALL - 402),
        ("pod = '6f1d'", ALL - 402),
        // With the suffixes of the build, or without.
        ("stack = '__kmalloc_noprof'", ALL - 14_231),
        ("stack = '__kmalloc'", ALL - 14_231),
        ("stack = ['load_msg', '__x64_sys_msgsnd']", ALL - 14_231),
        ("stack = ['__x64_sys_msgsnd', 'load_msg']", ALL),
        ("stack = ['load_msg', 'load_msg']", ALL),
        // Kernel and user functions are one stack.
        ("stack = ['vfs_*', 'main.main']", ALL - 402),
        ("stack = 'main.*'", ALL - 402),
        ("stack = 'msg'", ALL),
        // So much, in whole objects.
        ("stack = 'load_msg'\nmax = '64KiB'", ALL - 128),
        ("stack = 'load_msg'\nmax = 1023", ALL - 1),
        ("stack = 'load_msg'\nmax = '1GiB'", ALL - 14_231),
        // To the end of the day.
        ("stack = 'load_msg'\nuntil = '2026-11-21'", ALL - 14_231),
        ("stack = 'load_msg'\nuntil = 2026-11-21", ALL - 14_231),
        ("stack = 'load_msg'\nuntil = '2026-11-20'", ALL),
    ] {
        assert_eq!(left(keys), expected, "{keys}");
    }
}

#[test]
fn a_suppression_that_is_good_for_nothing_is_told() {
    let text = r#"
        [[suppress]]
        reason = "all"
        cache = "*"
        [[suppress]]
        reason = "again"
        stack = "load_msg"
        [[suppress]]
        reason = "gone"
        comm = "nobody"
        [[suppress]]
        reason = "over"
        cache = "*"
        until = "2026-11-20"
    "#;
    let judgement = Case::incident().suppressing(text).judge(&["objects>0"]);
    assert_eq!(judgement.held().count(), 0);
    let unused: Vec<_> =
        judgement.unused_suppressions.iter().map(|one| (one.line, one.why.as_str())).collect();
    assert_eq!(
        unused,
        [
            (5, "all that it matches was taken out by suppressions before it"),
            (8, "nothing that was left behind matches it"),
            (11, "it ended on 2026-11-20: what it matched is judged"),
        ]
    );
    // coredns' stack is a sample, but no functions were asked for.
    assert_eq!(judgement.notes, Vec::<String>::new());
    let by_function = "[[suppress]]\nreason = 'x'\nstack = 'kernfs_*'\n";
    let notes = Case::incident().suppressing(by_function).judge(&["objects>0"]).notes;
    assert!(notes[0].contains("--stacks all"), "{notes:?}");
    let small = "[[suppress]]\nreason = 'x'\nstack = 'load_msg'\nmax = 511";
    let unused = Case::incident().suppressing(small).judge(&["objects>0"]).unused_suppressions;
    assert_eq!(unused[0].why, "not one object fits its max of 511B");
}

#[test]
fn a_file_that_makes_no_sense_says_where_and_what_is_allowed() {
    let error = |text: &str| file::parse(text, "a.toml").unwrap_err().to_string();
    for (text, expected) in [
        (
            "[[suppress]]\nreason = 'x'\n",
            "a.toml:1: it says not what to suppress; a [[suppress]] has",
        ),
        ("\n\n[[suppress]]\nstack = 'x'\n", "a.toml:3: it has no `reason`"),
        ("[[suppress]]\nstack = 'x'\nreason = ' '\n", "a.toml:3: `reason` is empty"),
        ("[[suppress]]\nreason = 'x'\nstack = '['\n", "a.toml:3: `stack` is no pattern: ["),
        ("[[suppress]]\nreason = 'x'\nstack = ''\n", "a.toml:3: `stack` is empty"),
        ("[[suppress]]\nreason = 'x'\nstack = []\n", "a.toml:3: `stack` is an empty list"),
        ("[[suppress]]\nreason = 'x'\nstack = 3\n", "a.toml:3: a pattern of a function, or a list"),
        ("[[suppress]]\nreason = 'x'\nfunction = 'x'\n", "a.toml:3: unknown field `function`"),
        ("[[supress]]\nreason = 'x'\n", "a.toml:1: unknown field `supress`"),
        ("[[suppress]]\nreason = 'x'\ncomm = 'x'\nmax = 'much'\n", "a.toml:4: `max` is no amount"),
        ("[[suppress]]\nreason = 'x'\ncomm = 'x'\nmax = 0\n", "a.toml:4: `max` is no amount"),
        ("[[suppress]]\nreason = 'x'\ncomm = 'x'\nmax = -1\n", "a.toml:4: an amount of memory"),
        ("[[suppress]]\nreason = 'x'\ncomm = 'x'\nuntil = 'soon'\n", "a.toml:4: `until` is no day"),
        (
            "[[suppress]]\nreason = 'x'\ncomm = 'x'\nuntil = 2027-01-31T10:00:00Z\n",
            "a.toml:4: `until`",
        ),
        ("[[suppress]]\nreason = \n", "a.toml:2: "),
        ("suppress = 3", "a.toml:1: "),
    ] {
        let error = error(text);
        assert!(error.starts_with(expected), "{text}\n{error}");
    }
    assert!(error("[[supress]]\n").contains("`reason`, one or more of `stack`"));
    assert!(file::parse("# nothing\n", "a.toml").unwrap().is_empty());
}

#[test]
fn what_a_baseline_had_is_not_new() {
    let mut now = Case::incident();
    now.report.command = Some(Command {
        argv: vec!["./run-tests".into()],
        pid: 1,
        exit_status: Some(0),
        signal: None,
    });
    let same = |now: &Case| Case {
        suppressions: Suppressions::default(),
        baseline: None,
        report: now.report.clone(),
        profile: now.profile.clone(),
    };
    // Another process of the same program, on a kernel whose functions have other suffixes.
    let mut before = same(&now);
    for sample in &mut before.profile.samples {
        let mut owner = Owner::clone(&sample.owner);
        owner.pid = Some(99);
        owner.cgroup = Some("/elsewhere".into());
        owner.unit = None;
        owner.pod = None;
        sample.owner = Arc::new(owner);
        sample.kernel =
            frames(sample.kernel.iter().map(|frame| frame.replace("_noprof", ".isra.0")));
    }
    let now = now.against(before);
    assert_eq!(now.left(), 0);
    let judgement = now.judge(&["objects>0", "growth>0/s"]);
    assert_eq!(judgement.held().count(), 0);
    assert_eq!(judgement.baseline.as_ref().unwrap().per, "run");
    // Run with run: a window of another length changes nothing.
    let mut slower = same(&now);
    slower.report.window_s *= 10.0;
    assert_eq!(slower.against(same(&now)).left(), 0);
    // Only more than that is judged, and not by another path or program.
    let mut more = same(&now);
    more.profile.samples[0].outstanding_objects += 7;
    more.profile.samples[0].outstanding_bytes += 7 * 512;
    let more = more.against(same(&now));
    assert_eq!(more.left(), 7);
    assert_eq!(
        more.holds("objects>6").unwrap(),
        "objects>6: 7 objects left behind by kubelet[1165], most through load_msg < do_msgsnd"
    );
    let mut other = same(&now);
    other.profile.samples[0].kernel = frames(["__kmalloc", "load_msg", "do_mq_timedsend"]);
    assert_eq!(other.against(same(&now)).left(), 14_231);
}

#[test]
fn without_a_command_a_baseline_excuses_by_time() {
    let left = |window_s: f64, factor: u64, rate: Option<f64>| {
        let mut before = Case::incident();
        before.profile.samples.truncate(1);
        before.profile.samples[0].growth_bytes_per_s = rate;
        let mut now = Case::incident();
        now.profile.samples.truncate(1);
        now.report.window_s = window_s;
        now.profile.samples[0].outstanding_objects = 14_231 * factor;
        now.profile.samples[0].outstanding_bytes = 14_231 * factor * 512;
        now.against(before).left()
    };
    let steady = Some(14_231.0 * 512.0 / 30.0);
    // What grew with time grows on, up to twice as long.
    assert_eq!(left(30.0, 1, steady), 0);
    assert_eq!(left(60.0, 2, steady), 0);
    assert_eq!(left(30.0, 2, steady), 14_231);
    assert_eq!(left(300.0, 10, steady), 14_231 * 8);
    assert!((7_115..=7_116).contains(&left(15.0, 1, steady)));
    // What was there at once does not.
    assert_eq!(left(60.0, 2, Some(0.0)), 14_231);
    assert_eq!(left(15.0, 1, Some(0.0)), 0);
    assert_eq!(left(60.0, 2, None), 14_231);
}

#[test]
fn a_baseline_that_is_hard_to_compare_says_so() {
    let mut before = Case::incident();
    before.report.host.kernel = "5.10.0\u{1b}".into();
    before.report.filter.min_age_s = 5.0;
    before.report.window_s = 5.0;
    before.report.loss.untracked_objects = 1;
    let notes = Case::incident().against(before).judge(&["objects>0"]).notes;
    let notes = notes.join("\n");
    for part in ["5.10.0\\x1b", "--min-age", "window of", "not complete", "--stacks all"] {
        assert!(notes.contains(part), "{part}: {notes}");
    }
    let mut before = Case::incident();
    before.report.command = sample::lossy().command;
    before.profile.samples.remove(1);
    let notes = Case::incident().against(before).judge(&["objects>0"]).notes;
    assert_eq!(notes, ["The baseline is of a command, so amounts are compared by time."]);
}

/// Objects of the incident.
const ALL: u64 = 14_671;

/// Everything that a judgement can say.
fn full() -> Case {
    let text = r#"
        [[suppress]]
        reason = "coredns keeps its files open"
        stack = "kernfs_*"
        max = "64KiB"
        [[suppress]]
        reason = "fixed in 6.14"
        comm = "nobody"
        until = "2026-01-31"
    "#;
    let mut before = Case::incident();
    before.profile.samples.truncate(1);
    before.profile.samples[0].outstanding_objects = 1000;
    before.profile.samples[0].outstanding_bytes = 512_000;
    before.report.host.kernel = "6.1.0".into();
    let mut case = Case::incident().suppressing(text).against(before);
    case.report.loss.missed_frees_detected = 3;
    case.report.command = Some(Command {
        argv: vec!["./run-tests".into(), "--only=it's this".into()],
        pid: 4711,
        exit_status: Some(0),
        signal: None,
    });
    case
}

const FULL: [&str; 4] = ["objects>100", "growth>1MiB/min", "owner.share>0.9", "untracked>0"];

fn judged(case: &mut Case, texts: &[&str]) -> Judgement {
    let judgement = case.judge(texts);
    case.report.judgement = Some(judgement.clone());
    judgement
}

#[test]
fn as_text() {
    let mut case = full();
    let judgement = judged(&mut case, &FULL);
    insta::assert_snapshot!(text::lines(&judgement).join("\n"));
}

#[test]
fn as_annotations() {
    let mut case = full();
    let judgement = judged(&mut case, &FULL);
    insta::assert_snapshot!(github::annotations(&judgement).join("\n"));
}

#[test]
fn as_markdown() {
    let mut case = full();
    let judgement = judged(&mut case, &FULL);
    insta::assert_snapshot!("as_markdown_red", markdown::summary(&case.report, Some(&judgement)));
    let mut case = Case::incident().suppressing(MESSAGES);
    let judgement = judged(&mut case, &["objects>1000"]);
    insta::assert_snapshot!("as_markdown_green", markdown::summary(&case.report, Some(&judgement)));
    insta::assert_snapshot!("as_markdown_unjudged", markdown::summary(&case.report, None));
}

fn xml(report: &Report, judgement: &Judgement) -> String {
    let mut out = Vec::new();
    junit::write(report, judgement, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn as_junit() {
    let mut case = full();
    let judgement = judged(&mut case, &FULL);
    insta::assert_snapshot!(xml(&case.report, &judgement));
}

/// The shape that `jenkins-junit.xsd` describes: elements, their order, and their attributes.
fn check_shape(text: &str) -> Result<(usize, usize, usize), TestCaseError> {
    const COUNTS: [&str; 4] = ["tests", "failures", "errors", "time"];
    let document = roxmltree::Document::parse(text)
        .map_err(|error| TestCaseError::fail(format!("{error}: {text}")))?;
    let root = document.root_element();
    prop_assert_eq!(root.tag_name().name(), "testsuites");
    let suites: Vec<_> = root.children().filter(roxmltree::Node::is_element).collect();
    prop_assert_eq!(suites.len(), 1);
    let suite = suites[0];
    for node in document.descendants().filter(roxmltree::Node::is_element) {
        let (allowed, required): (Vec<&str>, &[&str]) = match node.tag_name().name() {
            "testsuites" => ([&["name"], &COUNTS[..]].concat(), &["tests", "failures"]),
            "testsuite" => {
                ([&["name", "hostname", "skipped"], &COUNTS[..]].concat(), &["name", "tests"])
            }
            "property" => (vec!["name", "value"], &["name", "value"]),
            "testcase" => (vec!["name", "classname"], &["name", "classname"]),
            "failure" => (vec!["message", "type"], &["message", "type"]),
            "skipped" => (vec!["message"], &["message"]),
            "properties" | "system-out" => (vec![], &[]),
            other => return Err(TestCaseError::fail(format!("<{other}>"))),
        };
        for attribute in node.attributes() {
            prop_assert!(allowed.contains(&attribute.name()), "{}", attribute.name());
        }
        for name in required {
            prop_assert!(node.has_attribute(*name), "{name} of {}", node.tag_name().name());
        }
    }
    let children: Vec<_> = suite
        .children()
        .filter(roxmltree::Node::is_element)
        .map(|node| node.tag_name().name())
        .collect();
    prop_assert_eq!(children[0], "properties");
    prop_assert_eq!(*children.last().unwrap(), "system-out");
    let count = |name: &str| document.descendants().filter(|node| node.has_tag_name(name)).count();
    let counts = (count("testcase"), count("failure"), count("skipped"));
    for (name, n) in [("tests", counts.0), ("failures", counts.1), ("skipped", counts.2)] {
        let said = suite.attribute(name).map(str::to_owned);
        prop_assert_eq!(said, Some(n.to_string()), "{}", name);
    }
    Ok(counts)
}

#[test]
fn junit_has_the_usual_shape() {
    let mut case = full();
    let judgement = judged(&mut case, &FULL);
    let text = xml(&case.report, &judgement);
    assert_eq!(check_shape(&text).unwrap(), (6, 3, 2), "{text}");
    let document = roxmltree::Document::parse(&text).unwrap();
    let failure = document.descendants().find(|node| node.has_tag_name("failure")).unwrap();
    assert!(failure.attribute("message").unwrap().starts_with("objects>100: 1"), "{text}");
    assert!(failure.text().unwrap().contains("at do_msgsnd\n"), "{text}");
}

#[test]
fn the_command_to_reproduce() {
    let line = |report: Report| Case::of(report).judge(&["objects>0"]).reproduce;
    let mut report = sample::incident();
    assert_eq!(
        line(report.clone()),
        "kleak trace --size 512 --duration 30s --user-stacks --fail-on 'objects>0'"
    );
    report.stacks.clear();
    report.filter.size_classes = vec![8, 512, 4 << 20];
    report.filter.comm = Some("a b".into());
    report.filter.min_age_s = 0.5;
    report.filter.stacks = "all".into();
    report.filter.kinds = vec!["kmalloc".into(), "page".into()];
    report.command = Some(Command {
        argv: vec!["sh".into(), "-c".into(), "a\u{1b}".into()],
        pid: 1,
        exit_status: None,
        signal: Some(9),
    });
    assert_eq!(
        line(report),
        "kleak trace --kind kmalloc,page --comm 'a b' --duration 30s --min-age 500ms --stacks all \
         --fail-on 'objects>0' -- sh -c $'a\\033'"
    );
}

/// A run whose every name is `name`.
fn named(name: &str) -> Case {
    let mut report = sample::hostile();
    let owner = Owner {
        kind: "process".into(),
        pid: Some(7),
        comm: Some(name.into()),
        cgroup: Some(name.into()),
        unit: Some(name.into()),
        pod: Some(name.into()),
        namespace: Some(name.into()),
        container: Some(name.into()),
        ..Owner::default()
    };
    report.verdict.owner = Some(owner.clone());
    report.verdict.cache = Some(name.into());
    report.verdict.summary = name.into();
    report.host.hostname = name.into();
    report.host.kernel = name.into();
    report.filter.cgroup = Some(name.into());
    report.notes = vec![name.into()];
    report.command = Some(Command {
        argv: vec!["sh".into(), name.replace('\0', "")],
        pid: 7,
        exit_status: Some(0),
        signal: None,
    });
    report.stacks = vec![StackRow {
        kernel: frames([name, name]),
        user: frames([name]),
        cache: name.into(),
        owner: owner.into(),
        ..sample::msg_stack(1)
    }];
    let mut case = Case::of(report);
    let mut twin = Case {
        suppressions: Suppressions::default(),
        baseline: None,
        report: case.report.clone(),
        profile: case.profile.clone(),
    };
    twin.profile.samples[0].outstanding_objects = 100;
    let quoted = |text: &str| {
        let escaped: Vec<_> = text.chars().map(|c| format!("\\U{:08x}", u32::from(c))).collect();
        let escaped = escaped.concat();
        format!("\"{escaped}\"")
    };
    let text = format!(
        "[[suppress]]\nreason = {0}\ncache = '*'\nmax = '1KiB'\n[[suppress]]\nreason = {0}\ncomm = 'no'\n",
        quoted(&format!("x{name}"))
    );
    case.suppressions = file::parse(&text, name).unwrap();
    case.baseline = Some(Baseline::new(name.into(), twin.report, twin.profile));
    case
}

fn hostile() -> impl Strategy<Value = String> {
    let nasty = prop::sample::select(vec![
        "\n",
        "\r",
        "\0",
        "\u{1b}[31m",
        "|",
        "`",
        "```",
        "<script>",
        "</code>",
        "&",
        "]]>",
        "\"",
        "'",
        "::error::",
        "##[error]",
        "%0A",
        "@team",
        "#1",
        "*",
        "_",
        "[x](y)",
        "\\",
        "\u{fffe}",
        "\u{ffff}",
        "\u{202e}",
        ",",
        ":",
        "https://x.y",
        "$(id)",
        " ",
        "a",
    ]);
    prop_oneof![
        3 => prop::collection::vec(nasty, 0..8).prop_map(|parts| parts.concat()),
        1 => any::<String>(),
    ]
}

proptest! {
    #[test]
    fn names_stay_names(name in hostile()) {
        let mut case = named(&name);
        let judgement = judged(&mut case, &["objects>0", "growth>0/s", "owner.share>0"]);
        prop_assert!(judgement.held().count() >= 2);

        let lines = text::lines(&judgement);
        prop_assert!(lines.iter().all(|line| !line.contains(char::is_control)), "{:?}", lines);
        prop_assert!(lines.iter().all(|line| !line.trim_start().starts_with("::")), "{:?}", lines);

        let annotations = github::annotations(&judgement);
        prop_assert_eq!(annotations.len(), judgement.held().count() + 1);
        for line in &annotations {
            prop_assert!(!line.contains(char::is_control), "{}", line);
            prop_assert!(line.starts_with("::error title=") || line.starts_with("::warning file="));
        }

        let (cases, failures, skipped) = check_shape(&xml(&case.report, &judgement))?;
        prop_assert_eq!((cases, skipped), (5, 2));
        prop_assert_eq!(failures, judgement.held().count());

        let text = markdown::summary(&case.report, Some(&judgement));
        check_markdown(&text)?;
    }
}

/// Tables keep their columns, fences are closed, and nothing but our own tags is HTML.
fn check_markdown(text: &str) -> Result<(), TestCaseError> {
    let mut columns = None;
    let mut fence: Option<String> = None;
    for line in text.lines() {
        prop_assert!(!line.contains(char::is_control), "{line}");
        if let Some(ticks) = &fence {
            if line == ticks {
                fence = None;
            }
            continue;
        }
        if line.starts_with("```") {
            fence = Some(line.trim_end_matches("text").to_owned());
            continue;
        }
        if line.starts_with('|') {
            let count = line.matches('|').count();
            prop_assert_eq!(*columns.get_or_insert(count), count, "{}", line);
        } else {
            columns = None;
            prop_assert!(!line.contains('|'), "{line}");
        }
        let rest = line.replace("<code>", "").replace("</code>", "");
        for c in ['<', '>', '`', '@', '[', ']', '\\', '$'] {
            prop_assert!(!rest.contains(c), "{c} in {line}");
        }
    }
    prop_assert!(fence.is_none(), "a fence is open: {text}");
    Ok(())
}

proptest! {
    #[test]
    fn any_file_is_read_or_refused(text in "(\\[\\[suppress\\]\\]\n)?((reason|stack|comm|max|until|cache|x) = ('[^']{0,9}'|[0-9-]{0,11}|\\['a','\\[b'\\]|\\PC{0,5})\n){0,5}|\\PC{0,40}") {
        if let Err(error) = file::parse(&text, "a.toml") {
            let error = error.to_string();
            prop_assert!(error.starts_with("a.toml:"), "{error}");
            prop_assert!(!error.contains(char::is_control), "{error}");
        }
    }

    #[test]
    fn more_rules_never_leave_more(objects in prop::collection::vec(0_u64..2000, 1..6), had in prop::collection::vec(0_u64..2000, 1..6), max in 1_u64..1_000_000) {
        let of = |objects: &[u64]| {
            let mut case = Case::incident();
            let first: Sample = case.profile.samples[0].clone();
            case.profile.samples = objects.iter().enumerate().map(|(i, n)| {
                let owner = Owner { pid: Some(u32::try_from(i / 2).unwrap()), ..sample::kubelet() };
                let kernel = if i % 2 == 0 { Arc::clone(&first.kernel) } else { frames(["x"]) };
                Sample { owner: owner.into(), kernel, outstanding_objects: *n, outstanding_bytes: n * 512, ..first.clone() }
            }).collect();
            case.report.command = sample::lossy().command;
            case
        };
        let text = format!("[[suppress]]\nreason = 'x'\nstack = 'load_msg'\nmax = {max}\n");
        let total: u64 = objects.iter().sum();
        let by_path = |list: &[u64], odd: usize| -> u64 {
            list.iter().enumerate().filter(|(i, _)| i % 2 == odd).map(|(_, n)| n).sum()
        };
        let suppressed = by_path(&objects, 0).min(max / 512);
        prop_assert_eq!(of(&objects).suppressing(&text).left(), total - suppressed);
        let expected: u64 = (0..2).map(|odd| by_path(&objects, odd).saturating_sub(by_path(&had, odd))).sum();
        prop_assert_eq!(of(&objects).against(of(&had)).left(), expected);
    }
}

/// What so many processes of these names left in these caches, each `(pid, comm, cache, objects, bytes)`.
fn left_by(rows: &[(u32, &str, &str, u64, u64)]) -> Case {
    let mut report = sample::nothing();
    for (pid, comm, cache, objects, bytes) in rows {
        let mut stack = sample::msg_stack(*pid);
        let owner = Arc::make_mut(&mut stack.owner);
        owner.pid = Some(*pid);
        owner.comm = Some((*comm).to_owned());
        (*cache).clone_into(&mut stack.cache);
        (stack.outstanding_objects, stack.outstanding_bytes) = (*objects, *bytes);
        report.stacks.push(stack);
    }
    Case::of(report)
}

#[test]
fn the_guilty_is_who_has_most_of_all_caches_and_processes() {
    // Three caches of one against a larger row of another.
    let case = left_by(&[
        (1, "a", "kmalloc-512", 800, 400 << 10),
        (1, "a", "kmalloc-1k", 400, 400 << 10),
        (1, "a", "kmalloc-2k", 200, 400 << 10),
        (2, "b", "kmalloc-512", 1000, 500 << 10),
    ]);
    assert!(case.holds("growth>1MiB").unwrap().contains("most by a[1]"));
    // A program that is started again and again.
    let mut rows: Vec<_> =
        (0..50).map(|pid| (100 + pid, "worker", "kmalloc-512", 20, 20 << 9)).collect();
    rows.push((7, "bash", "kmalloc-512", 30, 30 << 9));
    let message = left_by(&rows).holds("objects>100").unwrap();
    assert!(message.contains("most by worker (50 processes)"), "{message}");
    let mut workers = left_by(&[(11, "kworker/0:1", "kmalloc-512", 60, 60 << 9)]);
    workers.profile.samples.push(workers.profile.samples[0].clone());
    for (sample, pid) in workers.profile.samples.iter_mut().zip([11, 12]) {
        let owner = Arc::make_mut(&mut sample.owner);
        (owner.kind, owner.pid) = ("kthread".into(), Some(pid));
    }
    let message = workers.holds("objects>100").unwrap();
    assert!(message.contains("by kworker/* (2 kernel threads)"), "{message}");
    // Objects are no bytes.
    let case =
        left_by(&[(1, "few", "kmalloc-8k", 10, 80 << 10), (2, "many", "kmalloc-8", 2000, 16_000)]);
    assert!(case.holds("objects>100").unwrap().contains("most by many[2]"));
    assert!(case.holds("growth>1KiB").unwrap().contains("most by few[1]"));
}

#[test]
fn a_share_is_the_largest_that_is_left() {
    let mut case = left_by(&[
        (1165, "kubelet", "kmalloc-512", 1000, 512_000),
        (2, "evil", "kmalloc-512", 900, 460_800),
    ]);
    case.report.verdict.growing = false;
    case.report.verdict.owner = Some((*case.profile.samples[0].owner).clone());
    case.report.verdict.cache = Some("kmalloc-512".into());
    case.report.verdict.share = Some(0.53);
    let case =
        case.suppressing("[[suppress]]\nreason = 'known'\ncomm = 'kubelet'\nmax = '511488B'\n");
    let message = case.holds("owner.share>0.9").unwrap();
    assert!(message.contains("evil[2] has 99"), "{message}");
}

#[test]
fn a_baseline_excuses_only_what_was_evidence() {
    let mut before = Case::incident();
    // All of it could have been freed unseen.
    for sample in &mut before.profile.samples {
        sample.unfollowed_objects = sample.outstanding_objects;
    }
    let left = Case::incident().left();
    assert_eq!(Case::incident().against(before).left(), left);
    assert_eq!(Case::incident().against(Case::incident()).left(), 0);
}

#[test]
fn that_nothing_is_left_is_no_lack_of_counts() {
    let mut case = Case::of(sample::nothing());
    case.profile.samples.push(Sample { allocated_objects: 10, rest: true, ..Sample::default() });
    assert_eq!(case.one("growth>1MiB/min").message, None);
}

#[test]
fn what_was_not_followed_is_said_of_a_green_run() {
    let mut case = Case::incident();
    case.report.loss.untracked_objects = 5;
    let notes = |texts: &[&str]| case.judge(texts).notes.join(" ");
    assert!(notes(&["objects>100000"]).contains("5 allocations were not followed"));
    assert!(!notes(&["objects>100000", "untracked>9"]).contains("not followed"));
}

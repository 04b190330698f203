use std::collections::BTreeMap;
use std::io::Read as _;
use std::process::Command;

use flate2::read::GzDecoder;
use proptest::prelude::*;
use prost::Message as _;

use super::build::{REST, VALUES};
use super::proto::Profile;
use super::*;
use crate::report::{frames, profile, sample};

fn bytes(report: &crate::report::Report, profile: &profile::Profile) -> Vec<u8> {
    let mut out = Vec::new();
    Pprof.write(&Exhibit { report, profile }, &mut out).unwrap();
    out
}

fn read(file: &[u8]) -> Profile {
    let mut plain = Vec::new();
    GzDecoder::new(file).read_to_end(&mut plain).unwrap();
    Profile::decode(&*plain).unwrap()
}

/// What any reader relies on.
fn check(profile: &Profile) {
    assert_eq!(profile.string_table[0], "");
    let string = |number: i64| &profile.string_table[usize::try_from(number).unwrap()];
    assert!(!string(profile.default_sample_type).is_empty());
    for (at, mapping) in profile.mapping.iter().enumerate() {
        assert_eq!(mapping.id, at as u64 + 1);
        assert!(!string(mapping.filename).is_empty() && mapping.has_functions);
    }
    for (at, function) in profile.function.iter().enumerate() {
        assert_eq!(function.id, at as u64 + 1);
        assert!(!string(function.name).is_empty());
    }
    for (at, location) in profile.location.iter().enumerate() {
        assert_eq!(location.id, at as u64 + 1);
        assert!((1..=profile.mapping.len() as u64).contains(&location.mapping_id));
        assert!((1..=profile.function.len() as u64).contains(&location.line[0].function_id));
    }
    for sample in &profile.sample {
        assert_eq!(sample.value.len(), profile.sample_type.len());
        assert!(!sample.location_id.is_empty());
        let all = 1..=profile.location.len() as u64;
        assert!(sample.location_id.iter().all(|id| all.contains(id)));
        for label in &sample.label {
            assert!(!string(label.key).is_empty());
            assert!(label.num == 0 || label.str == 0);
        }
    }
    for text in &profile.string_table {
        assert!(!text.contains(char::is_control), "{text:?}");
    }
}

/// Sums of all values, by their names.
fn sums(profile: &Profile) -> BTreeMap<String, i64> {
    let name = |number: i64| profile.string_table[usize::try_from(number).unwrap()].clone();
    let types = profile.sample_type.iter().enumerate();
    types
        .map(|(at, of)| (name(of.name), profile.sample.iter().map(|s| s.value[at]).sum()))
        .collect()
}

/// The incident, with what was freed in it.
fn incident() -> (crate::report::Report, profile::Profile) {
    let report = sample::incident();
    let mut profile = sample::profile(&report);
    profile.samples.push(profile::Sample {
        owner: sample::kubelet().into(),
        cache: "kmalloc-512".into(),
        kernel: frames(["load_msg"]),
        allocated_objects: 5769,
        allocated_bytes: 5769 * 512,
        rest: true,
        ..profile::Sample::default()
    });
    (report, profile)
}

#[test]
fn it_holds_what_the_report_says() {
    let (report, profile) = incident();
    let file = bytes(&report, &profile);
    assert_eq!(file, bytes(&report, &profile), "the same findings make another file");
    let profile = read(&file);
    check(&profile);
    let outstanding = (14_231 + 402) * 512;
    assert_eq!(
        sums(&profile).into_iter().collect::<Vec<_>>(),
        [
            ("alloc_objects".to_owned(), 14_231 + 402 + 5769),
            ("alloc_space".to_owned(), outstanding + 5769 * 512),
            ("inuse_objects".to_owned(), 14_231 + 402),
            ("inuse_space".to_owned(), outstanding),
        ]
    );
    let string = |number: i64| &*profile.string_table[usize::try_from(number).unwrap()];
    assert_eq!(string(profile.default_sample_type), "inuse_space");
    assert_eq!((profile.time_nanos, profile.duration_nanos), (0, 30_000_000_000));
    let names = |at: usize| -> Vec<&str> {
        let ids = &profile.sample[at].location_id;
        let function = |id: &u64| &profile.function[usize::try_from(*id).unwrap() - 1];
        ids.iter().map(|id| string(function(id).name)).collect()
    };
    // From the caller of the allocator on.
    assert_eq!(names(0)[..2], ["load_msg", "do_msgsnd"]);
    assert_eq!(names(2), ["load_msg", REST]);
    let labels: Vec<_> = profile.sample[0]
        .label
        .iter()
        .map(|label| (string(label.key), string(label.str), label.num))
        .collect();
    assert_eq!(
        labels,
        [
            ("kind", "process", 0),
            ("comm", "kubelet", 0),
            ("cgroup", "/system.slice/kubelet.service", 0),
            ("unit", "kubelet.service", 0),
            ("cache", "kmalloc-512", 0),
            ("pid", "", 1165),
        ]
    );
}

#[test]
fn it_says_when_it_began() {
    let (report, mut profile) = incident();
    profile.taken_unix_ns = Some(1_700_000_030_000_000_000);
    assert_eq!(read(&bytes(&report, &profile)).time_nanos, 1_700_000_000_000_000_000);
    for nonsense in [0, 1, u64::MAX] {
        profile.taken_unix_ns = Some(nonsense);
        assert_eq!(read(&bytes(&report, &profile)).time_nanos, 0);
    }
}

#[test]
fn books_have_types_of_their_own() {
    let mut report = sample::incident();
    let mut pages = sample::msg_stack(3);
    pages.cache = "page order-3 unmovable (slab)".into();
    report.stacks.push(pages);
    report.verdict.cache = Some("page order-3 unmovable (slab)".into());
    let profile = read(&bytes(&report, &sample::profile(&report)));
    check(&profile);
    let sums = sums(&profile);
    assert_eq!(sums["inuse_space"], (14_231 + 402) * 512);
    assert_eq!(sums["pages_inuse_space"], 14_231 * 512);
    let default = usize::try_from(profile.default_sample_type).unwrap();
    assert_eq!(profile.string_table[default], "pages_inuse_space");
    // Names do not depend on what else there is.
    report.stacks.retain(|stack| stack.cache.starts_with("page"));
    let profile = read(&bytes(&report, &sample::profile(&report)));
    assert_eq!(profile.sample_type.len(), VALUES);
    let default = usize::try_from(profile.default_sample_type).unwrap();
    assert_eq!(profile.string_table[default], "pages_inuse_space");
}

#[test]
fn any_report_makes_a_profile() {
    for report in sample::all() {
        check(&read(&bytes(&report, &sample::profile(&report))));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_names_and_numbers_are_kept_apart(
        name in any::<String>(),
        kernel in prop::collection::vec(any::<String>(), 0..5),
        user in prop::collection::vec(any::<String>(), 0..3),
        bytes_held in 0_u64..1 << 60,
        rest in any::<bool>(),
    ) {
        let report = sample::nothing();
        let owner = crate::report::Owner {
            kind: name.clone(), comm: Some(name.clone()), pod: Some(name.clone()),
            pid: Some(7), ..Default::default()
        };
        let sample = profile::Sample {
            owner: owner.into(),
            cache: name.as_str().into(),
            kernel: frames(&kernel),
            user: frames(&user),
            outstanding_bytes: bytes_held,
            allocated_bytes: bytes_held * 2,
            rest,
            ..Default::default()
        };
        let found = profile::Profile { samples: vec![sample.clone(), sample], step_s: vec![], taken_unix_ns: None };
        let profile = read(&bytes(&report, &found));
        check(&profile);
        prop_assert_eq!(u64::try_from(sums(&profile)["inuse_space"]).unwrap(), bytes_held * 2);
        prop_assert_eq!(u64::try_from(sums(&profile)["alloc_space"]).unwrap(), bytes_held * 4);
    }
}

/// Runs `go tool pprof` on a file; `None` where there is no Go, which CI has.
fn go(file: &[u8], options: &[&str]) -> Option<String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("found.pb.gz");
    std::fs::write(&path, file).unwrap();
    // Neither its settings nor what it saves belong to whoever runs the tests.
    let ran = Command::new("go")
        .args(["tool", "pprof"])
        .args(options)
        .arg(&path)
        .env("HOME", dir.path())
        .env("PPROF_TMPDIR", dir.path())
        .output();
    let output = match ran {
        Ok(output) => output,
        Err(error) if std::env::var_os("CI").is_none() => {
            println!("SKIPPED: go tool pprof: {error}; apt-get install golang-go");
            return None;
        }
        Err(error) => panic!("go tool pprof: {error}; apt-get install golang-go"),
    };
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    Some(String::from_utf8(output.stdout).unwrap())
}

/// The columns before a name in what `-top` prints, which other versions of pprof align otherwise.
fn row<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let line = text.lines().find(|line| line.trim_end().ends_with(&format!(" {name}")));
    let line = line.unwrap_or_else(|| panic!("no {name} in {text}"));
    line.split_ascii_whitespace().take(5).collect()
}

/// The same, to be compared with other spacing.
fn squeezed(text: &str) -> String {
    text.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn go_s_pprof_shows_the_same_bytes() {
    let (report, profile) = incident();
    let file = bytes(&report, &profile);
    let Some(top) = go(&file, &["-top", "-sample_index=inuse_space", "-unit=B"]) else { return };
    // What the report has: 14,633 objects of 512 bytes.
    assert!(top.contains("100% of 7492096B total"), "{top}");
    assert_eq!(row(&top, "load_msg"), ["7286272B", "97.25%", "97.25%", "7286272B", "97.25%"]);
    assert_eq!(row(&top, "main.main")[..4], ["0", "0%", "100%", "205824B"]);
    assert!(!top.contains("kmalloc_noprof") && !top.contains(REST), "{top}");
    // Without options it is the same type.
    assert!(go(&file, &["-top"]).unwrap().contains("Type: inuse_space"));
    let all = go(&file, &["-top", "-sample_index=alloc_objects"]).unwrap();
    assert_eq!(row(&all, "load_msg")[0], "20000");
    assert_eq!(row(&all, REST)[3], "5769");
    let tags = squeezed(&go(&file, &["-tags", "-unit=B"]).unwrap());
    for tag in [
        "comm: Total 7492096.0B 7286272.0B (97.25%): kubelet 205824.0B ( 2.75%): coredns",
        "unit: Total 7286272.0B 7286272.0B ( 100%): kubelet.service",
        "cache: Total 7492096.0B 7492096.0B ( 100%): kmalloc-512",
        "estimated: Total 205824.0B",
    ] {
        assert!(tags.contains(tag), "{tag}: {tags}");
    }
    let of = |tag| go(&file, &["-top", "-unit=B", tag]).unwrap();
    assert!(of("-tagfocus=pid=1165").contains("for 7286272B, 97.25% of 7492096B"));
    assert!(of("-tagfocus=comm=coredns").contains("for 205824B, 2.75% of 7492096B"));
    let traces = ["-traces", "-unit=B", "-tagroot=unit", "-tagleaf=cache"];
    let traces = squeezed(&go(&file, &traces).unwrap());
    assert!(traces.contains("7286272B kmalloc-512 load_msg do_msgsnd"), "{traces}");
    assert!(traces.contains("entry_SYSCALL_64_after_hwframe kubelet.service"), "{traces}");
    let comments = go(&file, &["-comments"]).unwrap();
    assert!(comments.contains("Traced by kleak") && comments.contains("Not exact"), "{comments}");
    let raw = go(&file, &["-raw"]).unwrap();
    assert!(raw.contains("inuse_space/bytes[dflt]"), "{raw}");
}

#[test]
fn go_s_pprof_reads_any_report() {
    for report in sample::all() {
        let Some(raw) = go(&bytes(&report, &sample::profile(&report)), &["-raw"]) else { return };
        assert!(raw.contains("inuse_space/bytes"), "{raw}");
        assert!(!raw.contains('\u{1b}'), "{raw:?}");
    }
}

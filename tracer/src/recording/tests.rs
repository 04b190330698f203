//! Recordings, whole, old, damaged and made up.

use std::{io::Cursor, path::Path};

use proptest::prelude::{ProptestConfig, any, prop, prop_assert, prop_assert_eq, proptest};

use super::{
    Frame, Kind, Look, ReadError, Recording, Settings,
    bounded::Bounded,
    decode, encode,
    format::{Body, Group, Head, Owner, Site},
    frame,
    testing::{arbitrary, body, file, head, incident, read},
};
use crate::{
    analyse::{By, Evidence, Options, Select, analyse, both, profile},
    report::{Report, text},
};

const ALL: [By; 6] = [By::Process, By::Cgroup, By::Pod, By::Cache, By::Stack, By::Site];

fn glob(pattern: &str) -> globset::GlobMatcher {
    globset::Glob::new(pattern).unwrap().compile_matcher()
}

fn printed(report: &Report) -> String {
    let mut out = Vec::new();
    text::render(report, &text::Style::default(), &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn recorded(evidence: &Evidence) -> Evidence {
    read(&file(&[(Kind::Final, evidence.clone())])).unwrap().1.evidence
}

/// Notes of a file that can be read.
fn notes(file: &[u8]) -> (Frame, Vec<String>) {
    let (recording, frame) = read(file).unwrap();
    let notes = recording.notes(&frame);
    (frame, notes)
}

#[test]
fn the_report_is_the_live_one() {
    let live = incident(20);
    let read = recorded(&live);
    for by in ALL {
        let options = Options { by, ..Options::default() };
        let (live, read) = (analyse(&live, &options), analyse(&read, &options));
        assert_eq!(live, read, "{by:?}");
        assert_eq!(printed(&live), printed(&read), "{by:?}");
    }
    let options = Options::default();
    assert_eq!(profile(&live, &options), profile(&read, &options));
}

#[test]
fn a_frame_is_as_documented() {
    let mut evidence = incident(20);
    // Fewer rows are quicker to read.
    evidence.snapshot.groups.retain(|key, _| key.kernel_stack == 3 || key.user_stack == 4);
    let keys: Vec<u64> = evidence.snapshot.groups.keys().map(|key| key.site).collect();
    evidence.snapshot.sites.retain(|key, _| keys.contains(key));
    for point in &mut evidence.history {
        point.outstanding.retain(|key, _| keys.contains(key));
    }
    let text = serde_json::to_string_pretty(&body(&evidence)).unwrap();
    insta::assert_snapshot!(text);
    let head = serde_json::to_string(&head(1, Kind::Final, &evidence)).unwrap();
    insta::assert_snapshot!(head, @r#"{"schema":"kleak.recording/1","sequence":1,"kind":"final","window_s":20.0,"taken":"2026-11-21T21:00:00.000Z","kleak":"0.1.0"}"#);
}

#[test]
fn addresses_of_the_kernel_stay_where_they_are() {
    let mut evidence = incident(20);
    for facts in evidence.snapshot.sites.values_mut() {
        facts.site.call_site = 0xffff_8888_1234_5678;
        facts.site.cache = 0xffff_8888_1234_5000;
        facts.site.slab = 0xffff_8888_1234_5000;
    }
    evidence.call_sites.insert(0xffff_8888_1234_5678, "load_msg".to_owned());
    let text = serde_json::to_string(&body(&evidence)).unwrap();
    assert!(!text.contains("ffff8888"), "{text}");
    assert!(!text.contains(&0xffff_8888_1234_5678_u64.to_string()), "{text}");
    assert!(!text.contains(&0xffff_8888_1234_5000_u64.to_string()), "{text}");
}

proptest! {
    #[test]
    fn whatever_is_recorded_reports_the_same(
        evidence in arbitrary(),
        by in prop::sample::select(ALL.to_vec()),
        top in prop::option::of(0..4_usize),
        pid in prop::option::of(0..4_u32),
        comm in prop::sample::select(vec![None, Some("*a*"), Some("?")]),
        pod in prop::sample::select(vec![None, Some("*"), Some("a*")]),
        family_only in any::<bool>(),
    ) {
        let select =
            Select { pid, comm: comm.map(glob), cgroup: None, pod: pod.map(glob), family_only };
        let options = Options { by, top, select };
        let read = recorded(&evidence);
        let (live, again) = (analyse(&evidence, &options), analyse(&read, &options));
        prop_assert_eq!(&live, &again);
        let (report, profile_of_both) = both(&read, &options);
        prop_assert_eq!(&report, &again);
        prop_assert_eq!(&profile_of_both, &profile(&evidence, &options));
        // What was read can be written again.
        prop_assert_eq!(body(&read), body(&recorded(&read)));
        // And nothing in it steers a terminal.
        let steers = |c: char| c.is_control() && c != '\n';
        prop_assert!(!printed(&again).contains(steers));
    }
}

#[test]
fn options_of_the_run_are_kept_and_can_be_overridden() {
    let mut evidence = incident(20);
    evidence.filter.by = "pod".to_owned();
    evidence.filter.comm = Some("core*".to_owned());
    let settings = Settings { top: Some(3), family_only: false };
    let stored = encode::body(&evidence, &settings).unwrap();
    let mut bytes = frame::title("0.1.0");
    bytes.extend(frame::pack(&head(1, Kind::Final, &evidence), &stored).unwrap());

    let (_, mut frame) = read(&bytes).unwrap();
    assert_eq!(frame.settings, settings);
    let (options, said) = Look::default().apply(&mut frame).unwrap();
    assert_eq!((options.by, options.top), (By::Pod, Some(3)));
    assert!(said.is_empty());
    let report = analyse(&frame.evidence, &options);
    assert!(report.owners.iter().all(|row| row.owner.pod.is_some()), "{:?}", report.owners);

    let (_, mut frame) = read(&bytes).unwrap();
    let look = Look {
        by: Some(By::Process),
        comm: Some(glob("kube*")),
        pid: Some(1165),
        ..Look::default()
    };
    let (options, _) = look.apply(&mut frame).unwrap();
    let report = analyse(&frame.evidence, &options);
    assert_eq!(report.owners.len(), 1);
    assert_eq!(report.owners[0].owner.comm.as_deref(), Some("kubelet"));
    assert_eq!(report.filter.comm.as_deref(), Some("kube*"));
    assert_eq!((report.filter.pid, report.filter.by.as_str()), (Some(1165), "process"));
}

#[test]
fn a_pattern_that_is_none_is_an_error() {
    let mut evidence = incident(20);
    evidence.filter.cgroup = Some("[\u{1b}".to_owned());
    let (_, mut frame) = read(&file(&[(Kind::Final, evidence)])).unwrap();
    let error = Look::default().apply(&mut frame).unwrap_err().to_string();
    assert!(error.contains("--cgroup") && !error.contains('\u{1b}'), "{error}");
    let look = Look { cgroup: Some(glob("*")), ..Look::default() };
    assert!(look.apply(&mut frame).is_ok());
}

/// Three frames: at 5 s, at 10 s, at the end.
fn three() -> Vec<u8> {
    file(&[
        (Kind::Checkpoint, incident(5)),
        (Kind::Checkpoint, incident(10)),
        (Kind::Final, incident(20)),
    ])
}

/// Where the data frames of [`three`] begin, and the end.
fn places() -> [usize; 4] {
    let title = frame::title("0.1.0").len();
    let mut place = title;
    let mut places = vec![title];
    for (sequence, (kind, seconds)) in
        (1..).zip([(Kind::Checkpoint, 5), (Kind::Checkpoint, 10), (Kind::Final, 20)])
    {
        let evidence = incident(seconds);
        place += frame::pack(&head(sequence, kind, &evidence), &body(&evidence)).unwrap().len();
        places.push(place);
    }
    places.try_into().unwrap()
}

fn window(frame: &Frame) -> u64 {
    (frame.evidence.snapshot.at_ns - frame.evidence.snapshot.start_ns) / 1_000_000_000
}

#[test]
fn a_whole_file_has_nothing_to_tell() {
    let (frame, notes) = notes(&three());
    assert_eq!((window(&frame), notes), (20, Vec::new()));
}

#[test]
fn every_prefix_is_an_error_or_says_that_it_ends_early() {
    let (file, places) = (three(), places());
    assert_eq!(places[3], file.len());
    for length in 0..file.len() {
        let prefix = &file[..length];
        if length < places[1] {
            assert!(read(prefix).is_err(), "{length}");
            continue;
        }
        let (frame, notes) = notes(prefix);
        assert_eq!(window(&frame), if length < places[2] { 5 } else { 10 }, "{length}");
        let cut = !places.contains(&length);
        assert_eq!(notes.len(), 1 + usize::from(cut), "{length}: {notes:?}");
        assert!(notes.iter().any(|note| note.contains("ends early")), "{notes:?}");
        assert_eq!(notes[0].contains("cut short"), cut, "{length}: {notes:?}");
    }
}

#[test]
fn of_a_frame_that_is_cut_it_is_known_how_much_is_lost() {
    let (file, places) = (three(), places());
    for length in [places[2] + 300, places[3] - 1] {
        let (_, said) = notes(&file[..length]);
        assert!(said[0].contains("(the final report, at 20 s of the window)"), "{said:?}");
        assert!(said[1].contains("the first 10 s of 20 s of the window"), "{said:?}");
    }
}

#[test]
fn damage_costs_the_frame_that_it_is_in() {
    let (file, places) = (three(), places());
    // In the last: the one before it is told of.
    let mut last = file.clone();
    last[places[2] + 900] ^= 4;
    let (frame, said) = notes(&last);
    assert_eq!(window(&frame), 10);
    insta::assert_snapshot!(said.join("\n"), @r"
        Frame 3 of 1.5 KiB (the final report, at 20 s of the window) is left out: it is damaged (Restored data doesn't match checksum).
        The recording ends early: kleak was killed or still runs, the node went down, the disk was full, or the file was cut. This is of the first 10 s of 20 s of the window.
        ");
    // In the middle, where nobody needs it.
    let mut middle = file.clone();
    middle[places[1] + 900] ^= 4;
    let (frame, said) = notes(&middle);
    assert_eq!(window(&frame), 20);
    assert!(said.len() <= 1, "{said:?}");
    // Its beginning.
    let mut begin = file.clone();
    begin[places[2]] ^= 1;
    let (frame, said) = notes(&begin);
    assert_eq!(window(&frame), 10);
    insta::assert_snapshot!(said.join("\n"), @r"
        Frame 3 of about 1.5 KiB is damaged and left out.
        The recording ends early: kleak was killed or still runs, the node went down, the disk was full, or the file was cut. This is of the first 10 s of the window.
        ");
    // That of the file.
    for place in [1, 2, 4, 7, 9, 22, 24] {
        let mut begin = file.clone();
        begin[place] ^= 2;
        let (frame, said) = notes(&begin);
        assert_eq!(window(&frame), 20, "{place}");
        assert_eq!(said, ["The beginning of the recording is damaged."], "{place}");
    }
    // Something between frames.
    let mut between = file.clone();
    between.splice(places[1]..places[1], *b"\x28\xb5\x2f\xfd junk \x50\x2a\x4d\x18 junk");
    let (frame, said) = notes(&between);
    assert_eq!(window(&frame), 20);
    assert_eq!(said.len(), 1, "{said:?}");
    // At its end.
    let mut end = file.clone();
    end.extend([0; 5000]);
    let (frame, said) = notes(&end);
    assert_eq!(window(&frame), 20);
    insta::assert_snapshot!(said.join("\n"), @r"Frame 4 of about 4.9 KiB is damaged and left out.");
}

#[test]
fn all_of_it_damaged_is_an_error() {
    let mut file = three();
    let places = places();
    for place in &places[..3] {
        file[place + 900] ^= 1;
    }
    let error = read(&file).map(|_| ()).unwrap_err();
    assert!(matches!(error, ReadError::Nothing { .. }), "{error}");
    insta::assert_snapshot!(error.to_string(), @r"nothing can be read of the recording `run.kleak`: frame 3 of 1.5 KiB (the final report, at 20 s of the window) is left out: it is damaged (Restored data doesn't match checksum); frame 2 of 1.5 KiB (a checkpoint, at 10 s of the window) is left out: it is damaged (Restored data doesn't match checksum); frame 1 of 1.5 KiB (a checkpoint, at 5 s of the window) is left out: it is damaged (Restored data doesn't match checksum)");
    let error = read(&file[..places[0]]).map(|_| ()).unwrap_err();
    insta::assert_snapshot!(error.to_string(), @r"nothing can be read of the recording `run.kleak`: the run ended before its first checkpoint");
}

#[test]
fn frames_that_are_gone_are_missed() {
    let (file, places) = (three(), places());
    let without = [&file[..places[1]], &file[places[2]..]].concat();
    let (frame, said) = notes(&without);
    assert_eq!(
        (window(&frame), said.as_slice()),
        (20, ["1 frame missing before frame 3.".to_owned()].as_slice())
    );
}

#[test]
fn of_two_recordings_in_a_file_the_last_is_read() {
    let twice = [three(), file(&[(Kind::Final, incident(7))])].concat();
    let (frame, said) = notes(&twice);
    assert_eq!(window(&frame), 7);
    assert!(said[0].contains("more than one recording"), "{said:?}");
}

#[test]
fn reports_on_the_way_are_listed_once() {
    let file = file(&[
        (Kind::Interval, incident(5)),
        (Kind::Checkpoint, incident(7)),
        (Kind::Interval, incident(10)),
        (Kind::Final, incident(12)),
    ]);
    let (recording, _) = read(&file).unwrap();
    assert_eq!(recording.intervals(), [0, 2]);
    // Killed after the last: that is the answer.
    let killed =
        super::testing::file(&[(Kind::Interval, incident(5)), (Kind::Interval, incident(10))]);
    let (recording, frame) = read(&killed).unwrap();
    assert_eq!((recording.intervals(), window(&frame)), (vec![0], 10));
}

#[test]
fn a_newer_version_is_told() {
    let newer = |text: &str| {
        let mut file = vec![0x50, 0x2a, 0x4d, 0x18];
        file.extend(u32::try_from(text.len()).unwrap().to_le_bytes());
        file.extend(text.as_bytes());
        let schema = text.split(' ').next().unwrap().to_owned();
        let evidence = incident(5);
        let head = Head { schema, ..head(1, Kind::Final, &evidence) };
        file.extend(frame::pack(&head, &body(&evidence)).unwrap());
        file
    };
    let error = read(&newer("kleak.recording/2 of kleak 9")).map(|_| ()).unwrap_err();
    insta::assert_snapshot!(error.to_string(), @r"`run.kleak` is a recording of version 2, written by a newer kleak; this one reads version 1: upgrade kleak");
}

#[test]
fn a_foreign_file_is_told() {
    for (bytes, words) in [
        (b"".as_slice(), "it is empty"),
        (b"{\"schema\":\"kleak.report/1\"}", "a report in JSON"),
        (&[0x28, 0xb5, 0x2f, 0xfd, 0, 0, 0, 0], "compressed by zstd"),
    ] {
        let error = read(bytes).map(|_| ()).unwrap_err();
        assert!(matches!(error, ReadError::Foreign { .. }), "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
    let error = Recording::open(Path::new("/no/such/\u{1b}file")).map(|_| ()).unwrap_err();
    assert!(matches!(error, ReadError::Io { .. }) && !error.to_string().contains('\u{1b}'));
    assert!(Recording::open(Path::new("/")).is_err());
}

#[test]
fn fields_may_come_and_go() {
    // What a later version adds is passed over, what it leaves out has its default.
    let text = "{\"cpus\":3,\"start_ns\":1,\"new\":{\"x\":[1]},\"sites\":[{\"size\":8,\"y\":2}]}";
    let body: Body = serde_json::from_str(text).unwrap();
    let (evidence, _) = decode::evidence(body).unwrap();
    assert_eq!((evidence.cpus, evidence.snapshot.sites[&1].site.size), (3, 8));
    let head =
        "{\"schema\":\"kleak.recording/1\",\"sequence\":1,\"kind\":\"final\",\"window_s\":1.0}";
    assert!(serde_json::from_str::<Head>(head).is_ok());
}

#[test]
fn what_does_not_fit_together_is_an_error() {
    let sound = body(&incident(20));
    assert!(decode::evidence(sound.clone()).is_ok());
    let breaks: [fn(&mut Body); 9] = [
        |body| body.groups.0[0].site = 0,
        |body| body.groups.0[0].site = u32::MAX,
        |body| body.groups.0[0].stack = Some(i32::MAX),
        |body| body.groups.0[0].user = Some(99),
        |body| body.groups.0.push(body.groups.0[0].clone()),
        |body| body.sites.0[1].owner = Some(1 << 20),
        |body| body.sites.0[1].function = Some(1 << 20),
        |body| body.stacks.0[0].0.push(1 << 30),
        |body| body.length_ns = u64::MAX,
    ];
    for (number, change) in breaks.into_iter().enumerate() {
        let mut body = sound.clone();
        change(&mut body);
        let error = decode::evidence(body).map(|_| ()).unwrap_err();
        assert!(error.to_string().ends_with("is not there"), "{number}: {error}");
    }
}

/// What is said of what is more than anybody records.
fn too_much(body: Body) -> String {
    decode::evidence(body).map(|_| ()).unwrap_err().to_string()
}

#[test]
fn what_is_copied_for_each_row_is_bounded() {
    let name = |length: usize| "n".repeat(length);
    let one = || std::iter::once(Site { cache: Some(0), owner: Some(0), ..Site::default() });
    let long = Body { names: std::iter::once(name(65_537)).collect(), ..Body::default() };
    assert_eq!(too_much(long), "65537 bytes of one name are more than 65536");
    let owner = || Owner { comm: Some(name(65_536)), ..Owner::default() };
    let tables = || Body {
        names: std::iter::once(name(65_536)).collect(),
        owners: std::iter::once(owner()).collect(),
        ..Body::default()
    };
    let owner = Owner { unit: Some(name(65_537)), ..Owner::default() };
    let long = Body { owners: std::iter::once(owner).collect(), ..Body::default() };
    assert!(too_much(long).contains("bytes of one name"));
    // 2,048 sites of 128 KiB are 256 MiB.
    let sites = |count| one().cycle().take(count).collect();
    assert!(decode::evidence(Body { sites: sites(2048), ..tables() }).is_ok());
    let many = Body { sites: sites(2049), ..tables() };
    assert_eq!(too_much(many), "268566528 bytes of names of sites are more than 268435456");
    // Twice as much of groups, by their site and by their stack.
    let group = |at| Group { site: 1, stack: Some(at), objects: 1, ..Group::default() };
    let stack = || std::iter::once(0).collect::<super::format::Stack>();
    let groups = |count: i32| Body {
        sites: sites(1),
        stacks: std::iter::repeat_with(stack).take(3000).collect(),
        groups: (0..count).map(group).collect(),
        ..tables()
    };
    assert!(decode::evidence(groups(2730)).is_ok());
    assert!(too_much(groups(2731)).contains("bytes of names of groups"));
}

#[test]
fn lists_that_are_too_long_are_errors() {
    let zeros = |count: usize| format!("[{}0]", "0,".repeat(count - 1));
    let words = |count: usize| format!("[{}\"\"]", "\"\",".repeat(count - 1));
    for (most, of) in [
        (128, (|list: String| format!("{{\"points_ns\":{list}}}")) as fn(String) -> String),
        (128, |list| format!("{{\"sites\":[{{\"held\":{list}}}]}}")),
        (1024, |list| format!("{{\"stacks\":[{list}]}}")),
        (1024, |list| format!("{{\"user_stacks\":[{list}]}}")),
        (65_536, |list| format!("{{\"filter\":{{\"size_classes\":{list}}}}}")),
    ] {
        assert!(serde_json::from_str::<Body>(&of(zeros(most))).is_ok(), "{}", of(zeros(1)));
        assert!(serde_json::from_str::<Body>(&of(zeros(most + 1))).is_err(), "{}", of(zeros(1)));
    }
    for (most, of) in [
        (
            65_536,
            (|list: String| format!("{{\"filter\":{{\"kinds\":{list}}}}}")) as fn(String) -> String,
        ),
        (65_536, |list| format!("{{\"filter\":{{\"caches\":{list}}}}}")),
        (65_536, |list| format!("{{\"aliases\":[{{\"others\":{list}}}]}}")),
        (1 << 18, |list| format!("{{\"command\":{{\"argv\":{list}}}}}")),
    ] {
        assert!(serde_json::from_str::<Body>(&of(words(most))).is_ok(), "{}", of(words(1)));
        assert!(serde_json::from_str::<Body>(&of(words(most + 1))).is_err(), "{}", of(words(1)));
    }
}

#[test]
fn what_would_not_be_read_is_not_written() {
    let written = |evidence: &Evidence| encode::body(evidence, &Settings::default());
    let mut deep = incident(20);
    deep.kernel_stacks.insert(3, crate::report::frames(vec!["f"; 1025]));
    assert!(written(&deep).is_err());
    let mut points = incident(20);
    points.history = std::iter::repeat_n(points.history[0].clone(), 129).collect();
    assert!(written(&points).is_err());
    let mut named = incident(20);
    let name = "n".repeat(65_537);
    named.cache_names.values_mut().for_each(|cache| cache.clone_from(&name));
    assert!(written(&named).unwrap_err().to_string().contains("65537 bytes of one name"));
    // A function of a program may be called by any number of template arguments.
    let mut cut = incident(20);
    cut.user_stacks.values_mut().for_each(|frames| *frames = crate::report::frames([&name]));
    assert!(decode::evidence(written(&cut).unwrap()).is_ok());
}

#[test]
fn only_so_many_frames_are_tried() {
    let evidence = incident(5);
    let wrong = Body { sites: Bounded(vec![]), ..body(&evidence) };
    let mut bytes = frame::title("0.1.0");
    let sound = frame::pack(&head(1, Kind::Checkpoint, &evidence), &body(&evidence)).unwrap();
    bytes.extend(&sound);
    for sequence in 2..=256 {
        let head = head(sequence, Kind::Checkpoint, &evidence);
        bytes.extend(frame::pack(&head, &wrong).unwrap());
    }
    assert!(read(&bytes).is_ok());
    bytes.extend(frame::pack(&head(257, Kind::Checkpoint, &evidence), &wrong).unwrap());
    assert!(matches!(read(&bytes), Err(ReadError::Nothing { .. })));
}

#[test]
fn births_that_are_too_many_are_an_error() {
    let line = format!("{{\"births\":[{}0]}}", "1,".repeat(20));
    assert!(serde_json::from_str::<Group>(&line).is_err());
}

/// A file with one frame that holds this.
fn packed(lines: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = zstd::stream::write::Encoder::new(frame::title("0"), 1).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(lines).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn a_bomb_is_an_error() {
    let mut lines = serde_json::to_vec(&head(1, Kind::Final, &incident(5))).unwrap();
    lines.extend(b"\n{\"groups\":[");
    lines.extend(b"{},".repeat((1 << 20) + 1));
    let error = read(&packed(&lines)).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("more than 1048576"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn no_flip_is_unnoticed_where_it_matters(place in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let mut file = three();
        let place = place.index(file.len());
        file[place] ^= 1 << bit;
        match read(&file) {
            Err(_) => prop_assert!(false, "three frames, and one flip costs all"),
            Ok((recording, frame)) => {
                let expected = incident(window(&frame));
                prop_assert_eq!(body(&frame.evidence), body(&recorded(&expected)));
                let notes = recording.notes(&frame);
                prop_assert!(window(&frame) == 20 || notes.len() >= 2, "{:?}", notes);
            }
        }
    }

    #[test]
    fn no_bytes_are_too_much(bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0..4_usize) {
        let mut file = three();
        let place = places()[at];
        file.splice(place..place, bytes);
        let (_, frame) = read(&file).unwrap();
        prop_assert!(window(&frame) >= 10);
    }

    #[test]
    fn json_of_any_kind_is_an_error_or_a_report(
        cut in any::<prop::sample::Index>(),
        junk in "[\\[\\]{}\",:0-9a-z-]{0,6}",
    ) {
        let mut lines = serde_json::to_vec(&head(1, Kind::Final, &incident(5))).unwrap();
        lines.push(b'\n');
        let mut body = serde_json::to_vec(&body(&incident(5))).unwrap();
        let cut = cut.index(body.len());
        body.splice(cut..cut, junk.bytes());
        lines.extend(body);
        if let Ok((_, mut frame)) = read(&packed(&lines)) {
            let look = Look { min_age: Some(std::time::Duration::from_secs(2)), ..Look::default() };
            if let Ok((options, _)) = look.apply(&mut frame) {
                drop(printed(&analyse(&frame.evidence, &options)));
            }
        }
    }
}

#[test]
fn a_frame_that_lies_about_its_place_is_found_out() {
    let evidence = incident(5);
    let mut recording =
        Recording::read(Cursor::new(file(&[(Kind::Final, evidence)])), Path::new("run.kleak"))
            .unwrap();
    assert!(recording.frame(7).unwrap().is_none());
    assert!(recording.damage().is_empty());
}

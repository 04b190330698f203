use std::sync::Arc;

use proptest::prelude::*;
use scraper::{Html as Document, Selector};
use serde_json::Value;

use super::*;
use crate::report::{
    Owner, Report, frames,
    profile::{Profile, Sample},
    sample,
};

/// What markup, scripts and JSON might take for their own.
const HOSTILE: [&str; 10] = [
    "<script>alert(1)</script>",
    "</script><script>alert(2)</script>",
    "/system.slice/\"quoted\" onload=\"alert(3)",
    "]]><!--",
    "&quot;&lt;",
    "{{script}}{{data}}",
    "gpj\u{202e}exe",
    "nul\0nul",
    "'\\u003cimg src=x onerror=alert(4)\\",
    "a\u{2028}b;c\n",
];

fn page_of(report: &Report, profile: &Profile, bounds: Bounds) -> String {
    let mut out = Vec::new();
    write(&Exhibit { report, profile }, bounds, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn page(report: &Report) -> String {
    page_of(report, &sample::profile(report), Bounds::default())
}

fn select(document: &Document, selector: &str) -> Vec<String> {
    let selector = Selector::parse(selector).unwrap();
    let text = |element: scraper::ElementRef<'_>| element.text().collect::<String>();
    document.select(&selector).map(text).collect()
}

/// The same, with its parts told apart.
fn parts(document: &Document, selector: &str) -> Vec<String> {
    let selector = Selector::parse(selector).unwrap();
    let text = |e: scraper::ElementRef<'_>| e.text().map(str::trim).collect::<Vec<_>>().join(" | ");
    document.select(&selector).map(text).collect()
}

fn embedded(document: &Document) -> Value {
    let data = select(document, "script#data");
    assert_eq!(data.len(), 1);
    serde_json::from_str(&data[0]).unwrap()
}

fn strings(data: &Value) -> Vec<&str> {
    data["strings"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect()
}

fn hostile(name: &str) -> (Report, Profile) {
    let mut report = sample::incident();
    report.host.hostname = name.into();
    report.verdict.summary = name.into();
    let owner = Owner {
        comm: Some(name.into()),
        cgroup: Some(name.into()),
        unit: Some(name.into()),
        pod: Some(name.into()),
        ..sample::kubelet()
    };
    report.verdict.owner = Some(owner.clone());
    report.verdict.cache = Some(name.into());
    report.notes = vec![name.into()];
    for row in &mut report.owners {
        row.owner = owner.clone();
        row.cache = name.into();
    }
    for stack in &mut report.stacks {
        stack.owner = Arc::new(owner.clone());
        stack.cache = name.into();
        stack.kernel = frames([name, "load_msg"]);
        stack.user = frames([name]);
    }
    let profile = sample::profile(&report);
    (report, profile)
}

/// That a parser of HTML finds in the page what was put into it, and nothing else.
fn check(page: &str) -> Document {
    let document = Document::parse_document(page);
    assert_eq!(document.errors.as_slice(), &[] as &[&str]);
    assert_eq!(select(&document, "script").len(), 2);
    assert_eq!(select(&document, "script:not([type])"), [SCRIPT]);
    assert_eq!(select(&document, "style"), [STYLE]);
    assert_eq!(select(&document, "img, iframe, object, embed, link, base, form").len(), 0);
    for element in document.tree.nodes().filter_map(|node| node.value().as_element()) {
        for (name, value) in element.attrs() {
            assert!(!name.starts_with("on"), "{name}={value}");
            assert!(!matches!(name, "src" | "style") && (name != "href" || value == "#h-trust"));
        }
    }
    document
}

#[test]
fn without_a_script_the_answer_is_there() {
    let document = check(&page(&sample::incident()));
    let shown = ["h1", ".where", ".facts div", ".warnings li", "#owners tr", ".trust dd"];
    let text: Vec<String> = shown.iter().flat_map(|selector| parts(&document, selector)).collect();
    insta::assert_snapshot!(text.join("\n"));
}

#[test]
fn what_is_estimated_is_marked() {
    let document = check(&page(&sample::sampled()));
    let cells = select(&document, "#owners td.number");
    assert!(cells.iter().take(3).all(|cell| cell.starts_with('~')), "{cells:?}");
    let warnings = select(&document, ".warnings li");
    assert!(warnings.iter().any(|warning| warning.contains("1 in 8")), "{warnings:?}");
    assert_eq!(embedded(&document)["sampled"], true);
}

#[test]
fn what_was_lost_is_said_before_the_picture() {
    let page = page(&sample::lossy());
    let document = check(&page);
    let warnings = select(&document, ".warnings li");
    assert!(warnings[1].contains("120,000 allocations not followed"), "{warnings:?}");
    assert!(warnings[3].contains("more warnings, below"), "{warnings:?}");
    assert!(page.find("not followed").unwrap() < page.find("<canvas").unwrap());
    let trust = select(&document, ".trust dd.warn");
    assert!(trust.len() > 5, "{trust:?}");
}

#[test]
fn nothing_is_said_to_be_nothing() {
    let document = check(&page(&sample::nothing()));
    let nothing = select(&document, ".nothing");
    assert_eq!(nothing.len(), 1);
    assert!(nothing[0].contains("no memory is still held"), "{nothing:?}");
    assert_eq!(embedded(&document)["samples"], serde_json::json!([]));
    assert_eq!(select(&check(&page(&sample::incident())), ".nothing").len(), 0);
}

#[test]
fn where_all_was_freed_its_owners_are_there() {
    let mut report = sample::incident();
    report.stacks.clear();
    for row in &mut report.owners {
        (row.outstanding_objects, row.outstanding_bytes) = (0, 0);
    }
    let document = check(&page_of(&report, &Profile::default(), Bounds::default()));
    assert_eq!(select(&document, ".nothing").len(), 1);
    assert_eq!(select(&document, "#owners tbody tr").len(), report.owners.len());
    assert_eq!(select(&document, "section[hidden]").len(), 0);
    // The script has no samples to make a table of, and leaves this one.
    assert!(SCRIPT.contains("if (SAMPLES.length > 0) table.replaceChildren("));
    assert_eq!(select(&check(&page(&sample::nothing())), "section[hidden]").len(), 1);
}

#[test]
fn hostile_names_are_text() {
    for name in HOSTILE {
        let (report, profile) = hostile(name);
        let document = check(&page_of(&report, &profile, Bounds::default()));
        let safe = crate::report::sanitize::terminal(name);
        assert_eq!(select(&document, "h1"), [safe.as_ref()]);
        let data = embedded(&document);
        let owner = format!("{safe}[1165]");
        assert!(strings(&data).contains(&owner.as_str()), "{name:?}: {:?}", strings(&data));
        assert!(!data.to_string().contains('\u{202e}'));
    }
    check(&page(&sample::hostile()));
}

#[test]
fn the_policy_lets_nothing_in_but_the_page_s_own() {
    let document = check(&page(&sample::incident()));
    let policy = Selector::parse("meta[http-equiv='Content-Security-Policy']").unwrap();
    let policy = document.select(&policy).next().unwrap().attr("content").unwrap();
    let script = &select(&document, "script:not([type])")[0];
    let style = &select(&document, "style")[0];
    for (directive, content) in [("script-src", script), ("style-src", style)] {
        let hash = STANDARD.encode(Sha256::digest(content));
        assert!(policy.contains(&format!("{directive} 'sha256-{hash}'")), "{policy}");
    }
    assert!(policy.starts_with("default-src 'none'; ") && !policy.contains("unsafe"), "{policy}");
    // What would end the elements, or be something else to a parser that reads them.
    assert!(!SCRIPT.to_lowercase().contains("</script") && !SCRIPT.contains("<!--"));
    assert!(!STYLE.contains("</") && !STYLE.contains("url("));
    for way in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "fetch("]
    {
        assert!(!SCRIPT.contains(way), "{way}");
    }
}

fn many(samples: u64, owners: u64, depth: u64) -> Profile {
    let sample = |i: u64| Sample {
        owner: Arc::new(Owner { pid: u32::try_from(1000 + i % owners).ok(), ..sample::kubelet() }),
        cache: "kmalloc-512".into(),
        kernel: frames(
            (0..depth).map(|level| format!("function_{}", (i * 7 + level * level) % 4000)),
        ),
        outstanding_objects: samples - i,
        outstanding_bytes: (samples - i) * 512,
        growth_bytes_per_s: Some(i as f64 / 3.0),
        trend: (1..=20).map(|step| (samples - i) * step / 20).collect(),
        ..Sample::default()
    };
    Profile {
        samples: (0..samples).map(sample).collect(),
        step_s: (1..=20).map(f64::from).collect(),
        taken_unix_ns: None,
    }
}

#[test]
fn what_does_not_fit_is_folded_and_nothing_is_lost() {
    let report = sample::incident();
    let profile = many(1000, 10, 8);
    let bounds = Bounds { samples: 40, owners: 4, bytes: usize::MAX };
    let data = embedded(&check(&page_of(&report, &profile, bounds)));
    assert_eq!(data["folded_stacks"], 960);
    let rows = data["samples"].as_array().unwrap();
    // The ten owners were all seen before it was full.
    assert_eq!(rows.len(), 50);
    let bytes: u64 = rows.iter().map(|row| row[4].as_u64().unwrap()).sum();
    assert_eq!(bytes, profile.samples.iter().map(|s| s.outstanding_bytes).sum::<u64>());
    let last: u64 = rows.iter().map(|row| row[9][19].as_u64().unwrap()).sum();
    assert_eq!(last, profile.samples.iter().map(|s| s.outstanding_objects).sum::<u64>());
    assert!(strings(&data).contains(&"[96 more stacks]"));

    let profile = many(1000, 500, 8);
    let data = embedded(&check(&page_of(&report, &profile, bounds)));
    assert_eq!(data["samples"].as_array().unwrap().len(), 81);
    assert!(strings(&data).contains(&"[more owners]"));
}

#[test]
fn a_huge_profile_makes_a_file_that_opens() {
    let report = sample::incident();
    for (owners, depth) in [(50, 30), (100_000, 120)] {
        let page = page_of(&report, &many(100_000, owners, depth), Bounds::default());
        assert!(page.len() < 10 << 20, "{} bytes", page.len());
        assert!(page.len() > 1 << 20, "{} bytes", page.len());
    }
}

#[test]
fn growth_has_a_mark_of_its_own() {
    let report = sample::incident();
    let mut profile = sample::profile(&report);
    for (sample, marks) in profile.samples.iter_mut().zip([(false, true), (true, true)]) {
        (sample.estimated, sample.growth_estimated) = marks;
    }
    let data = embedded(&check(&page_of(&report, &profile, Bounds::default())));
    assert_eq!((&data["samples"][0][7], &data["samples"][1][7]), (&2.into(), &3.into()));
}

#[test]
fn numbers_and_paths_come_back() {
    let report = sample::incident();
    let data = embedded(&check(&page(&report)));
    let row = &data["samples"][0];
    assert_eq!((&row[3], &row[4]), (&14_231.into(), &7_286_272.into()));
    let name = |frame: &Value| {
        let frame = &data["frames"][usize::try_from(frame.as_u64().unwrap()).unwrap()];
        data["strings"][usize::try_from(frame[1].as_u64().unwrap()).unwrap()].clone()
    };
    let mut path = Vec::new();
    let mut node = usize::try_from(row[2].as_u64().unwrap()).unwrap();
    while node != 0 {
        path.push(name(&data["nodes"]["frame"][node]));
        node = usize::try_from(data["nodes"]["parent"][node].as_u64().unwrap()).unwrap();
    }
    assert_eq!(path[0], "__kmalloc_noprof");
    assert_eq!(path.len(), 6);
    let allocators: Vec<Value> = data["allocators"].as_array().unwrap().iter().map(name).collect();
    assert_eq!(allocators, ["__kmalloc_noprof", "__kmalloc_cache_noprof"]);
    // Nothing of what is not outstanding is drawn.
    let mut profile = sample::profile(&report);
    profile.samples.push(Sample { rest: true, allocated_objects: 9, ..Sample::default() });
    let data = embedded(&check(&page_of(&report, &profile, Bounds::default())));
    assert_eq!(data["samples"].as_array().unwrap().len(), 2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_names_keep_the_page_well_formed(
        name in prop_oneof![
            any::<String>(),
            prop::collection::vec(prop::sample::select(&HOSTILE[..]), 1..4).prop_map(|all| all.concat()),
        ],
    ) {
        let (report, profile) = hostile(&name);
        let document = check(&page_of(&report, &profile, Bounds::default()));
        let data = embedded(&document);
        let safe = crate::report::sanitize::terminal(&name);
        let owner = if name.is_empty() { "pid 1165".into() } else { format!("{safe}[1165]") };
        prop_assert!(strings(&data).contains(&owner.as_str()));
    }
}

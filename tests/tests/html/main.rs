//! The HTML page in a real browser: what it shows, what it does when it is clicked, and what it does not
//! do whatever names it holds.

mod browser;
mod profiles;

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use kleak_tests::harness::{
    Cgroup, PATIENCE, Returned, Tracer, Workload, class_512_of_filters, require_live, settle,
};
use serde_json::json;

use browser::Browser;

const ENTER: char = '\u{e007}';
const ESCAPE: char = '\u{e00c}';
const UP: char = '\u{e013}';
const LEFT: char = '\u{e012}';
const RIGHT: char = '\u{e014}';

struct Page {
    browser: Browser,
    directory: tempfile::TempDir,
}

impl Page {
    fn path(&self) -> PathBuf {
        self.directory.path().join("page.html")
    }
}

/// A page of the incident, open.
async fn open() -> Result<Option<Page>> {
    let Some(browser) = Browser::start().await? else { return Ok(None) };
    let page = Page { browser, directory: tempfile::tempdir()? };
    profiles::write(&page.path(), &profiles::report()?, &profiles::incident())?;
    page.browser.open(&page.path()).await?;
    Ok(Some(page))
}

#[tokio::test]
async fn frames_can_be_pointed_at_and_zoomed_to() -> Result<()> {
    let Some(page) = open().await? else { return Ok(()) };
    let browser = &page.browser;
    browser.expect_text("#sum", "4.9 MiB").await?;
    browser.expect_text("#crumbs", "all").await?;
    // The largest is on the left: kubelet from 0 to 80 %, coredns to 95 %, interrupts to the end.
    browser.point(0.4, 1, false).await?;
    let tip = browser.text("#tooltip").await?;
    let lines: Vec<&str> = tip.lines().collect();
    assert_eq!(
        lines,
        [
            "[kubelet.service]",
            "pod, unit or cgroup",
            "4,096,000 bytes (3.9 MiB)",
            "8,000 objects",
            "80 % of slab memory",
            "growth 150 KiB/s",
        ]
    );
    browser.point(0.9, 1, false).await?;
    let tip = browser.text("#tooltip").await?;
    ensure!(tip.contains("[coredns-5d78c9869d-x2x7k]") && tip.contains("\n768,000 bytes"), "{tip}");
    ensure!(tip.contains("\n15 % of") && tip.contains("growth -1.0 KiB/s"), "{tip}");
    // What is counted is exact; a path that was sampled is not.
    ensure!(!tip.contains('~'), "{tip}");
    browser.point(0.9, 3, false).await?;
    let tip = browser.text("#tooltip").await?;
    ensure!(tip.starts_with("main.main\nuser function\n~768,000 bytes"), "{tip}");
    ensure!(tip.contains("estimated from a sample of the stacks"), "{tip}");

    browser.point(0.4, 1, true).await?;
    browser.expect_text("#crumbs", "all\n[kubelet.service]").await?;
    browser.expect_text("#sum", "3.9 MiB").await?;
    // Six of its eight thousand are messages, which now take three quarters.
    browser.point(0.74, 2, false).await?;
    ensure!(browser.text("#tooltip").await?.starts_with("entry_SYSCALL_64_after_hwframe"));
    browser.point(0.74, 4, false).await?;
    let tip = browser.text("#tooltip").await?;
    ensure!(
        tip.contains("__x64_sys_msgsnd") && tip.contains("75 % of the frame zoomed to"),
        "{tip}"
    );
    browser.point(0.76, 4, false).await?;
    ensure!(browser.text("#tooltip").await?.contains("sk_attach_filter"));

    browser.click("#reset").await?;
    browser.expect_text("#crumbs", "all").await?;
    ensure!(!browser.find("#reset").await?.is_displayed().await?);
    browser.point(0.97, 2, true).await?;
    browser.expect_text("#crumbs", "all\n[kernel]\nsoftirq").await?;
    browser.click("#crumbs li:nth-child(2) button").await?;
    browser.expect_text("#crumbs", "all\n[kernel]").await?;
    browser.press(ESCAPE).await?;
    browser.expect_text("#crumbs", "all").await?;
    browser.expect_peace().await?;
    page.browser.close().await
}

#[tokio::test]
async fn the_keyboard_does_it_all() -> Result<()> {
    let Some(page) = open().await? else { return Ok(()) };
    let browser = &page.browser;
    browser.ask("document.getElementById('graph').focus()").await?;
    let said =
        || browser.ask("return document.getElementById('status').textContent.split(' · ')[0]");
    for (key, name) in [
        (UP, "all"),
        (UP, "[kubelet.service]"),
        (RIGHT, "[coredns-5d78c9869d-x2x7k]"),
        (RIGHT, "[kernel]"),
        (RIGHT, "[kernel]"),
        (LEFT, "[coredns-5d78c9869d-x2x7k]"),
        (UP, "coredns-20417"),
        (UP, "main.main"),
    ] {
        browser.press(key).await?;
        assert_eq!(said().await?, name);
    }
    browser.press(ENTER).await?;
    browser
        .expect_text("#crumbs", "all\n[coredns-5d78c9869d-x2x7k]\ncoredns-20417\nmain.main")
        .await?;
    browser.press(ESCAPE).await?;
    browser.expect_text("#crumbs", "all").await?;
    browser.press('/').await?;
    assert_eq!(browser.ask("return document.activeElement.id").await?, "search");
    for key in "neigh".chars() {
        browser.press(key).await?;
    }
    browser.expect_text("#matched", "matched 5.0 % · 250 KiB").await?;
    browser.press(ESCAPE).await?;
    browser.expect_text("#matched", "").await?;
    // Each control can be reached, in the order of the page.
    let script = "return [...document.querySelectorAll('button, input, canvas, summary, a[href]')]\
                  .filter(e => e.checkVisibility() && e.tabIndex < 0).length";
    assert_eq!(browser.ask(script).await?, 0);
    browser.expect_peace().await?;
    page.browser.close().await
}

#[tokio::test]
async fn search_says_what_share_matches() -> Result<()> {
    let Some(page) = open().await? else { return Ok(()) };
    let browser = &page.browser;
    for (query, matched) in [
        ("load_msg", "matched 60 % · 2.9 MiB"),
        ("LOAD_MSG", "matched 60 % · 2.9 MiB"),
        // Each byte once, also where several frames of a path match.
        ("msg", "matched 60 % · 2.9 MiB"),
        ("kubelet", "matched 80 % · 3.9 MiB"),
        ("/^(load_msg|neigh_alloc)$/", "matched 65 % · 3.2 MiB"),
        ("/LOAD_MSG/", "matched 0 % · 0 B"),
        ("/LOAD_MSG/i", "matched 60 % · 2.9 MiB"),
        ("main.main", "matched ~15 % · 750 KiB"),
        ("nothing of the kind", "matched 0 % · 0 B"),
    ] {
        browser.write("#search", query).await?;
        browser.expect_text("#matched", matched).await?;
        browser.expect_text("#problem", "").await?;
    }
    browser.write("#search", "/(/").await?;
    let problem = browser.text("#problem").await?;
    ensure!(problem.contains("Invalid regular expression"), "{problem}");
    browser.expect_text("#matched", "").await?;

    // Tables are filtered by the same.
    browser.write("#search", "neigh").await?;
    browser.expect_text("#matched", "matched 5.0 % · 250 KiB").await?;
    assert_eq!(browser.count("#owners tbody tr").await?, 1);
    browser.expect_text("#stacks-count", "1 stack").await?;
    ensure!(browser.text("#stacks tbody").await?.contains("neigh_alloc < handle_softirqs"));
    // Of what is zoomed to.
    browser.write("#search", "load_msg").await?;
    browser.point(0.4, 1, true).await?;
    browser.expect_text("#matched", "matched 75 % · 2.9 MiB").await?;
    browser.expect_peace().await?;
    page.browser.close().await
}

#[tokio::test]
async fn measure_grouping_layout_and_books_switch() -> Result<()> {
    let Some(page) = open().await? else { return Ok(()) };
    let browser = &page.browser;
    browser.click("#measures [value=objects]").await?;
    browser.expect_text("#sum", "10,000 objects").await?;
    browser.click("#measures [value=growth]").await?;
    browser.expect_text("#sum", "150 KiB/s").await?;
    // Only kubelet grows: it takes the whole width, and what shrinks is said.
    browser.point(0.99, 1, false).await?;
    ensure!(browser.text("#tooltip").await?.starts_with("[kubelet.service]"));
    let notes = browser.text("#notes").await?;
    ensure!(notes.contains("what shrinks, by 1.0 KiB/s"), "{notes}");
    browser.point(0.99, 0, false).await?;
    let tip = browser.text("#tooltip").await?;
    ensure!(
        tip.contains("growth 149 KiB/s (150 KiB/s by what grows, less 1.0 KiB/s by what shrinks)"),
        "{tip}"
    );
    browser.click("#measures [value=bytes]").await?;
    browser.expect_text("#sum", "4.9 MiB").await?;

    for (grouping, name) in [
        ("process", "kubelet-1165"),
        ("cgroup", "[/system.slice/kubelet.service]"),
        ("cache", "[kmalloc-512]"),
        ("pod", "[kubelet.service]"),
    ] {
        browser.click(&format!("#groupings [value={grouping}]")).await?;
        browser.point(0.5, 1, false).await?;
        let tip = browser.text("#tooltip").await?;
        ensure!(tip.starts_with(name), "{grouping}: {tip}");
    }
    browser.click("#layouts [value=icicle]").await?;
    browser.point_icicle(0.5, 1, false).await?;
    ensure!(browser.text("#tooltip").await?.starts_with("[kubelet.service]"));
    browser.point_icicle(0.5, 9, false).await?;
    ensure!(browser.text("#tooltip").await?.starts_with("[kmalloc-512]"));
    browser.click("#layouts [value=flame]").await?;

    // Pages are never added to what is made of them.
    assert_eq!(browser.texts("#books button").await?, ["slab memory", "pages"]);
    browser.click("#books button:nth-child(2)").await?;
    browser.expect_text("#sum", "400 KiB").await?;
    browser.point(0.5, 2, false).await?;
    let tip = browser.text("#tooltip").await?;
    ensure!(tip.contains("pipe-writer-77") && tip.contains("100 % of pages"), "{tip}");
    assert_eq!(browser.count("#owners tbody tr").await?, 1);
    browser.expect_peace().await?;
    page.browser.close().await
}

#[tokio::test]
async fn tables_sort_and_owners_are_chosen() -> Result<()> {
    let Some(page) = open().await? else { return Ok(()) };
    let browser = &page.browser;
    let owners = async || browser.texts("#owners tbody .link").await;
    assert_eq!(owners().await?, ["kubelet[1165]", "coredns[20417]", "[softirq]"]);
    let cells = browser.texts("#owners tbody tr:first-child td").await?;
    assert_eq!(cells[1..6], ["kmalloc-512", "8,000", "3.9 MiB", "150 KiB/s", "80 %"]);
    browser.click("#owners th:nth-child(5) button").await?;
    assert_eq!(owners().await?, ["kubelet[1165]", "[softirq]", "coredns[20417]"]);
    browser.click("#owners th:nth-child(5) button").await?;
    assert_eq!(owners().await?, ["coredns[20417]", "[softirq]", "kubelet[1165]"]);
    let order = browser.find("#owners th:nth-child(5)").await?.attr("aria-sort").await?;
    assert_eq!(order.as_deref(), Some("ascending"));
    // Of what an owner has, growth is counted; among its stacks it is divided.
    let growth = browser.texts("#stacks tbody td:nth-child(5)").await?;
    assert_eq!(growth, ["~100 KiB/s", "50.0 KiB/s", "~-1.0 KiB/s", "0 B/s"]);
    browser.click("#stacks th:nth-child(3) button").await?;
    let objects = browser.texts("#stacks tbody td:nth-child(3)").await?;
    assert_eq!(objects, ["6,000", "2,000", "~1,500", "500"]);
    browser.click("#stacks th:nth-child(3) button").await?;
    let objects = browser.texts("#stacks tbody td:nth-child(3)").await?;
    assert_eq!(objects, ["500", "~1,500", "2,000", "6,000"]);

    browser.click("#owners tbody tr:first-child .link").await?;
    browser.expect_text("#only", "Only coredns[20417] · kmalloc-512 ✕").await?;
    browser.expect_text("#sum", "750 KiB").await?;
    browser.expect_text("#stacks-count", "1 stack").await?;
    browser.click("#stacks summary").await?;
    let stack = browser.text("#stacks pre").await?;
    ensure!(stack.starts_with("__kmalloc_cache_noprof\nkernfs_fop_open\n"), "{stack}");
    ensure!(stack.ends_with("\nos.(*File).Open\nmain.main"), "{stack}");
    browser.click("#stacks .copy").await?;
    browser.expect_text("#stacks .copy", "Copied").await?;
    browser.click("#only").await?;
    browser.expect_text("#sum", "4.9 MiB").await?;

    // A line for each owner, and axes that say what they measure.
    assert_eq!(browser.count("#chart polyline").await?, 3);
    let legend = browser.text("#chart .legend").await?;
    ensure!(legend.contains("kubelet[1165] 3.9 MiB"), "{legend}");
    let ticks = browser.texts("#chart .tick").await?;
    for tick in ["4 MiB", "20 s", "time since counting began"] {
        ensure!(ticks.iter().any(|text| text == tick), "{tick}: {ticks:?}");
    }
    browser.expect_peace().await?;
    page.browser.close().await
}

#[tokio::test]
async fn hostile_names_do_nothing() -> Result<()> {
    let Some(page) = open().await? else { return Ok(()) };
    let browser = &page.browser;
    let (report, profile) = profiles::hostile()?;
    profiles::write(&page.path(), &report, &profile)?;
    browser.open(&page.path()).await?;
    let title = browser.text("h1").await?;
    ensure!(title.contains("<script>alert(1)</script></script><script>"), "{title}");
    for grouping in ["pod", "process", "cgroup", "cache"] {
        browser.click(&format!("#groupings [value={grouping}]")).await?;
        // Over every frame of the lowest rows.
        for step in 0..16_u32 {
            browser.point(f64::from(step) / 16.0 + 0.03, 1 + step as usize % 3, false).await?;
            ensure!(!browser.text("#tooltip").await?.is_empty());
        }
    }
    browser.write("#search", "<img").await?;
    browser.expect_text("#owners-count", "1 row").await?;
    browser.click("#owners tbody .link").await?;
    browser.point(0.5, 1, true).await?;
    browser.click("#stacks summary").await?;
    ensure!(browser.text("#stacks pre").await?.contains("<img src=x onerror=alert(3)>"));
    assert_eq!(browser.count("img, body script:not([type]) ~ script").await?, 0);
    assert_eq!(browser.count("script").await?, 2);
    browser.expect_peace().await?;
    // Should something get in after all, the policy stops it.
    let script = "const s = document.createElement('script'); s.textContent = 'window.got = 1'; \
                  document.body.append(s); return window.got === undefined";
    assert_eq!(browser.ask(script).await?, true);
    ensure!(browser.expect_peace().await.is_err(), "a violation is logged");
    page.browser.close().await
}

#[tokio::test]
async fn without_scripts_the_answer_can_be_read() -> Result<()> {
    let Some(page) = open().await? else { return Ok(()) };
    let browser = &page.browser;
    let mut report = profiles::report()?;
    let row = json!({
        "owner": report.verdict.owner, "cache": "kmalloc-512", "allocated_objects": 9000,
        "freed_objects": 1000, "outstanding_objects": 8000, "outstanding_bytes": 4_096_000,
        "requested_bytes": 4_000_000, "unfollowed_objects": 0, "standard_error_objects": 0,
        "estimated": false, "share": 0.8, "growth_bytes_per_s": 153_600.0, "oldest_s": 19.0,
        "trend": [], "stacks": [],
    });
    report.owners.push(serde_json::from_value(row)?);
    profiles::write(&page.path(), &report, &profiles::incident())?;
    browser.without_scripts().await?;
    browser.open(&page.path()).await?;
    ensure!(browser.text("h1").await?.starts_with("kubelet (pid 1165"));
    ensure!(browser.text("#owners tbody").await?.contains("8,000"));
    ensure!(browser.text(".warnings").await?.contains("114 missed frees"));
    ensure!(!browser.find("#picture").await?.is_displayed().await?);
    ensure!(!browser.find("#h-stacks").await?.is_displayed().await?);
    page.browser.close().await
}

#[tokio::test]
async fn an_empty_report_says_so() -> Result<()> {
    let Some(page) = open().await? else { return Ok(()) };
    let browser = &page.browser;
    profiles::write(
        &page.path(),
        &profiles::report()?,
        &kleak::report::profile::Profile::default(),
    )?;
    browser.open(&page.path()).await?;
    ensure!(browser.text(".nothing").await?.starts_with("Nothing was left"));
    ensure!(!browser.find("#picture").await?.is_displayed().await?);
    browser.expect_peace().await?;

    // Owners of what was freed have rows, which the script has nothing to replace by.
    let mut report = profiles::report()?;
    report.owners = vec![profiles::freed()?];
    profiles::write(&page.path(), &report, &kleak::report::profile::Profile::default())?;
    browser.open(&page.path()).await?;
    ensure!(browser.text(".nothing").await?.starts_with("Nothing was left"));
    ensure!(browser.text("#owners tbody").await?.contains("kubelet[1165]"));
    ensure!(browser.text("#owners thead").await?.contains("Share"));

    // A window of no length has axes all the same.
    let (mut report, mut profile) = (profiles::report()?, profiles::incident());
    report.window_s = 0.0;
    for at in &mut profile.step_s {
        *at = 0.0;
    }
    profiles::write(&page.path(), &report, &profile)?;
    browser.open(&page.path()).await?;
    let line = browser.find("#chart polyline").await?.attr("points").await?;
    ensure!(line.as_ref().is_some_and(|line| !line.contains("NaN")), "{line:?}");
    browser.expect_peace().await?;
    page.browser.close().await
}

#[tokio::test]
async fn twenty_thousand_stacks_do_not_freeze_it() -> Result<()> {
    let Some(page) = open().await? else { return Ok(()) };
    let browser = &page.browser;
    // Most of 20,000 are too narrow to be drawn; of 3,500 nearly all are drawn, frame by frame.
    for (stacks, least) in [(20_000, 500), (3_500, 40_000)] {
        profiles::write(&page.path(), &profiles::report()?, &profiles::huge(stacks))?;
        let size = std::fs::metadata(page.path())?.len();
        browser.open(&page.path()).await?;
        let longest = async |name: &str| {
            let script = format!(
                "return Math.max(...performance.getEntriesByName('{name}').map(e => e.duration))"
            );
            browser.ask(&script).await?.as_f64().context("a duration")
        };
        browser.write("#search", "function_1").await?;
        browser.find("#matched:not(:empty)").await?;
        browser.click("#measures [value=objects]").await?;
        browser.click("#layouts [value=flame]").await?;
        let (build, draw) = (longest("kleak:build").await?, longest("kleak:draw").await?);
        let frames = browser.find("#graph").await?.attr("data-frames").await?;
        let frames: u64 = frames.context("frames drawn")?.parse()?;
        println!("{size} bytes; built in {build:.0} ms; {frames} frames drawn in {draw:.0} ms");
        ensure!(frames >= least, "{frames} frames of {stacks} stacks");
        ensure!(size < 10 << 20, "{size} bytes");
        ensure!(build < 5000.0 && draw < 2000.0, "{build} ms and {draw} ms");
        browser.expect_peace().await?;
    }
    page.browser.close().await
}

/// The whole way, from a trace of this machine to the browser.
#[tokio::test]
async fn a_trace_of_this_machine_makes_a_page() -> Result<()> {
    let Some(_live) = require_live()? else { return Ok(()) };
    let Some(page) = open().await? else { return Ok(()) };
    let cache = class_512_of_filters()?;
    settle(cache)?;
    let _returned = Returned::watch(cache)?;
    // They go last, when nobody is in them any more.
    let [service, exporter, shipper] = services()?;
    let mut kubelet = Workload::start(&["--comm", "kubelet", "kubelet", "--dials", "48"])?;
    // Smaller ones beside it: many paths of a process, three of another, and a softirq's.
    let mut others = [
        Workload::start(&["--comm", "node-exporter", "walks", "--count", "2500"])?,
        Workload::start(&["--comm", "log-shipper", "paths", "--count", "1200"])?,
        Workload::start(&["arp", "--count", "500"])?,
    ];
    service.join(kubelet.pid())?;
    exporter.join(others[0].pid())?;
    shipper.join(others[1].pid())?;

    let folded = page.directory.path().join("folded");
    let [html, folded] = [page.path(), folded].map(|path| path.display().to_string());
    let tracer = Tracer::start(&[
        "--kind",
        "kmalloc,cache",
        "--user-stacks",
        "--duration",
        "12s",
        "--html",
        &html,
        "--folded",
        &folded,
    ])?;
    kubelet.order("go")?;
    others.iter_mut().try_for_each(|other| other.order("go"))?;
    tracer.finish_within(Duration::from_secs(12) + PATIENCE)?.expect(0, &[])?;
    kubelet.order("stop")?;

    let browser = &page.browser;
    browser.open(&page.path()).await?;
    ensure!(browser.text("h1").await?.contains("kubelet"), "{}", browser.text("h1").await?);
    let first = browser.text("#owners tbody tr .name").await?;
    ensure!(first.starts_with(&format!("kubelet[{}]\nkubelet.service", kubelet.pid())), "{first}");
    // To the byte what the other formats say.
    let lines = std::fs::read_to_string(&folded)?;
    let bytes: u64 =
        lines.lines().filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum();
    browser.ask("document.getElementById('graph').focus()").await?;
    browser.press('\u{e011}').await?;
    let said = browser.ask("return document.getElementById('status').textContent").await?;
    let said = said.as_str().context("a status")?.replace(',', "");
    ensure!(said.contains(&format!(" {bytes} bytes ")), "{bytes} in folded stacks; {said}");
    browser.write("#search", "kubelet").await?;
    browser.press(ENTER).await?;
    let matched = browser.text("#matched:not(:empty)").await?;
    let share = matched.split([' ', '~']).find_map(|word| word.parse::<f64>().ok());
    ensure!(share > Some(50.0), "{matched}");
    browser.expect_peace().await?;
    if let Some(directory) = pictures() {
        browser.write("#search", "").await?;
        browser.press(ESCAPE).await?;
        browser.ask("document.activeElement.blur(); scrollTo(0, 0)").await?;
        std::fs::write(directory.join("page.png"), browser.screenshot().await?)?;
    }
    page.browser.close().await
}

fn services() -> Result<[Cgroup; 3]> {
    let make = |name| Cgroup::make(&format!("system.slice/{name}.service"));
    Ok([make("kubelet")?, make("node-exporter")?, make("log-shipper")?])
}

/// Where pictures of pages are wanted, to look at: `KLEAK_PICTURES=DIR`.
fn pictures() -> Option<PathBuf> {
    std::env::var_os("KLEAK_PICTURES").map(PathBuf::from)
}

#[tokio::test]
async fn it_is_drawn_in_the_light_in_the_dark_and_on_paper() -> Result<()> {
    let Some(page) = open().await? else { return Ok(()) };
    let browser = &page.browser;
    let mut colours = Vec::new();
    for (name, media, scheme) in
        [("light", "screen", "light"), ("dark", "screen", "dark"), ("paper", "print", "dark")]
    {
        browser.emulate(media, scheme).await?;
        // A pixel of the root's frame, and what is behind the page.
        let script = "const graph = document.getElementById('graph'); \
                      const pen = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true}); \
                      pen.drawImage(graph, 9, graph.height - 5, 1, 1, 0, 0, 1, 1); \
                      return [[...pen.getImageData(0, 0, 1, 1).data].join(), \
                              getComputedStyle(document.body).backgroundColor]";
        colours.push(browser.ask(script).await?);
        let picture = browser.screenshot().await?;
        ensure!(picture.starts_with(b"\x89PNG"), "{name}");
        if let Some(directory) = pictures() {
            std::fs::write(directory.join(format!("{name}.png")), &picture)?;
        }
    }
    ensure!(colours[0] != colours[1] && colours[0] == colours[2], "{colours:?}");
    browser.expect_peace().await?;
    page.browser.close().await
}

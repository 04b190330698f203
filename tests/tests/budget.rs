//! What kleak costs, and how it keeps that under a budget.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result};
use kleak_tests::harness::{
    Report, Tracer, Workload, class_512_of_messages, not_applicable, on_this_machine, require_live,
    run, shout,
};
use serde_json::Value;

/// Messages that nobody receives.
const LEAKED: u64 = 20_000;

/// Processes that send and receive some 50,000 times a second each once they are told to: to follow that
/// takes half as much again as a budget of 2 %, and to find of each event that it is not to be followed a
/// third of it. At full speed the latter alone may take all of it, and kleak says so.
fn hammers() -> Result<Vec<Workload>> {
    let one = || Workload::start(&["--comm", "hammer", "churn", "--pairs", "0", "--rest-ms", "1"]);
    (0..3).map(|_| one()).collect()
}

fn share(report: &Report, pointer: &str) -> Option<f64> {
    report.0.pointer(pointer).and_then(Value::as_f64)
}

/// Leaks a known number of messages in the midst of churn, half of them before kleak can have done
/// anything about what that costs.
fn leak_in_churn(
    options: &[&str],
    settled: impl Fn(&mut Tracer) -> Result<()>,
) -> Result<(Report, String, u32)> {
    let mut hammers = hammers()?;
    let mut leaker =
        Workload::start(&["--comm", "leaker", "msg", "--count", "20000", "--capacity", "20000"])?;
    let mut tracer = Tracer::json(options)?;
    // Idle when it attaches.
    sleep(Duration::from_secs(1));
    for hammer in &mut hammers {
        hammer.order("go")?;
    }
    leaker.order("go 10000")?;
    assert_eq!(leaker.done("count")?, LEAKED / 2);
    settled(&mut tracer)?;
    leaker.order("go 10000")?;
    assert_eq!(leaker.done("count")?, LEAKED / 2);
    // What it costs in the end is what it has cost for the last five seconds.
    sleep(on_this_machine(Duration::from_secs(7)));
    let finished = tracer.interrupt()?.expect(0, &[])?;
    let report = Report::parse(&finished)?;
    for hammer in &mut hammers {
        hammer.order("stop")?;
        assert!(hammer.done("pairs")? > 0);
    }
    Ok((report, finished.stderr, leaker.pid()))
}

#[test]
fn an_idle_machine_that_is_hammered_later_stays_inside_the_budget() -> Result<()> {
    let Some(_live) = require_live()? else { return Ok(()) };
    let cache = class_512_of_messages()?;
    let (report, said, leaker) = leak_in_churn(&["--budget", "2%"], |tracer| {
        // No sooner than it has to, and within patience.
        tracer.await_line("budget: kleak takes")
    })?;

    assert!(said.contains("following objects at 1 in"), "{said}");
    let sampling = &report.0["sampling"];
    let fraction = sampling["fraction"].as_f64().with_context(|| format!("{:#}", report.0))?;
    assert!(fraction > 0.0 && fraction <= 0.5, "{sampling:#}");
    assert!(sampling["since_s"].as_f64().is_some_and(|since| since > 0.0), "{sampling:#}");
    assert!(
        sampling["reason"].as_str().is_some_and(|why| why.contains("budget of 2")),
        "{sampling:#}"
    );

    let row = report.row(leaker, cache)?.context("no row of the leaker")?;
    assert_eq!(row["estimated"], true);
    let estimate = row["outstanding_objects"].as_f64().context("a number")?;
    // Of n objects m are seen, of binomial distribution: the estimate m / f has this deviation.
    let deviation = (LEAKED as f64 * (1.0 - fraction) / fraction).sqrt();
    let off = (estimate - LEAKED as f64).abs();
    assert!(off <= 5.0 * deviation, "{estimate} ± {deviation} of {LEAKED}, fraction {fraction}");
    let stated = row["standard_error_objects"].as_f64().context("a number")?;
    assert!((stated / deviation - 1.0).abs() < 0.5, "{stated}, not {deviation}");
    assert_eq!(report.0["verdict"]["owner"]["pid"], leaker, "{:#}", report.0["verdict"]);
    let summary = report.word("/verdict/summary")?;
    assert!(summary.contains("estimated from 1 in"), "{summary}");

    let measured = share(&report, "/cost/measured_s").context("measured_s")?;
    let window = share(&report, "/window_s").context("window_s")?;
    if measured > window * 0.15 {
        // Then each run costs the clock's readings too, several times what finding takes that an event is
        // not to be followed: with that kleak need not be able to keep this budget.
        shout(
            "somebody else had the kernel measure BPF programs: what a budget comes to is not tested",
        );
        return Ok(());
    }
    let recent = share(&report, "/cost/recent_cpu_share").context("not measured")?;
    assert!(recent < 0.02, "{recent}: {:#}\n{said}\n{:#}", report.0["cost"], report.0["notes"]);
    Ok(())
}

#[test]
fn without_a_budget_every_object_is_followed_and_its_cost_is_known() -> Result<()> {
    let Some(_live) = require_live()? else { return Ok(()) };
    let cache = class_512_of_messages()?;
    let (report, said, leaker) = leak_in_churn(&[], |_| Ok(()))?;

    assert!(!said.contains("budget"), "{said}");
    assert!(report.0["sampling"].is_null(), "{:#}", report.0["sampling"]);
    let row = report.row(leaker, cache)?.context("no row of the leaker")?;
    assert_eq!((&row["outstanding_objects"], &row["estimated"]), (&LEAKED.into(), &false.into()));
    assert_eq!(row["standard_error_objects"], 0);

    let cost = &report.0["cost"];
    for field in ["bpf_ns_per_event", "bpf_cpu_share", "user_cpu_share", "recent_cpu_share"] {
        let value = cost[field].as_f64().with_context(|| format!("{field} of {cost:#}"))?;
        assert!(value > 0.0, "{field}: {cost:#}");
        assert!(field == "bpf_ns_per_event" || value <= 1.0, "{field}: {cost:#}");
    }
    // Windows of 20 ms about a second apart, and some more at first.
    let measured = cost["measured_s"].as_f64().context("measured_s")?;
    let window = report.0["window_s"].as_f64().context("window_s")?;
    if std::fs::read_to_string("/proc/sys/kernel/bpf_stats_enabled")?.trim() == "0" {
        assert!(measured > 0.0 && measured < window / 2.0, "{measured} of {window} s");
    }
    assert!(report.number("/cost/bpf_runs")? > 0, "{cost:#}");
    assert!(report.number("/cost/user_rss_bytes")? > 1 << 20, "{cost:#}");
    Ok(())
}

#[test]
fn a_budget_that_is_wide_enough_changes_nothing() -> Result<()> {
    let Some(_live) = require_live()? else { return Ok(()) };
    let cache = class_512_of_messages()?;
    let mut workload = Workload::start(&["msg", "--count", "5000"])?;
    let tracer = Tracer::json(&["--budget", "100%"])?;
    assert_eq!(workload.go("count")?, 5000);
    let report = tracer.report()?;

    assert!(report.0["sampling"].is_null());
    assert_eq!(report.counts(workload.pid(), cache)?.outstanding, 5000);
    Ok(())
}

#[test]
fn pages_are_thinned_out_by_whole_blocks() -> Result<()> {
    let Some(_live) = require_live()? else { return Ok(()) };
    if !kleak_tests::harness::has_btf() {
        not_applicable("without BTF nobody knows how large a struct page is");
        return Ok(());
    }
    let mut hammers = hammers()?;
    let mut pipes = Workload::start(&["pipes", "--count", "200"])?;
    let options = ["--kind", "page,kmalloc", "--format", "json", "--budget", "1%"];
    let mut tracer = Tracer::start(&options)?;
    for hammer in &mut hammers {
        hammer.order("go")?;
    }
    tracer.await_line("budget: kleak takes")?;
    let made = pipes.go("pages")?;
    sleep(on_this_machine(Duration::from_secs(4)));
    let report = Report::parse(&tracer.interrupt()?.expect(0, &[])?)?;

    assert!(made > 0);
    let rows = report.owners()?;
    let page = |row: &&Value| row["cache"].as_str().is_some_and(|name| name.starts_with("page "));
    if !report.0["sampling"].is_null() {
        for row in rows.iter().filter(page) {
            assert_eq!(
                (&row["estimated"], &row["standard_error_objects"]),
                (&true.into(), &Value::Null)
            );
        }
    }
    Ok(())
}

#[test]
fn budgets_that_make_no_sense() -> Result<()> {
    if !kleak_tests::harness::require_binary()? {
        return Ok(());
    }
    for budget in ["2", "0.02", "0%", "-1%", "101%", "much", ""] {
        let finished = run(&["trace", "--size", "512", "--duration", "1s", "--budget", budget])?;
        finished.expect(2, &["--budget", "percent"]).with_context(|| budget.to_owned())?;
    }
    Ok(())
}

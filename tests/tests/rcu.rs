//! Objects that the kernel frees by RCU or in bulk, which no tracepoint shows: gone when they are
//! gone where their frees can be followed, never a culprit where they cannot, and counted to the last
//! one as long as they are there.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};
use kleak_tests::harness::{
    Report, Tracer, Workload, in_use, require_caches, require_live, settle,
};

const COUNT: u64 = 1000;

/// A workload, the functions of the kernel that allocate its objects (parts of their names: it
/// depends on the compiler which of them are inlined), and how many caches they lie in at the least.
struct Kind {
    workload: &'static str,
    makers: &'static [&'static str],
}

const TIMERFD: Kind = Kind { workload: "timerfd", makers: &["timerfd_create"] };
const EPOLL: Kind = Kind { workload: "epoll", makers: &["epoll_ctl", "ep_insert"] };
const TIMERS: Kind = Kind { workload: "timers", makers: &["timer_create", "alloc_posix_timer"] };
const ACL: Kind = Kind { workload: "acl", makers: &["posix_acl"] };
const MCAST: Kind = Kind { workload: "mcast", makers: &["ip_mc_inc_group", "sock_kmalloc"] };

/// A workload of this kind, ready, or nothing where it cannot run.
fn start(kind: &Kind, more: &[&str]) -> Result<Option<Workload>> {
    if !require_caches()? {
        return Ok(None);
    }
    let count = COUNT.to_string();
    let name = format!("rcu-{}", kind.workload);
    let words = ["--comm", &name, kind.workload, "--count", &count];
    Workload::start_if_able(&[&words, more].concat())
}

/// Follows all that a process allocates, by the function that does.
fn by_site(pid: u32) -> Result<Tracer> {
    let pid = pid.to_string();
    let words = ["--kind", "kmalloc,cache", "--by", "site", "--pid", &pid];
    Tracer::start(&[&words[..], &["--format", "json", "--top", "1000"]].concat())
}

/// Follows everybody.
fn by_process(more: &[&str]) -> Result<Tracer> {
    let words = ["--kind", "kmalloc,cache", "--format", "json", "--top", "1000"];
    Tracer::start(&[&words, more].concat())
}

/// The report has to say why the frees of these objects are missing.
fn says_why(report: &Report) -> Result<()> {
    let said = report.notes_say(&["freed by RCU", "followed"]);
    ensure!(said, "no note says that these are freed by RCU: {:#}", report.0["notes"]);
    Ok(())
}

fn gone(kind: &Kind) -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    let Some(mut workload) = start(kind, &[])? else {
        return Ok(());
    };
    let tracer = by_site(workload.pid())?;
    assert_eq!(workload.go("count")?, COUNT);
    assert_eq!(workload.drain()?, COUNT);
    // Some are first handed to RCU by a callback of RCU's, which shows nowhere outside.
    sleep(Duration::from_secs(2));
    let report = tracer.report()?;

    let made = report.of_sites(kind.makers)?;
    ensure!(!made.is_empty(), "nothing was seen of {:?}: {:#}", kind.makers, report.0);
    for (cache, counts) in &made {
        ensure!(counts.allocated >= COUNT, "{cache}: {counts:?} of {COUNT}");
        if report.follows_rcu() {
            ensure!(counts.outstanding == 0, "{cache}: {counts:?} of {COUNT}, none is left");
        }
    }
    ensure!(report.0["verdict"]["growing"] == false, "a culprit: {:#}", report.0["verdict"]);
    if !report.follows_rcu() {
        let left = made.iter().map(|(_, counts)| counts.outstanding).sum::<u64>();
        ensure!(left > 0, "it follows after all? {made:?}: {:#}", report.0["mode"]);
        says_why(&report)?;
    }
    Ok(())
}

fn kept(kind: &Kind) -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    let Some(mut workload) = start(kind, &[])? else {
        return Ok(());
    };
    let tracer = by_site(workload.pid())?;
    assert_eq!(workload.go("count")?, COUNT);
    sleep(Duration::from_secs(1));
    let report = tracer.report()?;

    let made = report.of_sites(kind.makers)?;
    ensure!(!made.is_empty(), "nothing was seen of {:?}: {:#}", kind.makers, report.0);
    for (cache, counts) in &made {
        let all = counts.outstanding == COUNT && counts.allocated == COUNT && counts.freed == 0;
        ensure!(all, "{cache}: {counts:?}, and {COUNT} are there: {made:?}");
    }
    Ok(())
}

/// A process that makes and destroys, as normal programs do, beside nothing that grows.
fn churned(kind: &Kind) -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    let Some(mut workload) = start(kind, &["--churn", "--rest-ms", "200"])? else {
        return Ok(());
    };
    let tracer = by_process(&[])?;
    workload.order("go")?;
    sleep(Duration::from_secs(10));
    workload.order("stop")?;
    let made = workload.done("count")?;
    ensure!(made >= 5 * COUNT, "it made only {made}");
    let pid = workload.pid();
    let report = tracer.report()?;

    ensure!(!report.blames(pid), "churn is a culprit: {:#}", report.0["verdict"]);
    let seen = report.rows_of(pid)?.into_iter().any(|row| {
        let allocated = row["allocated_objects"].as_u64();
        allocated >= Some(made)
    });
    ensure!(seen, "nothing was seen of {made} objects: {:#?}", report.rows_of(pid)?);
    if !report.follows_rcu() {
        says_why(&report)?;
    }
    Ok(())
}

/// A process that keeps what it makes, beside one that makes and destroys ten times as much in the
/// same cache.
fn told_apart(leak: &str, churn: &Kind, cache: &str) -> Result<()> {
    let Some(mut churner) = start(churn, &["--churn", "--rest-ms", "200"])? else {
        return Ok(());
    };
    let Some(mut leaker) = Workload::start_if_able(&["--comm", "leaker", leak, "--count", "200"])?
    else {
        return Ok(());
    };
    settle(cache)?;
    let before = in_use(cache)?;
    let tracer = by_process(&[])?;
    churner.order("go")?;
    let mut kept = 0;
    for _ in 0..25 {
        kept += leaker.go("count")?;
        sleep(Duration::from_millis(500));
    }
    let report = tracer.report()?;
    let grown = in_use(cache)?.saturating_sub(before);
    churner.order("stop")?;
    let churned = churner.done("count")?;
    ensure!(churned >= 2 * kept, "the churn is too little: {churned} beside {kept}");

    let counts = report.counts(leaker.pid(), cache)?;
    ensure!(counts.outstanding >= kept, "{counts:?} of {kept} in {cache}: {:#}", report.0);
    let verdict = &report.0["verdict"];
    ensure!(!report.blames(churner.pid()), "the wrong one, of {grown} in use: {verdict:#}");
    ensure!(report.blames(leaker.pid()), "not the leaker, {kept} kept: {verdict:#}");
    assert_eq!(verdict["owner"]["comm"], "leaker");
    Ok(())
}

macro_rules! kinds {
    ($($name:ident: $kind:expr;)*) => {$(
        mod $name {
            #[test]
            fn made_and_destroyed_leave_nothing() -> super::Result<()> {
                super::gone(&$kind)
            }

            #[test]
            fn kept_are_counted_to_the_last() -> super::Result<()> {
                super::kept(&$kind)
            }

            #[test]
            fn made_and_destroyed_for_long_are_no_culprit() -> super::Result<()> {
                super::churned(&$kind)
            }
        }
    )*};
}

kinds! {
    timerfds: super::TIMERFD;
    epoll_items: super::EPOLL;
    posix_timers: super::TIMERS;
    access_lists: super::ACL;
    multicast_groups: super::MCAST;
}

/// The leak is of another kind, whose frees show.
#[test]
fn a_leak_beside_churn_in_its_cache() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    told_apart("keys", &TIMERFD, "kmalloc-256")
}

/// The leak is of the same kind: only one who sees their frees can be sure.
#[test]
fn a_leak_beside_churn_of_its_kind() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    told_apart("timerfd", &TIMERFD, "kmalloc-256")
}

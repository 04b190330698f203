//! `kleak doctor`: where a node's memory has gone, from files alone, and which tool answers next.
//!
//! Flow: `gather` reads files into [`facts`]; [`books`] puts memory as the kernel, kubelet and
//! `free` see it together; `findings` are rules over both; [`report`] is the result, which [`text`]
//! prints. Everything past `gather` is pure.

pub mod books;
pub mod facts;
mod findings;
mod gather;
mod kubelet;
mod owner;
pub mod report;
mod summary;
pub mod text;

use std::io::{self, Write as _};

use self::report::DoctorReport;
use crate::{
    cli::{DoctorArgs, ReportFormat},
    export::output::Output,
    host::Host,
    report::{json, text::Style},
    trace::{Failure, Outcome, plan::host_at},
};

/// Runs `kleak doctor`.
///
/// Errors: see [`Failure`].
pub fn run(args: &DoctorArgs) -> Result<Outcome, Failure> {
    let host = match &args.root {
        Some(root) if !root.is_dir() => {
            return Err(Failure::Usage(format!(
                "--root {}: no such directory; give one that holds proc, sys and dev/kmsg of the \
                 machine",
                root.display()
            )));
        }
        Some(root) => Host::new(root),
        None => host_at(&args.host_root)?,
    };
    let output = Output::create(&args.output)?;
    let report = examine(&host).ok_or_else(|| nothing(&host))?;
    let style = Style::of(&args.output, 0);
    output.deliver("the report", |output| write(&report, args.format, &style, output))?;
    Ok(Outcome::Done)
}

/// Examines a machine; `None` when nothing about its memory could be read.
#[must_use]
pub fn examine(host: &Host) -> Option<DoctorReport> {
    let facts = gather::gather(host);
    let empty = facts.meminfo.is_none()
        && facts.caches.is_none()
        && facts.processes.is_empty()
        && facts.cgroups.is_none()
        && facts.log.is_none();
    (!empty).then(|| conclude(&facts))
}

/// What follows from facts. Pure.
#[must_use]
pub fn conclude(facts: &facts::Facts) -> DoctorReport {
    let memory = books::of(facts);
    let context = findings::Context::new(facts, &memory);
    let findings = findings::all(&context);
    summary::report(&context, findings)
}

fn nothing(host: &Host) -> Failure {
    let root = host.root().display();
    Failure::Cannot(format!(
        "nothing about memory could be read below {root}: neither proc/meminfo nor proc/slabinfo, \
         processes, cgroups or a kernel log; save a node with:\n  mkdir -p node/proc && cp \
         /proc/meminfo /proc/slabinfo node/proc/"
    ))
}

fn write(
    report: &DoctorReport,
    format: ReportFormat,
    style: &Style,
    output: &mut Output,
) -> io::Result<()> {
    match format {
        ReportFormat::Text => text::render(report, style, output)?,
        ReportFormat::Json => json::write_pretty(report, output)?,
    }
    output.flush()
}

#[cfg(test)]
mod incidents;
#[cfg(test)]
mod tests;

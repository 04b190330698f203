//! `kleak cgroups`: how many memory cgroups there are, how many of them are dying, who makes them,
//! what holds the dying ones, and how far it is to the limit.
//!
//! A cgroup's directory may be gone and the cgroup still there: every controller's state holds it
//! until it is freed itself, and the memory controller's is held by what is charged to it. From
//! removal (`rmdir`) to release it is dying.
//!
//! Flow: events ([`life`]) and files ([`census`]) make a [`snapshot`], which [`analyse`] turns into
//! a [`report`], which [`text`] prints.

pub mod analyse;
pub mod census;
pub mod life;
pub(crate) mod limit;
mod places;
pub mod report;
#[cfg(test)]
pub(crate) mod sample;
mod sentence;
pub mod snapshot;
pub mod text;
mod watch;

use std::{
    io::{self, Write as _},
    path::Path,
};

use self::report::CgroupsReport;
use crate::{
    cli::{CgroupsArgs, CgroupsFormat},
    export::output::Output,
    host::{
        Host,
        cgroup::{CgroupLayout, MemoryVersion},
    },
    report::{json, text::Style},
    trace::{Failure, Outcome, plan::host_at, signals::Signals},
};

/// Where the memory controller's cgroups are.
struct Place {
    host: Host,
    layout: CgroupLayout,
    version: MemoryVersion,
    mount: String,
}

impl Place {
    fn find(host_root: &Path) -> Result<Self, Failure> {
        let host = host_at(host_root)?;
        let layout = CgroupLayout::detect(&host)?;
        let missing = || {
            Failure::Cannot(
                "the memory controller's cgroups are not mounted here, so there is nothing to \
                 count; mount them with:\n  mount -t cgroup2 cgroup2 /sys/fs/cgroup"
                    .to_owned(),
            )
        };
        let version = layout.memory_version().ok_or_else(missing)?;
        let mount = layout.memory_mount.as_ref().ok_or_else(missing)?;
        let mount = mount.to_string_lossy().into_owned();
        Ok(Self { host, layout, version, mount })
    }
}

/// Runs `kleak cgroups`.
///
/// Errors: see [`Failure`].
pub async fn run(args: &CgroupsArgs) -> Result<Outcome, Failure> {
    let place = Place::find(&args.host_root)?;
    let output = Output::create(&args.output)?;
    let mut signals = Signals::listen()?;
    let snapshot = match watch::run(&place, args.duration, &mut signals).await? {
        watch::End::Window(snapshot) => snapshot,
        watch::End::Signal(number) => return Ok(Outcome::Signal(number)),
    };
    // The sentence is of all rows, and so is the text's "more" line.
    let json_top = args.top.filter(|_| args.format == CgroupsFormat::Json);
    let report = analyse::analyse(&snapshot, json_top.map(|top| top as usize));
    let style = Style::of(&args.output, args.top.unwrap_or(10) as usize);
    output.deliver("the report", |output| write(&report, args.format, &style, output))?;
    Ok(Outcome::Done)
}

fn write(
    report: &CgroupsReport,
    format: CgroupsFormat,
    style: &Style,
    output: &mut Output,
) -> io::Result<()> {
    match format {
        CgroupsFormat::Text => text::render(report, style, output)?,
        CgroupsFormat::Json => json::write_pretty(report, output)?,
    }
    output.flush()
}

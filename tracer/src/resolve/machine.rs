//! What the machine calls itself.

use crate::{
    host::{Host, cgroup::CgroupLayout, system},
    report,
};

/// The machine as reports name it; empty where it does not say.
#[must_use]
pub fn of(host: &Host, layout: &CgroupLayout) -> report::Host {
    let uname = system::uname(host).ok();
    report::Host {
        kernel: uname.as_ref().map(|uname| uname.release.clone()).unwrap_or_default(),
        machine: uname.as_ref().and_then(|uname| uname.machine.clone()).unwrap_or_default(),
        cgroup: layout.mode.map(|mode| mode.as_str().to_owned()),
        hostname: uname.map(|uname| uname.hostname).unwrap_or_default(),
    }
}

//! The line that says that counting has begun, with what, and in how much memory.

use super::plan::Plan;
use crate::probe::{Following, FreeMode, Probe};

/// Scripts wait for its beginning, `attached:`.
pub(super) fn line(plan: &Plan, probe: &Probe) -> String {
    let filter = &plan.filter;
    let sizes = match filter.size_classes.as_slice() {
        [] => String::new(),
        [one] => format!("kmalloc-{}", short(*one)),
        list if list.len() <= 4 => {
            let names: Vec<String> = list.iter().map(|size| short(*size)).collect();
            format!("kmalloc of {}", names.join(", "))
        }
        list => format!("kmalloc, {} size classes", list.len()),
    };
    let by_name = !filter.caches.is_empty() || filter.kinds.iter().any(|kind| kind == "cache");
    let caches = if by_name {
        let names =
            if filter.caches.is_empty() { "*".to_owned() } else { filter.caches.join(", ") };
        format!("caches {names}")
    } else {
        String::new()
    };
    let followed = |kind: &str, what: &str| {
        let named = filter.kinds.iter().any(|name| name == kind);
        if named { what.to_owned() } else { String::new() }
    };
    let others = [followed("page", "pages"), followed("percpu", "per-CPU memory")];
    let what: Vec<String> =
        [sizes, caches].into_iter().chain(others).filter(|part| !part.is_empty()).collect();
    format!(
        "attached: {}; up to {} objects in {:.0} MiB of kernel memory; {}kleak itself is left out",
        what.join(" and "),
        plan.config.max_objects,
        probe.map_bytes() as f64 / f64::from(1 << 20),
        // Pages and per-CPU memory are freed in other ways.
        if plan.config.slab() { frees_line(probe.free_mode()) + "; " } else { String::new() },
    )
}

/// How frees by RCU and in bulk are followed.
fn frees_line(mode: &FreeMode) -> String {
    let how = match mode.following {
        Following::Trampolines => "frees by RCU and in bulk are followed by trampolines",
        Following::Kprobes => "frees by RCU and in bulk are followed by kprobes",
        Following::Tracepoints => "frees by RCU and in bulk cannot be followed",
    };
    match &mode.obstacle {
        Some(obstacle) => format!("{how} ({obstacle})"),
        None => how.to_owned(),
    }
}

fn short(size: u64) -> String {
    let plain = crate::host::classes::cache_name(size, kleak_common::flavour::NORMAL);
    plain.trim_start_matches("kmalloc-").to_owned()
}

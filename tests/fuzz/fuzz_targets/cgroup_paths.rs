//! Cgroup paths, which any member of a cgroup may choose: names are never made up, and never reach a
//! terminal or a folded file with something in them that those would obey.
#![no_main]

use kleak::{report::sanitize, resolve::cgroup_path};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|path: &str| {
    let names = cgroup_path::parse(path);
    if let Some(id) = &names.container_id {
        assert!(id.len() == 64 && path.contains(id.as_str()), "{path:?}: {names:?}");
    }
    for name in [Some(path.to_owned()), names.unit, names.slice, names.pod_uid].iter().flatten() {
        let shown = sanitize::terminal(name);
        assert!(!shown.chars().any(char::is_control), "{shown:?}");
        let folded = sanitize::folded(name);
        assert!(!folded.contains([';', '\n']), "{folded:?}");
    }
});

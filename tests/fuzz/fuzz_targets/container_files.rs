//! Names of log files and the files of container runtimes, which may say anything: what is taken from
//! them as a name has the form of one.
#![no_main]

use kleak::host::containers::{Container, bundles, is_container_name, is_label, is_subdomain, logs};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let check = |container: Container| {
        assert!(container.name.is_none_or(|name| is_container_name(&name)));
        if let Some(pod) = container.pod {
            assert!(is_subdomain(&pod.name) && is_label(&pod.namespace));
        }
    };
    let name = String::from_utf8_lossy(bytes);
    logs::parse_link(&name).into_iter().for_each(|(_, container)| check(container));
    let _ = logs::parse_pod(&name);
    bundles::parse_bundle(bytes).into_iter().for_each(check);
    bundles::parse_docker(bytes).into_iter().for_each(check);
    bundles::parse_podman(bytes).into_values().for_each(check);
});

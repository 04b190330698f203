//! Files of /proc and cgroup trees, as a saved tree may have them: any bytes are read to an end.
#![no_main]

use kleak::host::{
    cgroup, classes, footprint, gauge, kmsg, memcg, meminfo, process, release, slabinfo,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = process::parse_stat(bytes);
    let text = String::from_utf8_lossy(bytes);
    let _ = process::parse_cgroup(&text);
    let _ = cgroup::parse_controllers(&text);
    let _ = cgroup::parse_stat(&text);
    let _ = classes::parse_size(&text);
    let _ = memcg::parse_v1(&text);
    let _ = memcg::parse_v2(&text);
    let _ = meminfo::parse(&text);
    let _ = slabinfo::parse(&text);
    let _ = footprint::parse_statm(&text);
    let _ = footprint::parse_status(&text);
    let _ = gauge::parse_limit(&text);
    let _ = kmsg::parse(&text);
    let _ = release::parse(&text);
});

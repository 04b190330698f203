//! Command lines, patterns and thresholds: refused or taken, and never the end of kleak.
#![no_main]

use clap::Parser as _;
use kleak::cli::Cli;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|line: &str| {
    let words = line.split(' ');
    let _ = Cli::try_parse_from(["kleak"].into_iter().chain(words));
});

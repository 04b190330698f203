//! Suppression files: read or refused with a line, and never the end of kleak.
#![no_main]

use kleak::judge::file;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(error) = file::parse(text, "kleak.toml") {
        assert!(error.to_string().starts_with("kleak.toml:"));
    }
});

//! Puts the BPF object that `cargo xtask build` has made where the crate includes it from. Without
//! one the file is empty: a plain `cargo check` or `cargo test` needs no BPF tool chain.
#![allow(clippy::print_stdout, reason = "stdout is how a build script talks to cargo")]

use std::{env, fs, path::PathBuf, process::ExitCode};

const OBJECT: &str = "KLEAK_BPF_OBJECT";

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={OBJECT}");
    match embed() {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            println!("cargo::error={reason}");
            ExitCode::FAILURE
        }
    }
}

fn embed() -> Result<(), String> {
    let out = env::var_os("OUT_DIR").ok_or("cargo has not set OUT_DIR")?;
    let out = PathBuf::from(out).join("kleak.bpf.o");
    let object = match env::var_os(OBJECT).filter(|path| !path.is_empty()) {
        Some(path) => {
            let path = PathBuf::from(path);
            if !path.is_absolute() {
                return Err(format!("{OBJECT} is `{}`: make it absolute", path.display()));
            }
            println!("cargo::rerun-if-changed={}", path.display());
            let object = fs::read(&path).map_err(|error| {
                format!(
                    "{OBJECT} names {}, which cannot be read ({error}): run `cargo xtask build`, \
                     or unset it to build without BPF programs",
                    path.display()
                )
            })?;
            // What the linker leaves when it is stopped half-way must not look like "no programs".
            if !object.starts_with(b"\x7fELF") {
                return Err(format!("{OBJECT} names {}, which is no ELF file", path.display()));
            }
            object
        }
        None => Vec::new(),
    };
    fs::write(&out, object).map_err(|error| format!("cannot write {}: {error}", out.display()))
}

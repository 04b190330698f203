//! Puts the BPF objects that `cargo xtask build` has made where the crate includes them from. Without
//! them the files are empty: a plain `cargo check` or `cargo test` needs no BPF tool chain.
#![allow(clippy::print_stdout, reason = "stdout is how a build script talks to cargo")]

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Names the first of the objects; the other lies beside it.
const OBJECT: &str = "KLEAK_BPF_OBJECT";
/// For kernels from 5.17 on, and for those before.
const FILES: [&str; 2] = ["kleak.bpf.o", "kleak-before-5.17.bpf.o"];

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
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo has not set OUT_DIR")?);
    let named = env::var_os(OBJECT).filter(|path| !path.is_empty()).map(PathBuf::from);
    for file in FILES {
        let object = match &named {
            Some(path) => read(&path.with_file_name(file))?,
            None => Vec::new(),
        };
        let out = out.join(file);
        fs::write(&out, object)
            .map_err(|error| format!("cannot write {}: {error}", out.display()))?;
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    if !path.is_absolute() {
        return Err(format!("{OBJECT} is `{}`: make it absolute", path.display()));
    }
    println!("cargo::rerun-if-changed={}", path.display());
    let object = fs::read(path).map_err(|error| {
        format!(
            "{} cannot be read ({error}), to which {OBJECT} leads: run `cargo xtask build`, or \
             unset it to build without BPF programs",
            path.display()
        )
    })?;
    // What the linker leaves when it is stopped half-way must not look like "no programs".
    if !object.starts_with(b"\x7fELF") {
        return Err(format!("{}, to which {OBJECT} leads, is no ELF file", path.display()));
    }
    Ok(object)
}

//! rustup's nightly with the component `rust-src`, which is what most Rust people have.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::{Compiler, Toolchain, has_source, linker};
use crate::{command::run, say, workspace::in_path};

/// For a person to paste. bpf-linker's own advice for rustup is its published binary, which has
/// LLVM inside.
pub(super) const COMMANDS: &str = "rustup toolchain install nightly --component rust-src && \
                                   cargo install cargo-binstall && cargo binstall bpf-linker";

/// A nightly with its source and a linker, both there already.
pub(super) fn installed() -> Result<Toolchain> {
    let compiler = nightly()?;
    let linker = match linker::cached(&compiler.version) {
        Some(linker) => linker,
        None => linker::in_users_path()?,
    };
    Ok(Toolchain { compiler, linker })
}

/// The last resort: has rustup add the source to a nightly that is there, and gets a linker for it.
/// It adds a component and nothing else: `toolchain install` would also move the nightly, which is
/// the user's and may be pinned by other work, to the newest one.
pub(super) fn install() -> Result<Toolchain> {
    let rustup = in_path("rustup").context("there is no rustup")?;
    let compiler = nightly().or_else(|_| {
        if toolchains()?.is_empty() {
            bail!("no nightly tool chain is installed");
        }
        say::step("setup", "asking rustup for the nightly tool chain's rust-src");
        let mut command = Command::new(rustup);
        command.args(["component", "add", "rust-src", "--toolchain", "nightly"]);
        run(command.env_remove("RUSTUP_TOOLCHAIN"))?;
        nightly()
    })?;
    let linker = linker::cached(&compiler.version)
        .map_or_else(linker::in_users_path, Ok)
        .or_else(|_| linker::find_or_build(&compiler.version, None))?;
    Ok(Toolchain { compiler, linker })
}

fn toolchains() -> Result<Vec<PathBuf>> {
    let home = env::var_os("RUSTUP_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".rustup")))
        .context("neither RUSTUP_HOME nor HOME is set")?;
    Ok(nightlies(&home.join("toolchains")))
}

/// The nightly itself, by path: asking rustup would take longer, and might have it fetch one.
fn nightly() -> Result<Compiler> {
    let toolchains = toolchains()?;
    if toolchains.is_empty() {
        bail!("no nightly tool chain is installed");
    }
    let with_source = toolchains
        .iter()
        .find(|dir| has_source(dir))
        .context("no nightly tool chain has the component rust-src")?;
    Compiler::inspect(with_source.join("bin/rustc"), with_source.join("bin/cargo"))
}

/// The plain nightly before dated ones, and of those the newest first.
fn nightlies(toolchains: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(toolchains) else {
        return Vec::new();
    };
    let dated = |name: &str| name.trim_start_matches("nightly-").starts_with("20");
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with("nightly-"))
        .collect();
    names.sort_by(|a, b| dated(a).cmp(&dated(b)).then_with(|| b.cmp(a)));
    names.iter().map(|name| toolchains.join(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plain_nightly_comes_first_then_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "stable-x86_64-unknown-linux-gnu",
            "nightly-2026-01-02-x86_64-unknown-linux-gnu",
            "nightly-x86_64-unknown-linux-gnu",
            "nightly-2026-03-04-x86_64-unknown-linux-gnu",
        ] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let found = nightlies(dir.path());
        let names: Vec<_> = found.iter().map(|path| path.file_name().unwrap()).collect();
        assert_eq!(
            names,
            [
                "nightly-x86_64-unknown-linux-gnu",
                "nightly-2026-03-04-x86_64-unknown-linux-gnu",
                "nightly-2026-01-02-x86_64-unknown-linux-gnu",
            ]
        );
        assert!(nightlies(&dir.path().join("none")).is_empty());
    }
}

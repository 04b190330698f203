//! bpf-linker, built once against the LLVM of the compiler whose output it links.

use std::{
    env,
    ffi::OsString,
    iter,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::RustcVersion;
use crate::{
    apt::Apt,
    command::{output, run, shown},
    say,
    workspace::{cache_dir, in_path},
};

const VERSION: &str = "0.13.0";
/// The LLVMs that this bpf-linker has a feature for.
const LLVMS: std::ops::RangeInclusive<u32> = 21..=23;

/// Whether it starts, which it does only with its LLVM at hand. Says which version it is.
pub(super) fn check(linker: &Path) -> Result<String> {
    let version = output(Command::new(linker).arg("--version").env_remove("LD_LIBRARY_PATH"))?;
    version
        .trim()
        .strip_prefix("bpf-linker ")
        .map(str::to_owned)
        .with_context(|| format!("{} is not a bpf-linker", linker.display()))
}

/// The one in PATH, if it works.
pub(super) fn in_users_path() -> Result<PathBuf> {
    let linker = in_path("bpf-linker").context("no bpf-linker in PATH")?;
    check(&linker)?;
    Ok(linker)
}

/// The one built here before for this LLVM, if it still works.
pub(super) fn cached(version: &RustcVersion) -> Option<PathBuf> {
    let linker = root(version).ok()?.join("bin/bpf-linker");
    let works = linker.is_file() && check(&linker).is_ok_and(|found| found == VERSION);
    works.then_some(linker)
}

pub(super) fn find_or_build(version: &RustcVersion, apt: Option<&mut Apt>) -> Result<PathBuf> {
    if let Some(linker) = cached(version) {
        return Ok(linker);
    }
    let major = version.llvm_major;
    if !LLVMS.contains(&major) {
        bail!(
            "rustc {} has LLVM {major}, and bpf-linker {VERSION} knows only {} to {}",
            version.release,
            LLVMS.start(),
            LLVMS.end()
        );
    }
    if let Some(apt) = apt {
        // zlib and zstd are what LLVM itself is linked against.
        apt.install(&[&format!("llvm-{major}-dev"), "zlib1g-dev", "libzstd-dev"])?;
    }
    let prefix = llvm_prefix(major)
        .with_context(|| format!("LLVM {major} with its llvm-config is not installed"))?;
    build(version, &prefix)?;
    cached(version).context("bpf-linker was built, yet does not start")
}

/// A directory for each linker and LLVM, so that a compiler's next LLVM does not meet an old linker.
fn root(version: &RustcVersion) -> Result<PathBuf> {
    Ok(cache_dir()?.join(format!("bpf-linker-{VERSION}-llvm{}", version.llvm_major)))
}

/// Where that LLVM is: in Debian's place, or in that of whichever llvm-config is of this major.
fn llvm_prefix(major: u32) -> Option<PathBuf> {
    let debian = PathBuf::from(format!("/usr/lib/llvm-{major}"));
    if debian.join("bin/llvm-config").is_file() {
        return Some(debian);
    }
    [format!("llvm-config-{major}"), "llvm-config".to_owned()].iter().find_map(|name| {
        let config = in_path(name)?;
        let version = output(Command::new(&config).arg("--version")).ok()?;
        let same = version.split('.').next().is_some_and(|found| found.parse() == Ok(major));
        let prefix = output(Command::new(&config).arg("--prefix")).ok()?;
        same.then(|| PathBuf::from(prefix.trim()))
    })
}

fn build(version: &RustcVersion, llvm: &Path) -> Result<()> {
    let major = version.llvm_major;
    let root = root(version)?;
    say::step(
        "setup",
        &format!("building bpf-linker {VERSION} for LLVM {major}, once, into {}", root.display()),
    );
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    cargo
        .args(["install", "--quiet", "--locked", "--force"])
        .arg(format!("bpf-linker@{VERSION}"))
        .args(["--no-default-features", "--features", &format!("llvm-{major}")])
        .arg("--root")
        .arg(&root)
        // The workspace's own settings and flags are not meant for it.
        .current_dir("/")
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        // Without it the build picks whichever LLVM comes first, and does not find its library.
        .env("LLVM_PREFIX", llvm)
        .env("PATH", path_led_by(&llvm.join("bin"))?);
    run(&mut cargo).with_context(|| {
        format!(
            "could not install bpf-linker; by hand: LLVM_PREFIX={0} PATH={0}/bin:$PATH {1}",
            llvm.display(),
            shown(&cargo)
        )
    })
}

fn path_led_by(first: &Path) -> Result<OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::join_paths(iter::once(first.to_path_buf()).chain(env::split_paths(&path)))
        .context("a directory in PATH has a colon in its name")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_no_bpf_linker_is_refused() {
        assert!(check(Path::new("/nonexistent/bpf-linker")).is_err());
        assert!(check(Path::new("/bin/ls")).is_err());
    }
}

//! Running other programs with the environment they should see, and saying what failed.

use std::{
    env,
    ffi::{OsStr, OsString},
    io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::workspace::Workspace;

/// Separates flags in `CARGO_ENCODED_RUSTFLAGS`, so that a path may hold a space.
const FLAG_SEPARATOR: &str = "\x1f";

/// What `cargo run` sets for the program it runs, here xtask. It describes the xtask package, so
/// any build script or test that looks would be told about the wrong one.
const ABOUT_XTASK: [&str; 3] = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"];

/// What chooses or steers a compiler. The BPF side has its own: none of the user's may reach it.
const STEERING_PREFIXES: [&str; 4] =
    ["CARGO_BUILD_", "CARGO_PROFILE_", "CARGO_TARGET_", "CARGO_UNSTABLE_"];
const STEERING: [&str; 9] = [
    "CARGO",
    "CARGO_ENCODED_RUSTFLAGS",
    "LD_LIBRARY_PATH",
    "RUSTC",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_WRAPPER",
    "RUSTDOC",
    "RUSTFLAGS",
    "RUSTUP_TOOLCHAIN",
];

/// The cargo that runs xtask, with the tool chain that the user chose for it.
pub(crate) fn outer_cargo(workspace: &Workspace) -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(&workspace.root);
    remove_prefixed(&mut cargo, &ABOUT_XTASK);
    cargo
}

/// A cargo of another tool chain than the one that runs xtask, told its compiler by path: a
/// `rustc` looked up in PATH is as a rule rustup's.
pub(crate) fn foreign_cargo(cargo: &Path, rustc: &Path) -> Command {
    let mut command = Command::new(cargo);
    remove_prefixed(&mut command, &ABOUT_XTASK);
    remove_prefixed(&mut command, &STEERING_PREFIXES);
    for name in STEERING {
        command.env_remove(name);
    }
    command.env("RUSTC", rustc);
    command
}

/// Takes out of a command's environment what only xtask should see.
pub(crate) fn without_xtask(command: &mut Command, workspace: &Workspace) {
    remove_prefixed(command, &ABOUT_XTASK);
    for name in ["CARGO", "RUSTUP_TOOLCHAIN"] {
        command.env_remove(name);
    }
    let Some(libraries) = env::var_os("LD_LIBRARY_PATH") else {
        return;
    };
    let rest = libraries_of_user(&libraries, &workspace.target);
    if rest.is_empty() {
        command.env_remove("LD_LIBRARY_PATH");
    } else if let Ok(rest) = env::join_paths(rest) {
        command.env("LD_LIBRARY_PATH", rest);
    }
}

/// A library path without what `cargo run` put in front of it.
fn libraries_of_user(libraries: &OsStr, target: &Path) -> Vec<PathBuf> {
    env::split_paths(libraries)
        .filter(|dir| {
            let of_toolchain = dir.components().any(|part| part.as_os_str() == "toolchains")
                || dir.components().any(|part| part.as_os_str() == "rustlib");
            !dir.starts_with(target) && !of_toolchain && !dir.as_os_str().is_empty()
        })
        .collect()
}

fn remove_prefixed(command: &mut Command, prefixes: &[&str]) {
    for (name, _) in env::vars_os() {
        let Some(text) = name.to_str() else { continue };
        if prefixes.iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(name);
        }
    }
}

/// Sets exactly these compiler flags.
pub(crate) fn set_rustflags(command: &mut Command, flags: &[OsString]) {
    command.env_remove("RUSTFLAGS");
    command.env("CARGO_ENCODED_RUSTFLAGS", flags.join(OsStr::new(FLAG_SEPARATOR)));
}

/// The compiler flags that the user set, in either of cargo's two variables.
pub(crate) fn rustflags_of_user() -> Vec<OsString> {
    let split = |name: &str, separator: &str| -> Option<Vec<OsString>> {
        let value = env::var(name).ok()?;
        Some(value.split(separator).filter(|flag| !flag.is_empty()).map(Into::into).collect())
    };
    split("CARGO_ENCODED_RUSTFLAGS", FLAG_SEPARATOR)
        .or_else(|| split("RUSTFLAGS", " "))
        .unwrap_or_default()
}

/// Runs a command whose own output is its progress report; stdout goes to stderr, where talk goes.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    command.stdout(Stdio::from(io::stderr()));
    let status = command.status().with_context(|| format!("cannot run {}", shown(command)))?;
    if !status.success() {
        bail!("failed with {status}: {}", shown(command));
    }
    Ok(())
}

/// Runs a command that has the terminal to itself.
pub(crate) fn run_in_terminal(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {}", shown(command)))?;
    if !status.success() {
        bail!("failed with {status}: {}", shown(command));
    }
    Ok(())
}

/// What a command prints. Its stderr is kept for the error.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", shown(command)))?;
    if !output.status.success() {
        bail!(
            "failed with {}: {}: {}",
            output.status,
            shown(command),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    String::from_utf8(output.stdout).with_context(|| format!("not UTF-8: {}", shown(command)))
}

/// A command line that a person can paste into a shell.
pub(crate) fn shown(command: &Command) -> String {
    let mut line = String::new();
    for word in std::iter::once(command.get_program()).chain(command.get_args()) {
        if !line.is_empty() {
            line.push(' ');
        }
        let word = word.to_string_lossy();
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=+:,@%".contains(c);
        if !word.is_empty() && word.chars().all(plain) {
            line.push_str(&word);
        } else {
            line.push('\'');
            line.push_str(&word.replace('\'', r"'\''"));
            line.push('\'');
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shown_command_survives_a_shell() {
        let mut command = Command::new("cargo");
        command.args(["build", "a b", "", "it's"]);
        assert_eq!(shown(&command), r"cargo build 'a b' '' 'it'\''s'");
    }

    #[test]
    fn only_the_users_own_library_directories_are_kept() {
        let libraries = OsStr::new(
            "/src/target/debug/deps:/src/target/debug:/u/.rustup/toolchains/stable/lib::/opt/own",
        );
        assert_eq!(
            libraries_of_user(libraries, Path::new("/src/target")),
            [PathBuf::from("/opt/own")]
        );
    }

    #[test]
    fn what_fails_is_named() {
        let error = run(Command::new("false").arg("x")).unwrap_err().to_string();
        assert!(error.contains("false x"), "{error}");
        let error = output(Command::new("sh").args(["-c", "echo why >&2; exit 3"])).unwrap_err();
        assert!(error.to_string().ends_with("why"), "{error}");
    }
}

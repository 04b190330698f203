//! Building kleak itself: the user side with the BPF object inside.

use std::{env, ffi::OsString, fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use crate::{
    bpf,
    command::{outer_cargo, output, run, rustflags_of_user, set_rustflags},
    files,
    toolchain::{self, RustcVersion, Toolchain},
    workspace::Workspace,
};

/// Names the object to embed, for the build script of the user side.
pub(crate) const ENV_OBJECT: &str = "KLEAK_BPF_OBJECT";

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    Release,
    Debug,
}

impl Profile {
    fn dir(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Debug => "debug",
        }
    }
}

/// What a build leaves behind.
pub(crate) struct Built {
    pub(crate) toolchain: Toolchain,
    pub(crate) executable: PathBuf,
}

pub(crate) fn everything(workspace: &Workspace, profile: Profile) -> Result<Built> {
    let toolchain = toolchain::find_or_install()?;
    bpf::build(workspace, &toolchain)?;
    let host = host(workspace)?;
    let mut cargo = static_cargo(workspace, "build", "kleak", profile)?;
    run(&mut cargo).context(
        "could not build kleak (it is linked statically: if that is what failed, the C library's \
         static half is missing; Debian has it in libc6-dev, Fedora in glibc-static)",
    )?;
    let built = workspace.target.join(&host).join(profile.dir()).join("kleak");
    let dir = workspace.target.join(profile.dir());
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let executable = dir.join("kleak");
    files::copy_if_changed(&built, &executable)?;
    Ok(Built { toolchain, executable })
}

/// A cargo for a package of the user side whose programs are to be static files with the BPF object
/// inside, which has to be built already.
pub(crate) fn static_cargo(
    workspace: &Workspace,
    subcommand: &str,
    package: &str,
    profile: Profile,
) -> Result<Command> {
    let host = host(workspace)?;
    let mut cargo = outer_cargo(workspace);
    // With a target named, the flags reach only what runs there. Without, they would also reach
    // procedural macros, and those cannot be linked statically.
    cargo.args([subcommand, "--package", package, "--target", &host]);
    if profile == Profile::Release {
        cargo.arg("--release");
    }
    cargo.env(ENV_OBJECT, workspace.bpf_object());
    set_rustflags(&mut cargo, &rustflags(workspace, &host));
    Ok(cargo)
}

/// The target triple of the tool chain that the user chose.
fn host(workspace: &Workspace) -> Result<String> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| OsString::from("rustc"));
    let said = output(Command::new(rustc).arg("-vV").current_dir(&workspace.root))?;
    Ok(RustcVersion::parse(&said).context("rustc -vV")?.host)
}

fn rustflags(workspace: &Workspace, host: &str) -> Vec<OsString> {
    let mut flags = rustflags_of_user();
    if host.contains("-linux-gnu") {
        flags.push("-Ctarget-feature=+crt-static".into());
    }
    flags.extend(workspace.remapped_paths());
    flags
}

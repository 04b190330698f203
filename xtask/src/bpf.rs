//! Building and linting the BPF side with its own tool chain.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    apt::Apt,
    command::{foreign_cargo, output, run, set_rustflags},
    files, say,
    toolchain::{Compiler, Toolchain},
    workspace::Workspace,
};

const PACKAGE: &str = "kleak-ebpf";
const BINARY: &str = "kleak";

/// BPF of the host's own byte order: the programs run on the machine that loads them.
const TARGET: &str =
    if cfg!(target_endian = "little") { "bpfel-unknown-none" } else { "bpfeb-unknown-none" };

/// What the programs are built for. The instruction set v3 has compare-and-exchange, which kernels before
/// 5.12 refuse to load, reached or not, and LLVM then also picks atomic forms that they do not know. Loops
/// over objects in the table are too much for the verifiers that have it, and take `bpf_loop()`, so 5.17.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Variant {
    /// 5.17 and later.
    Usual,
    Before5_17,
}

impl Variant {
    const ALL: [Self; 2] = [Self::Usual, Self::Before5_17];

    fn cpu(self) -> &'static str {
        match self {
            Self::Usual => "v3",
            Self::Before5_17 => "v2",
        }
    }

    fn features(self) -> &'static [&'static str] {
        match self {
            Self::Usual => &["--features", "table"],
            Self::Before5_17 => &[],
        }
    }

    /// Of its own: with other flags `core` is another one too.
    fn target(self, workspace: &Workspace) -> PathBuf {
        match self {
            Self::Usual => workspace.bpf_target(),
            Self::Before5_17 => workspace.bpf_target().join("before-5.17"),
        }
    }

    fn object(self, workspace: &Workspace) -> PathBuf {
        match self {
            Self::Usual => workspace.bpf_object(),
            Self::Before5_17 => workspace.bpf_object().with_file_name("kleak-before-5.17.bpf.o"),
        }
    }
}

/// Builds the programs and leaves the objects where the user side looks for them.
pub(crate) fn build(workspace: &Workspace, toolchain: &Toolchain) -> Result<()> {
    for variant in Variant::ALL {
        let mut cargo = cargo(workspace, toolchain, variant, "build", &[]);
        run(&mut cargo).with_context(|| {
            format!(
                "could not build the BPF side with {toolchain} (errors of the linker about bitcode \
                 or an unknown attribute mean that its LLVM is older than the compiler's)"
            )
        })?;
        let built = variant.target(workspace).join(TARGET).join("release").join(BINARY);
        files::copy_if_changed(&built, &variant.object(workspace))?;
    }
    Ok(())
}

/// What became of clippy on the BPF side.
pub(crate) enum Linted {
    Clippy,
    /// There is no clippy for this compiler; its own warnings were denied instead.
    WarningsOnly,
}

/// Runs the clippy of the BPF side's own compiler. Another's would need the
/// source of `core` that belongs to that one.
pub(crate) fn lint(workspace: &Workspace, toolchain: &Toolchain) -> Result<Linted> {
    let denied = ["-Dwarnings"];
    let Some(clippy) = clippy(&toolchain.compiler) else {
        for variant in Variant::ALL {
            run(&mut cargo(workspace, toolchain, variant, "check", &denied))
                .context("warnings in the BPF side")?;
        }
        return Ok(Linted::WarningsOnly);
    };
    // Cargo looks for its subcommands in PATH, where rustup's clippy comes first.
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs = clippy.parent().map(Path::to_path_buf).into_iter().chain(env::split_paths(&path));
    let path = env::join_paths(dirs).context("PATH")?;
    for variant in Variant::ALL {
        let mut cargo = cargo(workspace, toolchain, variant, "clippy", &[]);
        run(cargo.env("PATH", &path).arg("--").args(denied)).context("clippy on the BPF side")?;
    }
    Ok(Linted::Clippy)
}

/// The cargo-clippy beside the compiler, fetched if it comes in a package of its own.
fn clippy(compiler: &Compiler) -> Option<PathBuf> {
    let bin = compiler.rustc.parent()?;
    let beside = bin.join("cargo-clippy");
    if !beside.is_file()
        && let Some(package) = &compiler.clippy_package
        && let Err(error) = Apt::find()?.install(&[package])
    {
        say::warning("lint", &format!("{error:#}"));
    }
    // A driver of another release cannot read what this compiler leaves behind.
    let starts = |path: &Path| {
        output(Command::new(path).arg("--version").env_remove("LD_LIBRARY_PATH")).is_ok()
    };
    (beside.is_file() && starts(&bin.join("clippy-driver"))).then_some(beside)
}

fn cargo(
    workspace: &Workspace,
    toolchain: &Toolchain,
    variant: Variant,
    task: &str,
    more_flags: &[&str],
) -> Command {
    let Compiler { rustc, cargo, .. } = &toolchain.compiler;
    let mut command = foreign_cargo(cargo, rustc);
    command
        .current_dir(&workspace.root)
        .arg(task)
        .args(["-Z", "build-std=core", "--release", "--package", PACKAGE, "--target", TARGET])
        .args(variant.features())
        .arg("--target-dir")
        .arg(variant.target(workspace))
        // Building `core` is unstable. This lets a stable compiler do it, as its own build does.
        .env("RUSTC_BOOTSTRAP", "1");
    let mut flags = rustflags(&toolchain.linker, env::consts::ARCH, variant);
    flags.extend(workspace.remapped_paths());
    flags.extend(more_flags.iter().map(OsString::from));
    set_rustflags(&mut command, &flags);
    command
}

/// The flags that aya-build would set, and the choice of instruction set.
fn rustflags(linker: &Path, arch: &str, variant: Variant) -> Vec<OsString> {
    let mut linker_flag = OsString::from("-Clinker=");
    linker_flag.push(linker);
    vec![
        linker_flag,
        format!("-Ctarget-cpu={}", variant.cpu()).into(),
        // aya-ebpf chooses the layout of pt_regs and the like by it.
        format!("--cfg=bpf_target_arch=\"{}\"", bpf_target_arch(arch)).into(),
        // bpf-linker makes the BTF from the debug information.
        "-Cdebuginfo=2".into(),
        "-Clink-arg=--btf".into(),
    ]
}

/// aya's name for an architecture.
fn bpf_target_arch(arch: &str) -> &str {
    if arch.starts_with("riscv64") { "riscv64" } else { arch }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_name_the_linker_and_the_architecture() {
        let flags = rustflags(Path::new("/a b/bpf-linker"), "x86_64", Variant::Usual);
        assert!(flags.contains(&"-Clinker=/a b/bpf-linker".into()));
        assert!(flags.contains(&"-Ctarget-cpu=v3".into()));
        assert!(flags.contains(&"--cfg=bpf_target_arch=\"x86_64\"".into()));
        assert_eq!(bpf_target_arch("riscv64gc"), "riscv64");
    }
}

//! What builds the BPF side: a compiler with its library source, because nobody ships a `core` for
//! BPF, and a bpf-linker, which needs an LLVM no older than the compiler's.

mod debian;
mod linker;
mod rustup;
mod version;

use std::{
    env, fmt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

pub(crate) use self::version::{Release, RustcVersion};
use crate::{apt::Apt, command::output};

const ENV_RUSTC: &str = "KLEAK_BPF_RUSTC";
const ENV_CARGO: &str = "KLEAK_BPF_CARGO";
const ENV_LINKER: &str = "KLEAK_BPF_LINKER";

/// A compiler that can build `core`.
pub(crate) struct Compiler {
    pub(crate) rustc: PathBuf,
    pub(crate) cargo: PathBuf,
    pub(crate) version: RustcVersion,
    /// The Debian package that has its clippy, where it is not part of the compiler's own.
    pub(crate) clippy_package: Option<String>,
}

/// A compiler and a linker that fit together.
pub(crate) struct Toolchain {
    pub(crate) compiler: Compiler,
    pub(crate) linker: PathBuf,
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Compiler { rustc, version, .. } = &self.compiler;
        write!(
            f,
            "rustc {} with LLVM {} ({}), {}",
            version.release,
            version.llvm_major,
            rustc.display(),
            self.linker.display()
        )
    }
}

impl Compiler {
    /// Looks at a compiler on disk. Errors say what it lacks.
    fn inspect(rustc: PathBuf, cargo: PathBuf) -> Result<Self> {
        if !cargo.is_file() {
            bail!("{} does not exist", cargo.display());
        }
        let version = RustcVersion::parse(&output(bare(&rustc).arg("-vV"))?)
            .with_context(|| format!("{} -vV", rustc.display()))?;
        if version.release < Release::WANTED {
            bail!(
                "{} is {}, older than the {} that kleak needs",
                rustc.display(),
                version.release,
                Release::WANTED
            );
        }
        let sysroot = output(bare(&rustc).args(["--print", "sysroot"]))?;
        if !has_source(Path::new(sysroot.trim())) {
            bail!("{} has no library source (rust-src)", rustc.display());
        }
        Ok(Self { rustc, cargo, version, clippy_package: None })
    }
}

/// A compiler started by itself, not as part of the cargo that runs xtask.
fn bare(rustc: &Path) -> Command {
    let mut command = Command::new(rustc);
    for name in ["LD_LIBRARY_PATH", "RUSTUP_TOOLCHAIN"] {
        command.env_remove(name);
    }
    command
}

fn has_source(sysroot: &Path) -> bool {
    sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs").is_file()
}

/// Finds a tool chain, or installs one where it may. The order goes from what the user said, over
/// what is there, to what has to be fetched.
pub(crate) fn find_or_install() -> Result<Toolchain> {
    if let Some(toolchain) = from_environment()? {
        return Ok(toolchain);
    }
    let mut reasons = Vec::new();
    match rustup::installed() {
        Ok(toolchain) => return Ok(toolchain),
        Err(reason) => reasons.push(reason.context("rustup")),
    }
    if let Some(mut apt) = Apt::find() {
        match debian::find_or_install(&mut apt) {
            Ok(toolchain) => return Ok(toolchain),
            Err(reason) => reasons.push(reason.context("apt")),
        }
    }
    match rustup::install() {
        Ok(toolchain) => return Ok(toolchain),
        Err(reason) => reasons.push(reason.context("rustup, installing")),
    }
    bail!("{}", no_toolchain(&reasons));
}

/// What to say when nothing worked: why, and each way out in full.
fn no_toolchain(reasons: &[anyhow::Error]) -> String {
    use fmt::Write as _;
    let mut text =
        "no tool chain for the BPF side was found, and none could be installed:".to_owned();
    for reason in reasons {
        // Writing to a String cannot fail.
        let _ = write!(text, "\n  - {reason:#}");
    }
    let _ = write!(
        text,
        "\nAny one of these mends it:\n  \
         - Debian, Ubuntu (a rustc of {wanted} or newer): {apt}\n  \
         - rustup: {rustup}\n  \
         - your own: set {ENV_RUSTC}, {ENV_CARGO} (a compiler with its library source) and \
         {ENV_LINKER} (a bpf-linker with the same LLVM) to their paths",
        wanted = Release::WANTED,
        apt = crate::apt::install_line(&debian::PackageSet::web().compiler()),
        rustup = rustup::COMMANDS,
    );
    text
}

fn from_environment() -> Result<Option<Toolchain>> {
    let [rustc, cargo, linker] = [ENV_RUSTC, ENV_CARGO, ENV_LINKER]
        .map(|name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from));
    match (rustc, cargo, linker) {
        (None, None, None) => Ok(None),
        (Some(rustc), Some(cargo), Some(linker)) => {
            linker::check(&linker).context(ENV_LINKER)?;
            let compiler = Compiler::inspect(rustc, cargo)
                .with_context(|| format!("{ENV_RUSTC}, {ENV_CARGO}"))?;
            Ok(Some(Toolchain { compiler, linker }))
        }
        _ => bail!("{ENV_RUSTC}, {ENV_CARGO} and {ENV_LINKER} go together: set all three or none"),
    }
}

//! Where things are: the clone, its target directory, the user's cache.

use std::{
    env,
    ffi::OsString,
    iter,
    path::{Path, PathBuf, absolute},
};

use anyhow::{Context as _, Result, bail};

/// The clone that this xtask was built from.
pub(crate) struct Workspace {
    pub(crate) root: PathBuf,
    pub(crate) target: PathBuf,
}

impl Workspace {
    pub(crate) fn locate() -> Result<Self> {
        // Cargo sets the variable for what it runs; the constant serves a binary started by hand.
        let manifest = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let Some(root) = manifest.parent().filter(|root| root.join("Cargo.toml").is_file()) else {
            bail!("{} is not inside a clone of kleak", manifest.display());
        };
        let target = match env::var_os("CARGO_TARGET_DIR").filter(|dir| !dir.is_empty()) {
            Some(dir) => absolute(dir).context("CARGO_TARGET_DIR")?,
            None => root.join("target"),
        };
        Ok(Self { root: root.to_path_buf(), target })
    }

    /// Apart from the user side's: another compiler and other flags would throw away its artifacts
    /// at every change of side.
    pub(crate) fn bpf_target(&self) -> PathBuf {
        self.target.join("bpf")
    }

    pub(crate) fn bpf_object(&self) -> PathBuf {
        self.bpf_target().join("kleak.bpf.o")
    }

    /// Compiler flags that keep this machine's directories out of files that are handed around.
    pub(crate) fn remapped_paths(&self) -> Vec<OsString> {
        let cargo_home = env::var_os("CARGO_HOME")
            .map(PathBuf::from)
            .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")));
        let remap = |from: &Path, to: &str| {
            let mut flag = OsString::from("--remap-path-prefix=");
            flag.push(from);
            flag.push("=");
            flag.push(to);
            flag
        };
        iter::once(remap(&self.root, "kleak"))
            .chain(cargo_home.map(|home| remap(&home, "cargo")))
            .collect()
    }
}

/// Where tools are kept that are built once for all clones, so that a fresh one starts at once.
pub(crate) fn cache_dir() -> Result<PathBuf> {
    let set = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = set("XDG_CACHE_HOME")
        .or_else(|| set("HOME").map(|home| home.join(".cache")))
        .context("neither XDG_CACHE_HOME nor HOME is set: no place to keep bpf-linker in")?;
    Ok(base.join("kleak"))
}

/// The first executable of that name in PATH.
pub(crate) fn in_path(name: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?)
        .map(|dir| dir.join(name))
        .find(|candidate| is_executable(candidate))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

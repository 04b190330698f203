//! The compiler that Debian and Ubuntu package: the only one whose library source comes with apt.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::{Compiler, Release, Toolchain, linker};
use crate::{apt::Apt, say};

/// The packages that make up one compiler.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PackageSet {
    rustc: String,
    cargo: String,
    source: String,
    clippy: String,
}

impl PackageSet {
    /// Debian's newer compiler, kept in its stable releases for the browsers.
    pub(crate) fn web() -> Self {
        Self::named("rustc-web", "cargo-web", "rust-web-src", "rust-web-clippy")
    }

    fn plain() -> Self {
        Self::named("rustc", "cargo", "rust-src", "rust-clippy")
    }

    /// Ubuntu's compilers, one a version: `rustc-1.95`, `rust-1.95-src`.
    fn versioned(rustc: &str) -> Option<Self> {
        let version = rustc.strip_prefix("rustc-").filter(|rest| Release::parse(rest).is_some())?;
        if !version.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
            return None;
        }
        Some(Self::named(
            rustc,
            &format!("cargo-{version}"),
            &format!("rust-{version}-src"),
            &format!("rust-{version}-clippy"),
        ))
    }

    fn named(rustc: &str, cargo: &str, source: &str, clippy: &str) -> Self {
        let [rustc, cargo, source, clippy] = [rustc, cargo, source, clippy].map(str::to_owned);
        Self { rustc, cargo, source, clippy }
    }

    /// What has to be installed to compile.
    pub(crate) fn compiler(&self) -> [&str; 3] {
        [&self.rustc, &self.cargo, &self.source]
    }

    /// Looks for it among the installed packages.
    fn installed(&self) -> Result<Compiler> {
        let executable = |package: &str, name| -> Result<PathBuf> {
            let files = Apt::files(package)
                .with_context(|| format!("the package {package} is not installed"))?;
            executable_of(&files, name)
                .with_context(|| format!("the package {package} has no executable {name}"))
        };
        let rustc = executable(&self.rustc, "rustc")?;
        let cargo = executable(&self.cargo, "cargo")?;
        let mut compiler = Compiler::inspect(rustc, cargo)?;
        compiler.clippy_package = Some(self.clippy.clone());
        Ok(compiler)
    }

    /// The release that apt would install of all its parts, if that is new enough.
    fn offered(&self) -> Option<Release> {
        let release = |package: &&str| Release::parse(&Apt::candidate(package)?);
        self.compiler()
            .iter()
            .map(release)
            .try_fold(None, |oldest: Option<Release>, release| {
                let release = release?;
                Some(Some(oldest.map_or(release, |oldest| oldest.min(release))))
            })
            .flatten()
            .filter(|release| *release >= Release::WANTED)
    }
}

pub(super) fn find_or_install(apt: &mut Apt) -> Result<Toolchain> {
    let compiler = match find() {
        Some(compiler) => compiler,
        None => install(apt)?,
    };
    let linker = linker::find_or_build(&compiler.version, Some(apt))?;
    Ok(Toolchain { compiler, linker })
}

fn find() -> Option<Compiler> {
    [PackageSet::web(), PackageSet::plain()]
        .iter()
        .find_map(|set| set.installed().ok())
        // Asking for every name costs more than all the rest, so it comes last.
        .or_else(|| versioned_sets().iter().find_map(|set| set.installed().ok()))
}

fn install(apt: &mut Apt) -> Result<Compiler> {
    apt.update()?;
    let mut sets = vec![PackageSet::web(), PackageSet::plain()];
    sets.extend(versioned_sets());
    let Some((set, release)) =
        sets.into_iter().find_map(|set| set.offered().map(|release| (set, release)))
    else {
        bail!("no package offers a rustc of {} or newer with its source", Release::WANTED);
    };
    say::step("setup", &format!("no compiler with its library source yet: taking {release}"));
    apt.install_newest(&set.compiler())?;
    set.installed().with_context(|| format!("{} installed, yet", set.compiler().join(" ")))
}

/// Ubuntu's compilers, newest first.
fn versioned_sets() -> Vec<PackageSet> {
    let mut names = Apt::names("rustc-1.");
    names.sort_by_key(|name| Release::parse(name.trim_start_matches("rustc-")));
    names.iter().rev().filter_map(|name| PackageSet::versioned(name)).collect()
}

/// The executable among a package's files. Debian's cargo also has a wrapper of the same name for
/// building packages, under /usr/share; Ubuntu's compilers carry their version in /usr/bin.
fn executable_of(files: &str, name: &str) -> Option<PathBuf> {
    let in_bin = |path: &&Path| {
        path.parent().is_some_and(|dir| dir.ends_with("bin")) && !path.starts_with("/usr/share")
    };
    let named = |exact: bool| {
        files.lines().map(Path::new).filter(in_bin).find(|path| {
            path.file_name().and_then(|file| file.to_str()).is_some_and(|file| {
                if exact {
                    file == name
                } else {
                    file.strip_prefix(name).is_some_and(|rest| rest.starts_with("-1."))
                }
            })
        })
    };
    named(true).or_else(|| named(false)).map(Path::to_path_buf)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compiler_is_found_among_the_files_of_its_package() {
        let rustc = "/.\n/usr\n/usr/bin\n/usr/bin/rustc\n/usr/lib/rustlib/etc\n\
                     /usr/share/rustc/bin/wasi-node\n";
        assert_eq!(executable_of(rustc, "rustc"), Some("/usr/bin/rustc".into()));
        assert_eq!(executable_of(rustc, "cargo"), None);
    }

    #[test]
    fn debians_packaging_wrapper_is_not_taken_for_cargo() {
        let cargo = "/usr/share/cargo/bin\n/usr/share/cargo/bin/cargo\n/usr/bin\n/usr/bin/cargo\n\
                     /usr/share/man/man1/cargo-add.1.gz\n";
        assert_eq!(executable_of(cargo, "cargo"), Some("/usr/bin/cargo".into()));
    }

    #[test]
    fn a_versioned_compiler_is_taken_from_its_own_directory() {
        let both = "/usr/bin/rustc-1.95\n/usr/lib/rust-1.95/bin/rustc\n";
        assert_eq!(executable_of(both, "rustc"), Some("/usr/lib/rust-1.95/bin/rustc".into()));
        let one = "/usr/bin/rustc-1.95\n";
        assert_eq!(executable_of(one, "rustc"), Some("/usr/bin/rustc-1.95".into()));
    }

    #[test]
    fn only_versions_make_a_versioned_set() {
        let set = PackageSet::versioned("rustc-1.95").unwrap();
        assert_eq!(set.compiler(), ["rustc-1.95", "cargo-1.95", "rust-1.95-src"]);
        assert_eq!(PackageSet::versioned("rustc-1.95-dbgsym"), None);
        assert_eq!(PackageSet::versioned("rustc-web"), None);
    }
}

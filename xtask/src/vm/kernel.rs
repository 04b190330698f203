//! Debian's kernels: found in the suite's signed index, fetched once, kept unpacked.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{archive::Archive, command::run, say, workspace::cache_dir};

/// A series of kernels, and where Debian has it.
#[derive(Debug)]
pub(super) struct Series {
    /// As in `uname -r`, without what comes after.
    pub(super) name: &'static str,
    /// Suites that have it, the one to look in first coming first.
    suites: &'static [&'static str],
    /// Whether Debian builds it with the memory controller of cgroup v1 (up to 6.1: `CONFIG_MEMCG_V1`
    /// is not set from 6.12 on).
    pub(super) memory_v1: bool,
}

/// The kernels of the matrix. Backports keep superseded series, and have a small index.
pub(super) const ALL: [Series; 5] = [
    Series { name: "5.10", suites: &["bullseye-security"], memory_v1: true },
    Series { name: "6.1", suites: &["bookworm-security"], memory_v1: true },
    Series { name: "6.12", suites: &["trixie-security", "trixie"], memory_v1: false },
    Series { name: "6.18", suites: &["trixie-backports"], memory_v1: false },
    Series { name: "7.2", suites: &["trixie-backports", "sid"], memory_v1: false },
];

impl Series {
    /// Whether it is the oldest or the newest.
    pub(super) fn is_end(&self) -> bool {
        ALL.first().is_some_and(|first| first.name == self.name)
            || ALL.last().is_some_and(|last| last.name == self.name)
    }
}

/// The small flavour, for virtual machines.
const FLAVOUR: &str = "-cloud-amd64";
const IMAGE: &str = "linux-image-";
/// Where newer kernels have what the image package had.
const PARTS: [&str; 2] = ["linux-binary-", "linux-modules-"];

/// A kernel at hand.
#[derive(Clone, Debug)]
pub(super) struct Kernel {
    root: PathBuf,
    /// As `uname -r` prints it.
    pub(super) release: String,
}

impl Kernel {
    /// The one kept from before, or the newest of its series. `update` looks for a newer one.
    pub(super) fn find_or_fetch(series: &Series, update: bool) -> Result<Self> {
        let kept = cache_dir()?.join("kernels").join(series.name);
        let cached = newest_kept(&kept)?;
        if let Some(kernel) = cached.clone().filter(|_| !update) {
            return Ok(kernel);
        }
        match (fetch_newest(series, &kept), cached) {
            (Ok(kernel), _) => Ok(kernel),
            (Err(error), Some(kernel)) => {
                say::warning(
                    "vm",
                    &format!("no newer {}, staying at {}: {error:#}", series.name, kernel.release),
                );
                Ok(kernel)
            }
            (Err(error), None) => {
                Err(error).with_context(|| format!("cannot get Linux {} of Debian", series.name))
            }
        }
    }

    pub(super) fn image(&self) -> Result<PathBuf> {
        let places = [
            self.root.join(format!("boot/vmlinuz-{}", self.release)),
            self.modules().join("vmlinuz"),
        ];
        places.iter().find(|path| path.is_file()).cloned().with_context(|| {
            format!("no vmlinuz of {} under {}", self.release, self.root.display())
        })
    }

    fn modules(&self) -> PathBuf {
        self.root.join("lib/modules").join(&self.release)
    }

    /// Files of the modules asked for and of what they need, in the order to load them in. A module
    /// that is built in needs no file.
    pub(super) fn module_files(&self, names: &[&str]) -> Result<Vec<PathBuf>> {
        let directory = self.modules();
        let read = |name: &str| {
            let path = directory.join(name);
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let dependencies = read("modules.dep")?;
        let builtin = read("modules.builtin").unwrap_or_default();
        let mut files = Vec::new();
        for name in names {
            let of_module = |path: &str| module_name(path) == *name;
            if builtin.lines().any(of_module) {
                continue;
            }
            let line = dependencies.lines().find_map(|line| {
                let (file, needs) = line.split_once(':')?;
                of_module(file).then_some((file, needs))
            });
            let (file, needs) = line.with_context(|| format!("{} has no {name}", self.release))?;
            // What is needed last is to be loaded first: depmod(8).
            for path in needs.split_whitespace().rev().chain([file]) {
                let path = directory.join(path);
                if !files.contains(&path) {
                    files.push(path);
                }
            }
        }
        Ok(files)
    }
}

/// The name of the module in a file `kernel/…/NAME.ko[.xz]`.
pub(super) fn module_name(path: &str) -> &str {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split_once(".ko").map_or(file, |(name, _)| name)
}

fn newest_kept(directory: &Path) -> Result<Option<Kernel>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| directory.display().to_string()),
    };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    // What begins with a dot is not complete.
    let newest = names.filter(|name| !name.starts_with('.')).max_by_key(|name| numbers(name));
    Ok(newest.map(|release| Kernel { root: directory.join(&release), release }))
}

fn fetch_newest(series: &Series, kept: &Path) -> Result<Kernel> {
    for suite in series.suites {
        let archive = Archive::of("vm", suite)?;
        let names = archive.cache(&["pkgnames", IMAGE])?;
        let Some(release) = newest(series.name, names.lines()) else { continue };
        let root = kept.join(&release);
        if !root.is_dir() {
            fetch(&archive, &release, &root)?;
        }
        return Ok(Kernel { root, release });
    }
    bail!("none in {}", series.suites.join(", "))
}

/// The newest release of a series among names of packages.
fn newest<'a>(series: &str, names: impl Iterator<Item = &'a str>) -> Option<String> {
    let of_series = |name: &'a str| {
        let release = name.trim().strip_prefix(IMAGE)?;
        let version = release.strip_suffix(FLAVOUR)?;
        version.strip_prefix(series)?.starts_with('.').then_some(release)
    };
    names.filter_map(of_series).max_by_key(|release| numbers(release)).map(str::to_owned)
}

/// The numbers in a release, by which releases of a series follow each other.
fn numbers(release: &str) -> Vec<u64> {
    let version = release.strip_suffix(FLAVOUR).unwrap_or(release);
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

/// Downloads and unpacks a kernel's packages.
fn fetch(archive: &Archive, release: &str, root: &Path) -> Result<()> {
    let image = format!("{IMAGE}{release}");
    let depends = archive.cache(&["depends", &image])?;
    let parts = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    let parts = parts.filter(|name| PARTS.iter().any(|part| name.starts_with(part)));
    let packages = parts.chain([image.as_str()]).collect::<Vec<_>>();
    archive.unpack(&packages, root, |unpacked, _| {
        // Newer packages have it in /usr/lib, where systems have a link of this name.
        if !unpacked.join("lib").exists() {
            symlink("usr/lib", unpacked.join("lib"))?;
        }
        // Packages come without the modules' dependencies: installing them would work them out.
        run(Command::new(depmod()).arg("-b").arg(unpacked).arg(release))
    })
}

/// Lies in a directory that only root has in its PATH.
fn depmod() -> PathBuf {
    let path = PathBuf::from("/usr/sbin/depmod");
    if path.is_file() { path } else { "/sbin/depmod".into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_a_series_is_taken() {
        let names = "linux-image-6.1-cloud-amd64\nlinux-image-6.1.0-9-cloud-amd64\n\
                     linux-image-6.1.0-56-cloud-amd64\nlinux-image-6.1.0-57-cloud-amd64-unsigned\n\
                     linux-image-6.1.0-58-amd64\nlinux-image-6.12.90+deb13-cloud-amd64\n\
                     linux-image-6.12.117+deb13-cloud-amd64\nlinux-image-6.12.90+deb13.1-cloud-amd64";
        let newest = |series| newest(series, names.lines());
        assert_eq!(newest("6.1").as_deref(), Some("6.1.0-56-cloud-amd64"));
        assert_eq!(newest("6.12").as_deref(), Some("6.12.117+deb13-cloud-amd64"));
        assert_eq!(newest("6.18"), None);
        let numbers = |version: &str| numbers(&format!("{version}{FLAVOUR}"));
        assert!(numbers("6.12.90+deb13.1") > numbers("6.12.90+deb13"));
    }

    #[test]
    fn modules_come_after_what_they_need() {
        let root = tempfile::tempdir().unwrap();
        let kernel = Kernel { root: root.path().into(), release: "1.2".to_owned() };
        let directory = root.path().join("lib/modules/1.2");
        fs::create_dir_all(&directory).unwrap();
        let dependencies =
            "kernel/a.ko: kernel/b.ko.xz kernel/c.ko\nkernel/b.ko.xz: kernel/c.ko\nkernel/c.ko:\n";
        fs::write(directory.join("modules.dep"), dependencies).unwrap();
        fs::write(directory.join("modules.builtin"), "kernel/in.ko\n").unwrap();
        let names = |wanted: &[&str]| -> Result<Vec<String>> {
            let files = kernel.module_files(wanted)?;
            Ok(files.iter().map(|path| module_name(&path.to_string_lossy()).to_owned()).collect())
        };
        assert_eq!(names(&["a", "in", "b"]).unwrap(), ["c", "b", "a"]);
        assert!(names(&["absent"]).unwrap_err().to_string().contains("absent"));
    }
}

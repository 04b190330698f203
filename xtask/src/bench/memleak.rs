//! memleak of libbpf-tools, to compare with: Debian's build of it, fetched once and kept unpacked
//! with the libraries of its own suite, so that it runs on any distribution.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{
    plan::Filter,
    watching::{DONE_WITHIN, Ready, Watching},
    work::Running,
};
use crate::{archive::Archive, say, workspace::cache_dir};

/// Suites that have it, the newest first.
const SUITES: [&str; 2] = ["sid", "trixie"];
const PACKAGE: &str = "libbpf-tools";
const PACKAGES: [&str; 5] = [PACKAGE, "libelf1t64", "zlib1g", "libc6", "libzstd1"];
const PROGRAM: &str = "usr/sbin/memleak-libbpf";
/// Holds the package's version, beside what is unpacked.
const VERSION: &str = "version";

/// kmalloc, `kmem_cache_alloc` and their frees at least; newer ones have twins and pages too.
const PROGRAMS: usize = 4;
/// Seconds between two of its lists: none falls into a measurement.
const INTERVAL: &str = "3600";
/// More stacks than it can keep, so that its closing list is complete.
const STACKS: &str = "100000";

/// A memleak at hand.
#[derive(Clone, Debug)]
pub(super) struct Memleak {
    root: PathBuf,
    /// Of Debian's package; the program itself always says 0.1.
    pub(super) version: String,
    /// Programs that it attaches here, once that is known.
    programs: usize,
}

impl Memleak {
    /// The one kept from before, or Debian's newest.
    pub(super) fn find_or_fetch() -> Result<Self> {
        let kept = cache_dir()?.join("memleak");
        if let Some(found) = SUITES.iter().find_map(|suite| Self::unpacked(kept.join(suite))) {
            return Ok(found);
        }
        fs::create_dir_all(&kept).with_context(|| kept.display().to_string())?;
        let mut failures = Vec::new();
        for suite in SUITES {
            let root = kept.join(suite);
            match fetch(suite, &root) {
                Ok(()) => match Self::unpacked(root) {
                    Some(found) => return Ok(found),
                    None => failures.push(format!("{suite}: no {PROGRAM} in {PACKAGE}")),
                },
                Err(error) => failures.push(format!("{suite}: {error:#}")),
            }
        }
        bail!("cannot get {PACKAGE} of Debian: {}", failures.join("; "))
    }

    fn unpacked(root: PathBuf) -> Option<Self> {
        let version = fs::read_to_string(root.join(VERSION)).ok()?.trim().to_owned();
        root.join(PROGRAM).is_file().then_some(Self { root, version, programs: 0 })
    }

    /// By the loader of its own libc: this system's may be older than the program.
    fn command(&self, filter: Filter) -> Result<Command> {
        let libraries = libraries(&self.root);
        let loader = libraries
            .iter()
            .chain(&[self.root.join("usr/lib64"), self.root.join("lib64")])
            .find_map(|directory| loader(directory))
            .with_context(|| format!("no dynamic loader under {}", self.root.display()))?;
        let path = std::env::join_paths(&libraries).context("the path of memleak's libraries")?;
        let mut command = Command::new(loader);
        command.arg("--library-path").arg(path).arg(self.root.join(PROGRAM));
        if let Filter::Class(bytes) = filter {
            let bytes = bytes.to_string();
            command.args(["-z", &bytes, "-Z", &bytes]);
        }
        command.args(["-T", STACKS, INTERVAL]);
        Ok(command)
    }

    /// Makes sure that it does its work here: one that is loaded and sees nothing would look free.
    /// It must list a message that is sent while it is attached. Not asked of every measurement:
    /// after one that leaves much, its list takes minutes.
    pub(super) fn prove(&mut self, filter: Filter, workload: &Path) -> Result<()> {
        let watching = Watching::start(self.command(filter)?, Ready::Holds(PROGRAMS))?;
        self.programs = watching.attached();
        let mut proof = Running::start(workload, &["msg", "--count", "1", "--size-class", "512"])?;
        proof.go()?;
        let said = watching.stop(DONE_WITHIN, |_| {})?;
        proof.finish()?;
        ensure!(
            said.iter().any(|line| line.contains("msgsnd") || line.contains("load_msg")),
            "memleak did not list a message that was sent while it was attached"
        );
        Ok(())
    }

    /// Attaches as many programs as when it was proven to work.
    pub(super) fn start(&self, filter: Filter) -> Result<Attached> {
        let programs = self.programs.max(PROGRAMS);
        let watching = Watching::start(self.command(filter)?, Ready::Holds(programs))?;
        Ok(Attached { watching, programs })
    }
}

/// memleak, attached.
pub(super) struct Attached {
    watching: Watching,
    programs: usize,
}

impl Attached {
    /// Ends it without its list.
    pub(super) fn stop(self) -> Result<()> {
        let held = self.watching.attached();
        drop(self.watching);
        ensure!(
            held >= self.programs,
            "memleak held {held} attached programs in the end, not {}: it has ended early",
            self.programs
        );
        Ok(())
    }
}

fn fetch(suite: &str, root: &Path) -> Result<()> {
    let archive = Archive::of("bench", suite)?;
    archive.unpack(&PACKAGES, root, |unpacked, files| {
        let version = files.iter().find_map(|file| version(file)).unwrap_or("of unknown version");
        let path = unpacked.join(VERSION);
        fs::write(&path, version).with_context(|| path.display().to_string())?;
        say::step("bench", &format!("memleak of {PACKAGE} {version} ({suite})"));
        Ok(())
    })
}

/// From the name of its package's file.
fn version(file: &str) -> Option<&str> {
    file.strip_prefix(PACKAGE)?.strip_prefix('_')?.split('_').next()
}

/// Directories of libraries: by Debian's name of the architecture, under `/lib` or `/usr/lib`.
fn libraries(root: &Path) -> Vec<PathBuf> {
    let entries = ["usr/lib", "lib"].map(|parent| fs::read_dir(root.join(parent)));
    let paths = entries.into_iter().flatten().flatten().flatten().map(|entry| entry.path());
    paths.filter(|path| path.to_string_lossy().contains("-linux-gnu")).collect()
}

fn loader(directory: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(directory).ok()?.flatten();
    let mut found =
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("ld-linux"));
    found.next().map(|entry| entry.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_in_the_files_name() {
        assert_eq!(version("libbpf-tools_0.37.0+ds-2_amd64.deb"), Some("0.37.0+ds-2"));
        assert_eq!(version("libc6_2.42-5_amd64.deb"), None);
    }

    #[test]
    fn it_runs_with_the_libraries_of_its_suite() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        for file in
            [PROGRAM, "usr/lib/x86_64-linux-gnu/libc.so.6", "usr/lib64/ld-linux-x86-64.so.2"]
        {
            fs::create_dir_all(root.join(file).parent().unwrap()).unwrap();
            fs::write(root.join(file), "").unwrap();
        }
        assert!(Memleak::unpacked(root.into()).is_none(), "not complete");
        fs::write(root.join(VERSION), "0.37\n").unwrap();
        let memleak = Memleak::unpacked(root.into()).unwrap();
        assert_eq!(memleak.version, "0.37");
        let command = memleak.command(Filter::Class(512)).unwrap();
        assert_eq!(command.get_program(), root.join("usr/lib64/ld-linux-x86-64.so.2"));
        let args: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy()).collect();
        assert!(args[1].ends_with("usr/lib/x86_64-linux-gnu"), "{args:?}");
        assert_eq!(args[3..7], ["-z", "512", "-Z", "512"]);
        assert!(!memleak.command(Filter::All).unwrap().get_args().any(|arg| arg == "-z"));
    }
}

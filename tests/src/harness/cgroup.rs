//! Cgroups of the memory hierarchy, or of the only one there is.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use super::{PATIENCE, output, wait_for};

/// A cgroup made for a test, and removed with its guard.
#[derive(Debug)]
pub struct Cgroup {
    root: PathBuf,
    path: String,
    made: Vec<PathBuf>,
}

impl Cgroup {
    /// Makes the cgroup `path` (without a leading `/`), and its parents as far as they are missing.
    pub fn make(path: &str) -> Result<Self> {
        let root = cgroup_hierarchy()?;
        let mut cgroup = Self { path: format!("/{path}"), made: Vec::new(), root };
        let mut directory = cgroup.root.clone();
        for part in path.split('/') {
            directory.push(part);
            if !directory.is_dir() {
                fs::create_dir(&directory).with_context(|| format!("making cgroup {path}"))?;
                cgroup.made.push(directory.clone());
            }
        }
        Ok(cgroup)
    }

    /// Takes over a cgroup that another process has made.
    pub fn adopt(path: &str) -> Result<Self> {
        let root = cgroup_hierarchy()?;
        let made = vec![root.join(path)];
        Ok(Self { root, path: format!("/{path}"), made })
    }

    /// Its path, as in `/proc/PID/cgroup`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Its directory.
    pub fn directory(&self) -> PathBuf {
        self.root.join(&self.path[1..])
    }

    /// Directory of the hierarchy's root.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Lets its children have a memory controller of their own (version 2; version 1's have).
    pub fn give_memory_to_children(&self) -> Result<()> {
        let mut directory = self.root.clone();
        for part in std::iter::once("").chain(self.path[1..].split('/')) {
            directory.push(part);
            let control = directory.join("cgroup.subtree_control");
            if control.is_file() {
                fs::write(&control, "+memory").with_context(|| control.display().to_string())?;
            }
        }
        Ok(())
    }

    /// Moves a process into it.
    pub fn join(&self, pid: u32) -> Result<()> {
        let procs = self.root.join(&self.path[1..]).join("cgroup.procs");
        fs::write(&procs, pid.to_string()).with_context(|| format!("{pid} into {}", self.path))?;
        let now = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        ensure!(now.lines().any(|line| line.ends_with(&self.path)), "{pid} is in {now}");
        Ok(())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for directory in self.made.iter().rev() {
            let removed = wait_for("removal of a cgroup", PATIENCE, || {
                if let Ok(pids) = fs::read_to_string(directory.join("cgroup.procs")) {
                    for pid in pids.lines() {
                        // One that has ended meanwhile need not be moved.
                        drop(fs::write(self.root.join("cgroup.procs"), pid));
                    }
                }
                Ok(fs::remove_dir(directory).ok())
            });
            if let Err(error) = removed {
                output::shout(&format!("left behind: {}: {error:#}", directory.display()));
            }
        }
    }
}

/// Version 1's memory hierarchy, else version 2's.
pub fn cgroup_hierarchy() -> Result<PathBuf> {
    ["/sys/fs/cgroup/memory", "/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .into_iter()
        .map(Path::new)
        .find(|root| root.join("cgroup.procs").is_file())
        .map(Path::to_owned)
        .context("no cgroup file system is mounted under /sys/fs/cgroup")
}

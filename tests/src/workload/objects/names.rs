//! What has a name in a file system: threads in /proc, directories, cgroups.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result, anyhow};

use super::Objects;
use super::descriptors::drop_all;
use crate::harness::cgroup_hierarchy;

/// Stack of a thread that only sleeps, bytes.
const STACK: usize = 64 << 10;

/// Threads that sleep: each has a directory in `/proc/PID/task`, whose names the kernel remembers
/// (dentries) from when somebody first reads it until the thread ends.
#[derive(Default)]
pub(super) struct Threads(Vec<(Sender<()>, JoinHandle<()>)>);

impl Objects for Threads {
    fn make(&mut self) -> Result<()> {
        let (sender, receiver) = channel::<()>();
        let thread = std::thread::Builder::new().stack_size(STACK).name("sleeper".to_owned());
        // Wakes when the other end goes.
        let wait = move || while receiver.recv().is_ok() {};
        let thread = thread.spawn(wait).context("a thread")?;
        self.0.push((sender, thread));
        Ok(())
    }

    fn destroy(&mut self) -> Result<usize> {
        let threads = std::mem::take(&mut self.0);
        let count = threads.len();
        for (sender, thread) in threads {
            drop(sender);
            thread.join().map_err(|_| anyhow!("a thread panicked"))?;
        }
        Ok(count)
    }
}

/// Directories in a directory that goes with them.
pub(super) struct Directories {
    root: PathBuf,
    made: Vec<PathBuf>,
    number: usize,
}

impl Directories {
    /// On the private tmpfs, whose names and inodes go when they are removed.
    pub(super) fn ordinary(name: &str) -> Result<Self> {
        Self::new(Path::new(super::inodes::PRIVATE).join(name))
    }

    /// Memory cgroups, or those of the only hierarchy there is.
    pub(super) fn cgroups(name: &str) -> Result<Self> {
        Self::new(cgroup_hierarchy()?.join(name))
    }

    fn new(root: PathBuf) -> Result<Self> {
        fs::create_dir(&root).with_context(|| root.display().to_string())?;
        Ok(Self { root, made: Vec::new(), number: 0 })
    }
}

impl Objects for Directories {
    fn make(&mut self) -> Result<()> {
        // Names of their own: a name used again would find what the kernel remembers of it.
        let path = self.root.join(self.number.to_string());
        fs::create_dir(&path).with_context(|| path.display().to_string())?;
        self.number += 1;
        self.made.push(path);
        Ok(())
    }

    fn destroy(&mut self) -> Result<usize> {
        for path in &self.made {
            fs::remove_dir(path).with_context(|| path.display().to_string())?;
        }
        Ok(drop_all(&mut self.made))
    }
}

impl Drop for Directories {
    fn drop(&mut self) {
        for path in self.made.drain(..).chain([self.root.clone()]) {
            drop(fs::remove_dir(path));
        }
    }
}

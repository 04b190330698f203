//! A source tree, made here so that nothing is fetched and every machine has the same: packed once,
//! then unpacked and compiled in every measurement.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context as _, Result, bail};

use crate::{command::run, workspace::in_path};

/// Small files, as most of a source tree is.
const FILES: usize = 2500;
const FILES_A_DIRECTORY: usize = 50;
const TEXT: &str = "Some text, so that the file is not empty and takes a page of the cache.\n";
/// Files that are compiled, and functions in each.
const SOURCES: usize = 5;
const FUNCTIONS: usize = 120;

/// A tarball at hand.
pub(super) struct Tree {
    archive: PathBuf,
    unpacked: PathBuf,
    cc: PathBuf,
}

impl Tree {
    pub(super) fn make(directory: &Path) -> Result<Self> {
        let Some(cc) = in_path("cc") else { bail!("there is no C compiler (cc)") };
        if in_path("tar").is_none() {
            bail!("there is no tar");
        }
        let source = directory.join("source");
        remove(&source)?;
        for file in 0..FILES {
            let parent = source.join(format!("d{}", file / FILES_A_DIRECTORY));
            write(&parent, &format!("f{file}.txt"), &TEXT.repeat(1 + file % 40))?;
        }
        for file in 0..SOURCES {
            write(&source.join("c"), &format!("s{file}.c"), &code(file))?;
        }
        let tree =
            Self { archive: directory.join("source.tar"), unpacked: directory.join("out"), cc };
        run(Command::new("tar").arg("-cf").arg(&tree.archive).arg("-C").arg(&source).arg("."))?;
        remove(&source)?;
        Ok(tree)
    }

    /// Seconds to unpack and compile it.
    pub(super) fn measure(&self) -> Result<f64> {
        remove(&self.unpacked)?;
        fs::create_dir_all(&self.unpacked)
            .with_context(|| format!("cannot make {}", self.unpacked.display()))?;
        let start = Instant::now();
        run(Command::new("tar").arg("-xf").arg(&self.archive).arg("-C").arg(&self.unpacked))?;
        for file in 0..SOURCES {
            let mut cc = Command::new(&self.cc);
            cc.args(["-O1", "-c", "-o", &format!("s{file}.o"), &format!("c/s{file}.c")]);
            run(cc.current_dir(&self.unpacked))?;
        }
        let elapsed = start.elapsed();
        remove(&self.unpacked)?;
        Ok(elapsed.as_secs_f64())
    }
}

fn code(file: usize) -> String {
    let mut code = String::from("#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n");
    for function in 0..FUNCTIONS {
        // Formatting into a String cannot fail.
        let _ = writeln!(
            code,
            "int f{file}_{function}(int a, int b) {{ int s = a; \
             for (int i = 0; i < b; i++) s += (a ^ i) * {function} + b; return s; }}"
        );
    }
    code
}

fn write(parent: &Path, name: &str, text: &str) -> Result<()> {
    fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    let path = parent.join(name);
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn remove(path: &Path) -> Result<()> {
    if path.exists() {
        fs::remove_dir_all(path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_packed_unpacked_and_compiled() {
        let directory = tempfile::tempdir().unwrap();
        // Where there is no compiler there is nothing to test.
        let Ok(tree) = Tree::make(directory.path()) else { return };
        assert!(tree.measure().unwrap() > 0.0);
        assert!(!directory.path().join("out").exists());
    }
}

//! What a virtual machine boots into: an archive of a small system, the tests and kleak, all in
//! memory.

use std::{
    fmt::Write as _,
    fs::{self, File, Permissions},
    io::{self, Write as _},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{
    kernel::{Kernel, module_name},
    suite::Programs,
};
use crate::{
    command::{output, run, shown},
    workspace::in_path,
};

const INIT: &str = include_str!("init.sh");

/// Modules that the tests' workloads need where they are not built in.
const MODULES: [&str; 1] = ["veth"];

/// Programs that the workloads run, and that busybox has not or not in full.
const FROM_HOST: [&str; 1] = ["ip"];

/// What `init.sh` is told, by name. A value must be plain words.
pub(super) type Settings = Vec<(String, String)>;

/// Makes the part that all machines have in common.
pub(super) fn common(programs: &Programs, work: &Path) -> Result<PathBuf> {
    let root = work.join("root");
    if root.exists() {
        fs::remove_dir_all(&root).with_context(|| root.display().to_string())?;
    }
    for directory in ["bin", "kleak/bin", "kleak/tests"] {
        fs::create_dir_all(root.join(directory)).with_context(|| root.display().to_string())?;
    }
    let busybox = in_path("busybox").context("no busybox (package busybox-static)")?;
    ensure!(libraries(&busybox)?.is_empty(), "busybox is not static (package busybox-static)");
    copy(&busybox, &root.join("bin/busybox"))?;
    executable(&root.join("init"), INIT)?;
    for name in FROM_HOST {
        let program = in_path(name).with_context(|| format!("no program {name}"))?;
        copy(&program, &root.join("kleak/bin").join(name))?;
        for library in libraries(&program)? {
            let place = root.join(library.strip_prefix("/").unwrap_or(&library));
            if let Some(directory) = place.parent() {
                fs::create_dir_all(directory).with_context(|| place.display().to_string())?;
            }
            copy(&library, &place)?;
        }
    }
    strip(&programs.kleak, &root.join("kleak/kleak"))?;
    strip(&programs.workload, &root.join("kleak/kleak-workload"))?;
    for (name, test) in &programs.tests {
        strip(test, &root.join("kleak/tests").join(name))?;
    }
    // For programs that do without PATH.
    symlink("bin", root.join("sbin"))?;
    let archive = work.join("common.cpio");
    pack(&root, &archive)?;
    Ok(archive)
}

/// Makes one machine's: the common part, its kernel's modules and its settings.
pub(super) fn of_machine(
    common: &Path,
    kernel: &Kernel,
    settings: Settings,
    work: &Path,
) -> Result<PathBuf> {
    let root = work.join("root");
    if root.exists() {
        fs::remove_dir_all(&root).with_context(|| root.display().to_string())?;
    }
    for directory in ["modules", "kleak"] {
        fs::create_dir_all(root.join(directory)).with_context(|| root.display().to_string())?;
    }
    let mut modules = Vec::new();
    for file in kernel.module_files(&MODULES)? {
        let name = format!("{}.ko", module_name(&file.to_string_lossy()));
        let compressed = file.extension().is_some_and(|extension| extension == "xz");
        let place = root.join("modules").join(&name);
        if compressed {
            decompress(&file, &place)?;
        } else {
            copy(&file, &place)?;
        }
        modules.push(name);
    }
    let mut text = String::new();
    for (name, value) in settings.into_iter().chain([("MODULES".to_owned(), modules.join(" "))]) {
        let plain = |c: char| c.is_ascii_alphanumeric() || "_-:. ".contains(c);
        ensure!(value.chars().all(plain), "{name}: {value:?} is not plain words");
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name}='{value}'");
    }
    let file = root.join("kleak/settings");
    fs::write(&file, text).with_context(|| file.display().to_string())?;
    let own = work.join("own.cpio");
    pack(&root, &own)?;
    // The kernel reads archives one after the other.
    let archive = work.join("initramfs.cpio");
    let mut to = File::create(&archive).with_context(|| archive.display().to_string())?;
    for part in [common, &own] {
        let mut from = File::open(part).with_context(|| part.display().to_string())?;
        io::copy(&mut from, &mut to).with_context(|| archive.display().to_string())?;
    }
    Ok(archive)
}

/// Uncompressed: an emulated processor takes longer to decompress than to copy.
fn pack(root: &Path, archive: &Path) -> Result<()> {
    let list = output(Command::new("find").args([".", "-mindepth", "1"]).current_dir(root))?;
    let to = File::create(archive).with_context(|| archive.display().to_string())?;
    let mut cpio = Command::new("cpio");
    cpio.args(["--quiet", "-o", "-H", "newc", "-R", "0:0"])
        .current_dir(root)
        .stdin(Stdio::piped())
        .stdout(to);
    let mut child = cpio.spawn().with_context(|| format!("cannot run {}", shown(&cpio)))?;
    let fed = match child.stdin.take() {
        Some(mut stdin) => stdin.write_all(list.as_bytes()),
        None => Ok(()),
    };
    let status = child.wait().context("cannot wait for cpio")?;
    if !status.success() {
        bail!("failed with {status}: {}", shown(&cpio));
    }
    fed.context("cannot tell cpio what to pack")
}

/// The libraries a program is linked against, the loader among them.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    // ldd says so of a static program by failing.
    let Ok(list) = output(Command::new("ldd").arg(program)) else { return Ok(Vec::new()) };
    let paths = list.lines().filter_map(|line| {
        let line = line.trim();
        let path = line.split_once("=> ").map_or(line, |(_, path)| path).split(" (").next()?;
        path.starts_with('/').then(|| PathBuf::from(path))
    });
    ensure!(!list.contains("not found"), "{} lacks a library: {list}", program.display());
    Ok(paths.collect())
}

/// Without what only a debugger reads: four fifths of the size.
fn strip(from: &Path, to: &Path) -> Result<()> {
    run(Command::new("strip").arg("-o").arg(to).arg(from)).context("stripping (package binutils)")
}

fn decompress(from: &Path, to: &Path) -> Result<()> {
    let file = File::create(to).with_context(|| to.display().to_string())?;
    let mut xz = Command::new("xz");
    xz.args(["--decompress", "--stdout"]).arg(from).stdout(file);
    let status = xz.status().with_context(|| format!("cannot run {}", shown(&xz)))?;
    ensure!(status.success(), "failed with {status}: {}", shown(&xz));
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to)
        .map(drop)
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
}

fn executable(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text)
        .and_then(|()| fs::set_permissions(path, Permissions::from_mode(0o755)))
        .with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_holds_what_was_packed() {
        let work = tempfile::tempdir().unwrap();
        let root = work.path().join("root");
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("a/b/c"), "text").unwrap();
        let archive = work.path().join("x.cpio");
        pack(&root, &archive).unwrap();
        let bytes = fs::read(&archive).unwrap();
        assert!(bytes.starts_with(b"070701"), "newc, which the kernel reads");
        let holds = |word: &[u8]| bytes.windows(word.len()).any(|window| window == word);
        assert!(holds(b"a/b/c") && holds(b"text") && holds(b"TRAILER!!!"));
    }

    #[test]
    fn libraries_of_a_program_include_its_loader() {
        let of_find = libraries(&in_path("find").unwrap()).unwrap();
        assert!(of_find.iter().any(|path| path.to_string_lossy().contains("libc.so")));
        assert!(of_find.iter().any(|path| path.to_string_lossy().contains("ld-linux")));
        assert!(of_find.iter().all(|path| path.is_file()), "{of_find:?}");
    }
}

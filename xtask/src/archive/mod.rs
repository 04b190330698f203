//! Debian's packages of any suite, for machines that run another one.

mod mirror;

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use self::mirror::Mirror;
use crate::{
    command::{output, run},
    say,
    workspace::cache_dir,
};

const KEYRINGS: [&str; 2] = [
    "/usr/share/keyrings/debian-archive-keyring.gpg",
    "/usr/share/keyrings/debian-archive-keyring.pgp",
];

/// One suite, as an apt of its own sees it: nothing of it reaches the system's lists. apt checks
/// the signature of the index, and by the index each package.
pub(crate) struct Archive {
    /// Under whose name it says what it does.
    task: &'static str,
    directory: PathBuf,
}

impl Archive {
    pub(crate) fn of(task: &'static str, suite: &str) -> Result<Self> {
        let mirror = Mirror::find()?;
        let uri = if suite.ends_with("-security") { mirror.security } else { mirror.archive };
        let Some(keyring) = KEYRINGS.iter().find(|keyring| Path::new(keyring).is_file()) else {
            bail!("no {} to check what is fetched (package debian-archive-keyring)", KEYRINGS[0]);
        };
        let archive = Self { task, directory: cache_dir()?.join("apt").join(suite) };
        for part in ["lists/partial", "archives/partial"] {
            fs::create_dir_all(archive.directory.join(part))
                .with_context(|| archive.directory.display().to_string())?;
        }
        let list = archive.directory.join("sources.list");
        fs::write(&list, format!("deb [signed-by={keyring}] {uri} {suite} main\n"))
            .with_context(|| list.display().to_string())?;
        say::step(task, &format!("fetching the package list of {suite}"));
        run(archive.apt("apt-get").args(["-qq", "update"]))?;
        Ok(archive)
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let mut set = |name: &str, value: &Path| {
            let mut option = OsString::from(format!("{name}="));
            option.push(value);
            command.arg("-o").arg(option);
        };
        set("Dir::Etc::sourcelist", &self.directory.join("sources.list"));
        set("Dir::Etc::sourceparts", Path::new("/dev/null"));
        set("Dir::State::lists", &self.directory.join("lists"));
        set("Dir::State::status", Path::new("/dev/null"));
        set("Dir::Cache", &self.directory);
        // The cache may lie where apt's own user cannot write.
        set("APT::Sandbox::User", Path::new("root"));
        set("Acquire::Languages", Path::new("none"));
        // Some systems have apt fetch lists of icons too.
        set("Acquire::IndexTargets::deb::DEP-11::DefaultEnabled", Path::new("false"));
        command.env("LC_ALL", "C");
        command
    }

    /// What `apt-cache` prints.
    pub(crate) fn cache(&self, args: &[&str]) -> Result<String> {
        output(self.apt("apt-cache").args(args))
    }

    /// Downloads and unpacks packages, has them made ready (given where they lie unpacked, and
    /// the names of the files they came in), and puts the result in place when it is complete.
    pub(crate) fn unpack(
        &self,
        packages: &[&str],
        root: &Path,
        make_ready: impl FnOnce(&Path, &[String]) -> Result<()>,
    ) -> Result<()> {
        say::step(self.task, &format!("fetching {}", packages.join(" ")));
        let name = root.file_name().unwrap_or_default().to_string_lossy();
        let unfinished = root.with_file_name(format!(".{name}-{}", std::process::id()));
        let made = self
            .unpack_in(packages, &unfinished)
            .and_then(|files| make_ready(&unfinished, &files))
            .and_then(|()| match fs::rename(&unfinished, root) {
                // Another xtask was faster.
                Err(_) if root.is_dir() => Ok(()),
                renamed => renamed.with_context(|| root.display().to_string()),
            });
        // There is nothing left of it if all went well.
        drop(fs::remove_dir_all(&unfinished));
        made
    }

    fn unpack_in(&self, packages: &[&str], root: &Path) -> Result<Vec<String>> {
        let fetched = root.join("packages");
        fs::create_dir_all(&fetched).with_context(|| fetched.display().to_string())?;
        run(self.apt("apt-get").args(["-q", "download"]).args(packages).current_dir(&fetched))?;
        let mut files = Vec::new();
        for package in fs::read_dir(&fetched)? {
            let package = package?;
            run(Command::new("dpkg-deb").arg("-x").arg(package.path()).arg(root))?;
            files.push(package.file_name().to_string_lossy().into_owned());
        }
        fs::remove_dir_all(&fetched)?;
        Ok(files)
    }
}

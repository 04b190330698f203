//! Debian's and Ubuntu's packages.

use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::{
    command::{output, run},
    say,
    workspace::in_path,
};

/// Proof that this system has apt.
pub(crate) struct Apt {
    updated: bool,
}

impl Apt {
    pub(crate) fn find() -> Option<Self> {
        in_path("apt-get").and(in_path("dpkg-query")).map(|_| Self { updated: false })
    }

    /// Those of the packages that are not installed.
    pub(crate) fn missing<'a>(packages: &[&'a str]) -> Vec<&'a str> {
        let installed = |package: &&str| {
            output(Command::new("dpkg-query").args(["-W", "-f=${db:Status-Status}", *package]))
                .is_ok_and(|status| status == "installed")
        };
        packages.iter().copied().filter(|package| !installed(package)).collect()
    }

    /// Installs what is missing of the packages. Says the command to run where it may not.
    pub(crate) fn install(&mut self, packages: &[&str]) -> Result<()> {
        let missing = Self::missing(packages);
        if missing.is_empty() { Ok(()) } else { self.install_newest(&missing) }
    }

    /// Installs the packages, or brings them up to the newest version there is.
    pub(crate) fn install_newest(&mut self, packages: &[&str]) -> Result<()> {
        let list = packages.join(" ");
        if !is_root() {
            bail!("only root may install packages: {}", install_line(packages));
        }
        self.update()?;
        say::step("setup", &format!("installing {list}"));
        run(apt_get().args(["-y", "--no-install-recommends", "install"]).args(packages))
            .with_context(|| format!("could not install {list}; try: {}", install_line(packages)))
    }

    /// Fetches the package lists, once: a fresh container has none, an old machine has stale ones.
    pub(crate) fn update(&mut self) -> Result<()> {
        if self.updated || !is_root() {
            return Ok(());
        }
        say::step("setup", "fetching the package lists");
        run(apt_get().arg("update")).context("could not fetch the package lists")?;
        self.updated = true;
        Ok(())
    }

    /// The version that would be installed.
    pub(crate) fn candidate(package: &str) -> Option<String> {
        let policy = output(Command::new("apt-cache").env("LC_ALL", "C").args(["policy", package]));
        parse_candidate(&policy.ok()?)
    }

    /// Every known package whose name begins so.
    pub(crate) fn names(prefix: &str) -> Vec<String> {
        output(Command::new("apt-cache").args(["pkgnames", prefix]))
            .map(|names| names.lines().map(str::to_owned).collect())
            .unwrap_or_default()
    }

    /// The files of an installed package.
    pub(crate) fn files(package: &str) -> Option<String> {
        output(Command::new("dpkg-query").args(["-L", package])).ok()
    }
}

/// The line for a person to paste.
pub(crate) fn install_line(packages: &[&str]) -> String {
    format!("sudo apt-get update && sudo apt-get install -y {}", packages.join(" "))
}

pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        // Waits for another apt to finish: machines just booted often run one of their own.
        .args(["-qq", "-o", "DPkg::Lock::Timeout=300"])
        // Without a terminal of its own dpkg draws no progress bar.
        .args(["-o", "Dpkg::Use-Pty=0"]);
    command
}

fn parse_candidate(policy: &str) -> Option<String> {
    let candidate =
        policy.lines().find_map(|line| line.trim_start().strip_prefix("Candidate:"))?.trim();
    (candidate != "(none)").then(|| candidate.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_candidate_is_read_from_a_policy() {
        let policy = "rustc-web:\n  Installed: (none)\n  Candidate: 1.96.0+dfsg1-1~deb12u2\n  \
                      Version table:\n     1.96.0+dfsg1-1~deb12u2 500\n";
        assert_eq!(parse_candidate(policy).as_deref(), Some("1.96.0+dfsg1-1~deb12u2"));
        assert_eq!(parse_candidate("x:\n  Installed: 1\n  Candidate: (none)\n"), None);
        assert_eq!(parse_candidate(""), None);
    }
}

//! What `rustc -vV` says.

use std::fmt;

use anyhow::{Context as _, Result};

/// A compiler's release, without what follows a `-` or a `+`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Release {
    major: u32,
    minor: u32,
    patch: u32,
}

impl Release {
    /// The workspace's `rust-version`, which xtask shares: cargo would refuse anything older.
    pub(crate) const WANTED: Self = match Self::parse_const(env!("CARGO_PKG_RUST_VERSION")) {
        Some(release) => release,
        None => Self { major: 1, minor: 0, patch: 0 },
    };

    /// Reads `1.96.0`, `1.97.0-nightly`, `1.96.0+dfsg1-1~deb12u2` and `1.95`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::parse_const(text)
    }

    const fn parse_const(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let mut parts = [0_u32; 3];
        let mut part = 0;
        let mut digits = 0;
        let mut at = 0;
        while at < bytes.len() {
            let byte = bytes[at];
            if byte.is_ascii_digit() && digits < 6 {
                parts[part] = parts[part] * 10 + (byte - b'0') as u32;
                digits += 1;
            } else if byte == b'.' && digits > 0 && part < 2 {
                part += 1;
                digits = 0;
            } else {
                break;
            }
            at += 1;
        }
        if part == 0 || digits == 0 {
            return None;
        }
        let [major, minor, patch] = parts;
        Some(Self { major, minor, patch })
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { major, minor, patch } = self;
        write!(f, "{major}.{minor}.{patch}")
    }
}

/// The lines of `rustc -vV` that matter here.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RustcVersion {
    pub(crate) release: Release,
    pub(crate) host: String,
    pub(crate) llvm_major: u32,
}

impl RustcVersion {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let value = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
                .with_context(|| format!("no line `{name}:`"))
        };
        let release = value("release")?;
        let llvm = value("LLVM version")?;
        Ok(Self {
            release: Release::parse(release).with_context(|| format!("release `{release}`"))?,
            host: value("host")?.to_owned(),
            llvm_major: llvm
                .split('.')
                .next()
                .and_then(|major| major.parse().ok())
                .with_context(|| format!("LLVM version `{llvm}`"))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEBIAN: &str = "\
rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)
binary: rustc
commit-hash: ac68faa20c58cbccd01ee7208bf3b6e93a7d7f96
commit-date: 2026-05-25
host: x86_64-unknown-linux-gnu
release: 1.96.0
LLVM version: 22.1.8
";

    fn release(text: &str) -> Option<String> {
        Release::parse(text).map(|release| release.to_string())
    }

    #[test]
    fn a_compilers_own_account_is_read() {
        let version = RustcVersion::parse(DEBIAN).unwrap();
        assert_eq!(version.release.to_string(), "1.96.0");
        assert_eq!(version.host, "x86_64-unknown-linux-gnu");
        assert_eq!(version.llvm_major, 22);
    }

    #[test]
    fn what_is_missing_is_named() {
        let text = DEBIAN.replace("LLVM version", "Cranelift version");
        let error = RustcVersion::parse(&text).unwrap_err().to_string();
        assert!(error.contains("LLVM version"), "{error}");
    }

    #[test]
    fn releases_of_every_spelling_are_read() {
        assert_eq!(release("1.97.0-nightly").as_deref(), Some("1.97.0"));
        assert_eq!(release("1.96.0+dfsg1-1~deb12u2").as_deref(), Some("1.96.0"));
        assert_eq!(release("1.95").as_deref(), Some("1.95.0"));
        assert_eq!(release("1.63.0.1").as_deref(), Some("1.63.0"));
        assert_eq!(release("96"), None);
        assert_eq!(release("1."), None);
        assert_eq!(release(""), None);
    }

    #[test]
    fn releases_compare_as_numbers() {
        assert!(Release::parse("1.100.0") > Release::parse("1.96.9"));
        assert!(Release::parse("1.63.0+dfsg1").unwrap() < Release::WANTED);
        assert!(Release::WANTED > Release::parse("1.0").unwrap());
    }
}

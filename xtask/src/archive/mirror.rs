//! Where this machine's own apt gets Debian's packages from: other suites are there too.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};

/// Names the mirror where apt's sources name none, as on Ubuntu.
pub(super) const ENV_MIRROR: &str = "KLEAK_DEBIAN_MIRROR";

/// The two archives of Debian.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mirror {
    pub(super) archive: String,
    pub(super) security: String,
}

impl Mirror {
    pub(super) fn find() -> Result<Self> {
        if let Some(archive) = env::var(ENV_MIRROR).ok().filter(|archive| !archive.is_empty()) {
            return Ok(Self::beside(archive.trim_end_matches('/')));
        }
        let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let debian = release.lines().any(|line| matches!(line, "ID=debian" | "ID=\"debian\""));
        let found = if debian { Self::of_sources(&sources(Path::new("/etc/apt"))) } else { None };
        match found {
            Some(mirror) => Ok(mirror),
            None => bail!(
                "apt's sources name no mirror of Debian, whose packages are wanted: \
                 set {ENV_MIRROR} to the address of one (of the directory that has `dists`)"
            ),
        }
    }

    /// Mirrors have the one archive beside the other.
    fn beside(archive: &str) -> Self {
        Self { archive: archive.to_owned(), security: format!("{archive}-security") }
    }

    fn of_sources(sources: &[Source]) -> Option<Self> {
        let archive = sources.iter().find(|source| !source.is_security())?;
        let security = sources.iter().find(|source| source.is_security());
        let mut mirror = Self::beside(&archive.uri);
        if let Some(security) = security {
            mirror.security.clone_from(&security.uri);
        }
        Some(mirror)
    }
}

/// One suite of one archive, in apt's sources.
#[derive(Debug, PartialEq, Eq)]
struct Source {
    uri: String,
    suite: String,
}

impl Source {
    fn new(uri: &str, suite: &str) -> Self {
        Self { uri: uri.trim_end_matches('/').to_owned(), suite: suite.to_owned() }
    }

    fn is_security(&self) -> bool {
        self.suite.ends_with("-security")
    }

    /// Of Debian itself, rather than of some vendor's packages for it.
    fn is_debians(&self) -> bool {
        let archive = self.uri.rsplit('/').next().unwrap_or_default();
        matches!(archive, "debian" | "debian-security")
    }
}

/// What apt reads: its list, then its directory, by name.
fn sources(apt: &Path) -> Vec<Source> {
    let mut files = vec![apt.join("sources.list")];
    let parts = fs::read_dir(apt.join("sources.list.d")).into_iter().flatten().flatten();
    let mut parts = parts.map(|entry| entry.path()).collect::<Vec<PathBuf>>();
    parts.sort();
    files.append(&mut parts);
    let mut sources = Vec::new();
    for file in files {
        // A file that cannot be read is as good as none: at worst no mirror is found.
        let text = fs::read_to_string(&file).unwrap_or_default();
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("list") => sources.extend(text.lines().filter_map(one_line)),
            Some("sources") => sources.extend(text.split("\n\n").flat_map(paragraph)),
            _ => {}
        }
    }
    sources.retain(Source::is_debians);
    sources
}

/// `deb [options] URI SUITE COMPONENT…`
fn one_line(line: &str) -> Option<Source> {
    let rest = line.trim().strip_prefix("deb ")?.trim_start();
    let rest = match rest.strip_prefix('[') {
        Some(options) => options.split_once(']')?.1,
        None => rest,
    };
    let mut words = rest.split_whitespace();
    Some(Source::new(words.next()?, words.next()?))
}

/// A paragraph of `Name: values`, in deb822's form, of which only the first address is taken.
fn paragraph(text: &str) -> Vec<Source> {
    let field = |name: &str| {
        text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    };
    if field("Enabled").is_some_and(|enabled| enabled.eq_ignore_ascii_case("no")) {
        return Vec::new();
    }
    let uri = field("URIs").and_then(|uris| uris.split_whitespace().next());
    let suites = field("Suites").unwrap_or_default().split_whitespace();
    uri.map(|uri| suites.map(|suite| Source::new(uri, suite)).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEB822: &str = "Types: deb\n# a remark: with a colon\nURIs: http://mirror.test/debian/\n\
                          Suites: bookworm bookworm-updates\nComponents: main\n\n\
                          Types: deb\nURIs: http://mirror.test/debian-security\n\
                          Suites: bookworm-security\nComponents: main\n";

    fn read(name: &str, text: &str) -> Vec<Source> {
        let apt = tempfile::tempdir().unwrap();
        fs::create_dir(apt.path().join("sources.list.d")).unwrap();
        fs::write(apt.path().join("sources.list.d").join(name), text).unwrap();
        sources(apt.path())
    }

    #[test]
    fn the_mirror_is_read_from_deb822_sources() {
        let mirror = Mirror::of_sources(&read("debian.sources", DEB822)).unwrap();
        assert_eq!(mirror, Mirror::beside("http://mirror.test/debian"));
    }

    #[test]
    fn the_mirror_is_read_from_lists() {
        let list = "# deb http://old.test/debian bookworm main\n\
                    deb [arch=amd64 signed-by=/k.gpg] https://vendor.test/deb nodistro main\n\
                    deb [arch=amd64] http://a.test/debian bookworm main\n\
                    deb http://b.test/debian-security bookworm-security main\n\
                    deb-src http://a.test/debian bookworm main\n";
        let mirror = Mirror::of_sources(&read("x.list", list)).unwrap();
        assert_eq!(mirror.archive, "http://a.test/debian");
        assert_eq!(mirror.security, "http://b.test/debian-security");
    }

    #[test]
    fn other_files_disabled_paragraphs_and_vendors_name_no_mirror() {
        assert!(read("debian.sources.save", DEB822).is_empty());
        let disabled = format!("Enabled: no\n{}", DEB822.replace("\n\n", "\n\nEnabled: no\n"));
        assert!(read("debian.sources", &disabled).is_empty());
        assert!(read("v.list", "deb https://vendor.test/node_20.x nodistro main\n").is_empty());
    }
}

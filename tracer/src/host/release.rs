//! The kernel's version, as far as behaviour hangs on it and no file tells.

/// What `uname -r` says: `3.10.0-957.21.3.el7.x86_64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Release {
    /// 3.
    pub major: u32,
    /// 10.
    pub minor: u32,
    /// Of a kernel of Red Hat Enterprise Linux or its kin: 957, its build.
    pub build: Option<u32>,
    /// Likewise: 7, the distribution's version.
    pub enterprise: Option<u32>,
}

impl Release {
    /// Whether it is this version or a later one. Distributions carry features back, so that what can
    /// be told from a file is to be told from it.
    #[must_use]
    pub fn is_from(&self, major: u32, minor: u32) -> bool {
        (self.major, self.minor) >= (major, minor)
    }
}

/// Parses `uname -r`; `None` when it does not begin with two numbers.
#[must_use]
pub fn parse(text: &str) -> Option<Release> {
    let text = text.trim();
    let (version, rest) = match text.split_once('-') {
        Some((version, rest)) => (version, Some(rest)),
        None => (text, None),
    };
    let mut numbers = version.split('.');
    let major = number(numbers.next()?)?;
    let minor = number(numbers.next()?)?;
    let parts = || rest.into_iter().flat_map(|rest| rest.split('.'));
    let enterprise = parts().find_map(|part| {
        let version = part.strip_prefix("el")?;
        number(version.split('_').next()?)
    });
    let build = enterprise.and(parts().next()).and_then(number);
    Some(Release { major, minor, build, enterprise })
}

/// The number that a part begins with: `18` of `18+deb13`.
fn number(text: &str) -> Option<u32> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.get(..end)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn versions_of_distributions() {
        let of = |text: &str| {
            let release = parse(text).unwrap();
            (release.major, release.minor, release.build, release.enterprise)
        };
        assert_eq!(of("3.10.0-957.21.3.el7.x86_64"), (3, 10, Some(957), Some(7)));
        assert_eq!(of("3.10.0-1160.el7.x86_64"), (3, 10, Some(1160), Some(7)));
        assert_eq!(of("4.18.0-553.el8_10.x86_64"), (4, 18, Some(553), Some(8)));
        assert_eq!(of("4.19.90-24.4.v2101.ky10.x86_64"), (4, 19, None, None));
        assert_eq!(of("6.12.107\n"), (6, 12, None, None));
        assert_eq!(of("7.0-rc1"), (7, 0, None, None));
        assert_eq!(of("6.18+deb13-amd64"), (6, 18, None, None));
        for nonsense in ["", "linux", "6", "6.", "-6.1"] {
            assert_eq!(parse(nonsense), None, "{nonsense}");
        }
        assert!(parse("4.8.0").unwrap().is_from(4, 8));
        assert!(!parse("3.10.0").unwrap().is_from(4, 8));
    }

    proptest! {
        #[test]
        fn never_panics(text in ".{0,60}") {
            let _ = parse(&text);
        }
    }
}

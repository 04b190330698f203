//! `--fail-on`: what is measured, and against what.

use std::fmt;
use std::str::FromStr;

/// A condition such as `growth>1MiB/min`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Condition {
    pub(super) limit: Limit,
    operator: Operator,
}

/// What is measured, and against what.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Limit {
    /// Bytes left behind in the window.
    Growth(f64),
    /// Bytes by which the growing owners grow in a unit of time.
    Rate(f64, Per),
    /// Objects left behind in the window.
    Objects(u64),
    /// The top owner's share, 0 to 1.
    Share(f64),
    /// Allocations that could not be followed.
    Untracked(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Per {
    Second,
    Minute,
    Hour,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Over,
    AtLeast,
}

/// Why an expression is not a [`Condition`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// It has no `>` or `>=`.
    #[error("`{0}` has no `>` or `>=`: write a metric, `>` and a threshold, as in `growth>1MiB`")]
    Operator(String),
    /// It measures something unheard of.
    #[error(
        "`{0}` is not a metric: use `growth`, `objects`, `owner.share` or `untracked`, as in \
         `growth>1MiB`, `growth>1MiB/min`, `objects>1000`, `owner.share>0.5`, `untracked>0`"
    )]
    Metric(String),
    /// Its threshold is no size, nor a size in a time.
    #[error(
        "`{0}` is not an amount of memory: use a number and B, KiB, MiB, GiB or TiB (also KB, MB, \
         GB, TB), and /s, /min or /h for a rate, as in `growth>1MiB` or `growth>1.5MiB/min`"
    )]
    Size(String),
    /// Its threshold is no count.
    #[error("`{0}` is not a count: `{1}` takes a whole number without a unit, as in `{1}>1000`")]
    Count(String, &'static str),
    /// Its threshold is no share.
    #[error("`{0}` is not a share: use 0 to 1 or 0% to 100%, as in `owner.share>0.5`")]
    Share(String),
    /// It asks for more than there can be.
    #[error("`{0}` can never hold, as there is no more than all: `owner.share>=1` is the highest")]
    Never(String),
}

impl FromStr for Condition {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let Some((metric, rest)) = text.split_once('>') else {
            return Err(ParseError::Operator(text.to_owned()));
        };
        let (operator, value) = match rest.strip_prefix('=') {
            Some(value) => (Operator::AtLeast, value.trim()),
            None => (Operator::Over, rest.trim()),
        };
        let limit = match metric.trim() {
            "growth" => growth(value).ok_or_else(|| ParseError::Size(value.to_owned()))?,
            "objects" => Limit::Objects(count(value, "objects")?),
            "untracked" => Limit::Untracked(count(value, "untracked")?),
            "owner.share" => {
                let share = share(value).ok_or_else(|| ParseError::Share(value.to_owned()))?;
                if share >= 1.0 && operator == Operator::Over {
                    return Err(ParseError::Never(text.to_owned()));
                }
                Limit::Share(share)
            }
            other => return Err(ParseError::Metric(other.to_owned())),
        };
        Ok(Self { limit, operator })
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let metric = match self.limit {
            Limit::Growth(_) | Limit::Rate(..) => "growth",
            Limit::Objects(_) => "objects",
            Limit::Share(_) => "owner.share",
            Limit::Untracked(_) => "untracked",
        };
        let operator = match self.operator {
            Operator::Over => ">",
            Operator::AtLeast => ">=",
        };
        write!(f, "{metric}{operator}")?;
        match self.limit {
            Limit::Growth(bytes) => f.write_str(&exact_size(bytes)),
            Limit::Rate(bytes, per) => write!(f, "{}/{}", exact_size(bytes), per.name()),
            Limit::Objects(n) | Limit::Untracked(n) => write!(f, "{n}"),
            Limit::Share(share) => write!(f, "{share}"),
        }
    }
}

impl Condition {
    /// Whether it is of an owner's share.
    pub(super) const fn is_of_share(&self) -> bool {
        matches!(self.limit, Limit::Share(_))
    }

    /// Whether it is of what could not be followed.
    pub(super) const fn is_of_untracked(&self) -> bool {
        matches!(self.limit, Limit::Untracked(_))
    }

    /// Whether `value` is past the limit.
    pub(super) fn passes(&self, value: f64, limit: f64) -> bool {
        match self.operator {
            Operator::Over => value > limit,
            Operator::AtLeast => value >= limit,
        }
    }

    /// The same of whole numbers, which are compared exactly.
    pub(super) fn passes_count(&self, value: u64, limit: u64) -> bool {
        match self.operator {
            Operator::Over => value > limit,
            Operator::AtLeast => value >= limit,
        }
    }
}

impl Per {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Second => "s",
            Self::Minute => "min",
            Self::Hour => "h",
        }
    }

    pub(super) fn seconds(self) -> f64 {
        match self {
            Self::Second => 1.0,
            Self::Minute => 60.0,
            Self::Hour => 3600.0,
        }
    }
}

fn growth(text: &str) -> Option<Limit> {
    let Some((amount, unit)) = text.split_once('/') else {
        return size(text).map(Limit::Growth);
    };
    let per = match unit.trim() {
        "s" | "sec" => Per::Second,
        "m" | "min" => Per::Minute,
        "h" | "hour" => Per::Hour,
        _ => return None,
    };
    size(amount.trim()).map(|bytes| Limit::Rate(bytes, per))
}

/// Bytes. As in GNU coreutils, `KiB` and a bare `K` are 1024, `KB` is 1000.
pub(super) fn size(text: &str) -> Option<f64> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(end)?;
    let scale = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kib" => 1024.0,
        "m" | "mib" => 1024.0 * 1024.0,
        "g" | "gib" => 1024.0 * 1024.0 * 1024.0,
        "t" | "tib" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "tb" => 1e12,
        _ => return None,
    };
    let bytes = decimal(number)? * scale;
    bytes.is_finite().then_some(bytes)
}

/// A number in digits. `f64`'s own parser also takes `inf`, `nan`, signs and exponents, none of
/// which makes a threshold.
fn decimal(text: &str) -> Option<f64> {
    if !text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return None;
    }
    text.parse().ok().filter(|n: &f64| n.is_finite())
}

fn count(text: &str, metric: &'static str) -> Result<u64, ParseError> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    match text.parse() {
        Ok(n) if digits => Ok(n),
        _ => Err(ParseError::Count(text.to_owned(), metric)),
    }
}

fn share(text: &str) -> Option<f64> {
    let share = match text.strip_suffix('%') {
        Some(percent) => decimal(percent.trim_end())? / 100.0,
        None => decimal(text)?,
    };
    (share <= 1.0).then_some(share)
}

/// `bytes` so that [`size`] reads the same number again: in the largest unit that takes at most
/// two decimals. Division by a power of two loses nothing.
pub(super) fn exact_size(bytes: f64) -> String {
    let mut unit = 1_099_511_627_776.0;
    for name in ["TiB", "GiB", "MiB", "KiB"] {
        let scaled: f64 = bytes / unit;
        if scaled >= 1.0 && (scaled * 4.0).fract() == 0.0 {
            return format!("{scaled}{name}");
        }
        unit /= 1024.0;
    }
    format!("{bytes}B")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn condition(text: &str) -> Condition {
        text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[test]
    fn every_form_of_the_manual_is_read() {
        for (text, shown) in [
            ("growth>1MiB", "growth>1MiB"),
            ("growth>1MiB/min", "growth>1MiB/min"),
            ("objects>1000", "objects>1000"),
            ("owner.share>0.5", "owner.share>0.5"),
            ("untracked>0", "untracked>0"),
            ("owner.share>50%", "owner.share>0.5"),
            ("owner.share>=100%", "owner.share>=1"),
            (" growth >= 1.5 MiB / h ", "growth>=1.5MiB/h"),
            ("growth>0", "growth>0B"),
            ("growth>1048576", "growth>1MiB"),
            ("growth>1k", "growth>1KiB"),
            ("growth>1kB", "growth>1000B"),
            ("growth>3MB/s", "growth>3000000B/s"),
            ("growth>2G/sec", "growth>2GiB/s"),
            ("growth>.5MiB", "growth>512KiB"),
            ("growth>0.1MiB", "growth>104857.6B"),
        ] {
            assert_eq!(condition(text).to_string(), shown, "{text}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for text in [
            "",
            ">",
            "growth",
            "growth=1",
            "growth<1MiB",
            "growth>",
            "growth>-1",
            "growth>nan",
            "growth>inf",
            "growth>1e3",
            "growth>1MiB/day",
            "growth>1MiB/",
            "growth>/s",
            "growth>1 lot",
            "growth>1.2.3",
            "growth>>1",
            "growth>1MiB/min/s",
            "objects>1MiB",
            "objects>1.5",
            "objects>-1",
            "objects>+1",
            "objects>10/min",
            "objects>1k",
            "objects>99999999999999999999",
            "untracked>0B",
            "owner.share>1.1",
            "owner.share>101%",
            "owner.share>-1",
            "owner.share>1",
            "owner.share>100%",
            "owner.share>1MiB",
            "owner.share>NaN",
            "share>0.5",
            "Growth>1",
            "growth>\u{661}",
            "leak>1MiB",
            "growth>.",
        ] {
            assert!(text.parse::<Condition>().is_err(), "{text} was accepted");
        }
    }

    #[test]
    fn errors_say_what_is_allowed() {
        let error = |text: &str| text.parse::<Condition>().unwrap_err().to_string();
        assert_eq!(
            error("leak>1MiB"),
            "`leak` is not a metric: use `growth`, `objects`, `owner.share` or `untracked`, as in \
             `growth>1MiB`, `growth>1MiB/min`, `objects>1000`, `owner.share>0.5`, `untracked>0`"
        );
        assert_eq!(
            error("objects>1MiB"),
            "`1MiB` is not a count: `objects` takes a whole number without a unit, as in \
             `objects>1000`"
        );
        assert!(error("growth>1 lot").contains("as in `growth>1MiB`"));
        assert!(error("growth").contains("`>`"));
        assert!(error("owner.share>1").contains("owner.share>=1"));
        assert!(error("owner.share>2").contains("0 to 1"));
    }

    fn any_text() -> impl Strategy<Value = String> {
        let part = prop::sample::select(vec![
            "growth",
            "objects",
            "owner.share",
            "untracked",
            ">",
            ">=",
            "=",
            "1",
            "0.5",
            "99999999",
            ".",
            "k",
            "KiB",
            "MB",
            "T",
            "%",
            "/",
            "s",
            "min",
            "h",
            " ",
            "-",
            "e9",
            "nan",
            "inf",
            "é",
        ]);
        prop_oneof![
            prop::collection::vec(part, 0..8).prop_map(|parts| parts.concat()),
            any::<String>(),
        ]
    }

    fn any_condition() -> impl Strategy<Value = Condition> {
        let bytes = || {
            prop_oneof![
                (0_u64..1 << 50).prop_map(|n| n as f64),
                (0_u32..4096, 0_u32..5)
                    .prop_map(|(n, e)| f64::from(n) * 1024_f64.powf(f64::from(e))),
                0.0..1e15,
            ]
        };
        let per = prop::sample::select(vec![Per::Second, Per::Minute, Per::Hour]);
        let limit = prop_oneof![
            bytes().prop_map(Limit::Growth),
            (bytes(), per).prop_map(|(bytes, per)| Limit::Rate(bytes, per)),
            any::<u64>().prop_map(Limit::Objects),
            any::<u64>().prop_map(Limit::Untracked),
            (0.0..1.0).prop_map(Limit::Share),
        ];
        let operator = prop::sample::select(vec![Operator::Over, Operator::AtLeast]);
        (limit, operator).prop_map(|(limit, operator)| Condition { limit, operator })
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in any_text()) {
            match text.parse::<Condition>() {
                Ok(condition) => {
                    prop_assert_eq!(condition.to_string().parse(), Ok(condition));
                }
                Err(error) => prop_assert!(error.to_string().contains("as in") || error.to_string().contains("highest")),
            }
        }

        #[test]
        fn what_is_shown_reads_back(condition in any_condition()) {
            prop_assert_eq!(condition.to_string().parse(), Ok(condition));
        }
    }
}

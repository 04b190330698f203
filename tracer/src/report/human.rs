//! Numbers as people read them: IEC bytes, thousands in groups, at most three digits of worth.

/// `7286272` as `6.9 MiB`.
pub fn bytes(n: u64) -> String {
    // Below 2^53 exact, above it far finer than the digits shown.
    size(n as f64)
}

/// As [`bytes()`], for a figure that was computed; a sign is kept, and what is not a number is `?`.
pub fn size(n: f64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if !n.is_finite() {
        return "?".into();
    }
    let sign = if n <= -0.5 { "-" } else { "" };
    let (mut value, mut unit) = (n.abs(), 0);
    // 1023.95 would be shown as 1024.0, which is one of the next unit.
    while unit + 1 < UNITS.len() && value >= if unit == 0 { 1023.5 } else { 1023.95 } {
        value /= 1024.0;
        unit += 1;
    }
    let name = UNITS.get(unit).copied().unwrap_or_default();
    let digits = usize::from(unit > 0 && value < 99.95);
    format!("{sign}{value:.digits$} {name}")
}

/// `14485664` as `14,485,664`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `count` and its noun: `1 object`, `2 objects`.
pub fn counted(n: u64, noun: &str) -> String {
    format!("{} {noun}{}", count(n), if n == 1 { "" } else { "s" })
}

/// `0.97` as `97 %`; a part that is not quite all is never rounded up to `100 %`, nor one that is
/// not quite none down to `0 %`.
pub fn percent(fraction: f64) -> String {
    if !fraction.is_finite() {
        return "? %".into();
    }
    let p = fraction * 100.0;
    if p == 0.0 {
        "0 %".into()
    } else if p.abs() < 0.1 {
        "<0.1 %".into()
    } else if (99.0..100.0).contains(&p) {
        format!("{:.1} %", (p * 10.0).floor() / 10.0)
    } else if p.abs() < 9.95 {
        format!("{p:.1} %")
    } else {
        format!("{p:.0} %")
    }
}

/// Seconds by their two largest units: `5 h 46 min`.
pub fn duration(seconds: u64) -> String {
    const UNITS: [(u64, &str); 5] =
        [(365 * 86_400, "y"), (86_400, "d"), (3600, "h"), (60, "min"), (1, "s")];
    let Some(first) = UNITS.iter().position(|&(length, _)| seconds >= length) else {
        return "0 s".into();
    };
    let mut rest = seconds;
    let parts: Vec<String> = UNITS
        .iter()
        .skip(first)
        .take(2)
        .filter_map(|&(length, name)| {
            let n = rest / length;
            rest %= length;
            (n > 0).then(|| format!("{} {name}", count(n)))
        })
        .collect();
    parts.join(" ")
}

/// Seconds of a window or an age: `29.8 s`, from a minute on as [`duration`].
pub fn seconds(s: f64) -> String {
    if !s.is_finite() || s < 0.0 {
        return "?".into();
    }
    if s < 59.95 {
        let text = format!("{s:.1}");
        return format!("{} s", text.strip_suffix(".0").unwrap_or(&text));
    }
    #[expect(clippy::cast_possible_truncation, reason = "saturates, and is not negative")]
    #[expect(clippy::cast_sign_loss, reason = "checked above")]
    duration(s.round() as u64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bytes_have_iec_units() {
        for (n, text) in [
            (0, "0 B"),
            (512, "512 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (7_286_272, "6.9 MiB"),
            (241_000, "235 KiB"),
            (1_048_575, "1.0 MiB"),
            (63_135_000_000, "58.8 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(bytes(n), text);
        }
        assert_eq!(size(-2048.0), "-2.0 KiB");
        assert_eq!(size(-0.1), "0 B");
        assert_eq!(size(f64::NAN), "?");
    }

    #[test]
    fn counts_are_grouped() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(14_485_664), "14,485,664");
        assert_eq!(counted(1, "object"), "1 object");
        assert_eq!(counted(1000, "object"), "1,000 objects");
    }

    #[test]
    fn percentages_do_not_round_to_all_or_nothing() {
        for (p, text) in [
            (0.0, "0 %"),
            (0.0002, "<0.1 %"),
            (0.004, "0.4 %"),
            (0.097, "9.7 %"),
            (0.97, "97 %"),
            (0.987, "99 %"),
            (0.9999, "99.9 %"),
            (1.0, "100 %"),
            (1.031, "103 %"),
            (f64::NAN, "? %"),
        ] {
            assert_eq!(percent(p), text);
        }
    }

    #[test]
    fn durations_have_two_units() {
        for (s, text) in [
            (0, "0 s"),
            (45, "45 s"),
            (120, "2 min"),
            (20_800, "5 h 46 min"),
            (90_000, "1 d 1 h"),
            (3_600, "1 h"),
            (400 * 86_400, "1 y 35 d"),
        ] {
            assert_eq!(duration(s), text);
        }
        assert_eq!(seconds(30.0), "30 s");
        assert_eq!(seconds(29.84), "29.8 s");
        assert_eq!(seconds(59.99), "1 min");
    }

    proptest! {
        #[test]
        fn never_longer_than_a_column(n in any::<u64>(), f in any::<f64>()) {
            prop_assert!(bytes(n).len() <= 8);
            prop_assert!(count(n).replace(',', "") == n.to_string());
            prop_assert!(!size(f).is_empty() && !percent(f).is_empty() && !seconds(f).is_empty());
        }
    }
}

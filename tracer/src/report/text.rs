//! The report as text: the verdict first, then who, then how, then how far to trust it.

pub(crate) mod layout;
mod owners;
mod stacks;
pub(crate) mod table;
pub(crate) mod trust;
pub(crate) mod verdict;

use std::{
    io::{self, IsTerminal as _},
    path::Path,
};

use self::layout::Page;
use super::Report;

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// Columns of the terminal; taken as 60 when it is narrower.
    pub width: usize,
    /// Whether to colour.
    pub colour: bool,
    /// Rows of the owners' table. Half as many stacks are shown, as each takes a dozen lines.
    pub top: usize,
}

impl Style {
    /// For a report of `top` rows written to `output`, `-` being stdout: the terminal's width, and
    /// colour on a terminal only, unless `NO_COLOR` is set.
    #[must_use]
    pub fn of(output: &Path, top: usize) -> Self {
        let terminal = output.as_os_str() == "-" && io::stdout().is_terminal();
        let width = terminal
            .then(terminal_size::terminal_size)
            .flatten()
            .map_or(80, |(width, _)| usize::from(width.0));
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { width, colour: terminal && !no_colour, top }
    }
}

impl Default for Style {
    fn default() -> Self {
        Self { width: 80, colour: false, top: 10 }
    }
}

/// Writes `report` for people. No line is wider than `style.width`, none ends in a blank, and no
/// name in it can steer the terminal.
pub fn render(report: &Report, style: &Style, w: &mut (impl io::Write + ?Sized)) -> io::Result<()> {
    let mut page = Page::new(*style);
    verdict::render(report, &mut page);
    owners::render(report, style.top.max(1), &mut page);
    stacks::render(report, style.top.div_ceil(2).max(1), &mut page);
    trust::render(report, &mut page);
    // At once, so that a terminal that is being scrolled or piped gets no half report.
    w.write_all(page.text().as_bytes())
}

/// What was lost, each with what it does to the answer.
#[must_use]
pub fn losses(report: &Report) -> Vec<String> {
    trust::losses(&report.loss)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use unicode_width::UnicodeWidthStr as _;

    use super::super::sample;
    use super::*;

    fn plain(report: &Report, width: usize) -> String {
        styled(report, Style { width, ..Style::default() })
    }

    fn styled(report: &Report, style: Style) -> String {
        let mut out = Vec::new();
        render(report, &style, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn incident() {
        insta::assert_snapshot!(plain(&sample::incident(), 80));
    }

    #[test]
    fn incident_wide() {
        insta::assert_snapshot!(plain(&sample::incident(), 132));
    }

    #[test]
    fn incident_in_colour() {
        let style = Style { colour: true, ..Style::default() };
        insta::assert_snapshot!(styled(&sample::incident(), style).replace('\u{1b}', "␛"));
    }

    #[test]
    fn nothing_outstanding() {
        insta::assert_snapshot!(plain(&sample::nothing(), 80));
    }

    #[test]
    fn losses() {
        insta::assert_snapshot!(plain(&sample::lossy(), 80));
    }

    #[test]
    fn sampled() {
        insta::assert_snapshot!(plain(&sample::sampled(), 80));
    }

    #[test]
    fn hostile_names() {
        insta::assert_snapshot!(plain(&sample::hostile(), 80));
    }

    #[test]
    fn a_verdict_on_a_pod() {
        let mut report = sample::incident();
        let mut owner = report.owners[1].owner.clone();
        owner.kind = "pod".into();
        report.verdict.owner = Some(owner);
        let text = plain(&report, 100);
        let pod = "kube-system/coredns-5d78c9869d-x2x7k";
        let line = format!("  owner       pod {pod}: process coredns, pid 20417, exited\n");
        assert!(text.contains(&line), "{text}");
        assert!(text.contains(&format!("  pod         {pod}\n  container   coredns\n")), "{text}");
    }

    #[test]
    fn by_pod() {
        let mut report = sample::incident();
        report.filter.by = "pod".into();
        for row in &mut report.owners {
            row.owner.kind = "pod".into();
            row.owner.pid = None;
            row.owner.exited = None;
            row.owner.comm = None;
        }
        insta::assert_snapshot!(plain(&report, 80));
    }

    #[test]
    fn by_cache_has_one_column_of_caches() {
        let mut report = sample::incident();
        report.filter.by = "cache".into();
        report.owners.truncate(1);
        report.owners[0].owner = super::super::Owner {
            kind: "cache".into(),
            comm: Some("kmalloc-512".into()),
            ..Default::default()
        };
        let text = plain(&report, 80);
        let header = text.lines().find(|line| line.starts_with("CACHE")).unwrap();
        assert_eq!(header.matches("CACHE").count(), 1);
    }

    #[test]
    fn more_rows_than_shown_are_counted() {
        let text = styled(&sample::incident(), Style { top: 1, ..Style::default() });
        assert!(text.contains("2 more hold 220 KiB"), "{text}");
        assert!(text.contains("1 more stack"), "{text}");
    }

    /// Whatever the report: what makes text safe and tidy.
    fn check(report: &Report, style: Style) {
        let text = styled(report, style);
        for line in text.lines() {
            assert!(line.width() <= style.width.max(60), "{} columns: {line}", line.width());
            assert_eq!(line.trim_end(), line);
            assert!(!line.contains(char::is_control), "{line:?}");
        }
        assert!(text.ends_with('\n') && !text.ends_with("\n\n") && !text.contains("\n\n\n"));
    }

    #[test]
    fn every_line_fits() {
        for report in sample::all() {
            for width in [0, 60, 61, 72, 80, 81, 100, 132, 250] {
                check(&report, Style { width, ..Style::default() });
            }
        }
    }

    #[test]
    fn colour_changes_no_text() {
        for report in sample::all() {
            let coloured = styled(&report, Style { colour: true, ..Style::default() });
            let mut bare = String::new();
            let mut rest = coloured.as_str();
            while let Some((before, after)) = rest.split_once('\u{1b}') {
                bare.push_str(before);
                rest = after.split_once('m').unwrap().1;
            }
            bare.push_str(rest);
            assert_eq!(bare, plain(&report, 80));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_names_and_numbers_fit(
            name in any::<String>(),
            count in any::<u64>(),
            number in any::<f64>(),
            width in 0_usize..200,
            top in 0_usize..4,
        ) {
            let mut report = sample::lossy();
            report.verdict.summary.clone_from(&name);
            report.verdict.share = Some(number);
            report.verdict.growth_bytes_per_s = Some(number);
            report.verdict.exhausts_memory_in_s = Some(count);
            report.window_s = number;
            report.cost.events = count;
            report.cost.bpf_ns_per_event = Some(number);
            report.cost.bpf_cpu_share = Some(number);
            report.cost.user_cpu_share = Some(number);
            report.sampling = Some(super::super::Sampling {
                fraction: number,
                since_s: number,
                reason: name.clone(),
            });
            report.loss.untracked_objects = count;
            report.caches[0].name.clone_from(&name);
            report.caches[0].explained = Some(number);
            for row in &mut report.owners {
                row.owner.comm = Some(name.clone());
                row.owner.cgroup = Some(name.repeat(9));
                row.outstanding_bytes = count;
                row.outstanding_objects = count;
                row.share = number;
                row.growth_bytes_per_s = Some(number);
                row.trend = vec![count, 0, u64::MAX];
            }
            report.stacks[0].kernel = crate::report::frames(vec![name; 3]);
            report.stacks[0].outstanding_objects = count;
            check(&report, Style { width, colour: false, top });
        }
    }
}

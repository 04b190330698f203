use unicode_width::UnicodeWidthStr as _;

use super::*;
use crate::cgroups::{analyse::analyse, sample};

fn plain(report: &CgroupsReport, width: usize) -> String {
    let mut out = Vec::new();
    render(report, &Style { width, ..Style::default() }, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn piling_up() {
    insta::assert_snapshot!(plain(&analyse(&sample::piling_up(), None), 80));
}

#[test]
fn without_bpf() {
    insta::assert_snapshot!(plain(&analyse(&sample::without_bpf(), None), 80));
}

#[test]
fn hostile_names() {
    insta::assert_snapshot!(plain(&analyse(&sample::hostile(), None), 80));
}

#[test]
fn every_line_fits() {
    for snapshot in sample::all() {
        let report = analyse(&snapshot, None);
        for width in [0, 60, 61, 80, 100, 200] {
            for line in plain(&report, width).lines() {
                assert!(line.width() <= width.max(60), "{} columns: {line}", line.width());
                assert!(!line.contains(char::is_control), "{line:?}");
                assert_eq!(line.trim_end(), line);
            }
        }
    }
}

//! The matrix as a person reads it: a row a machine, a column a check.

use std::collections::BTreeMap;

use super::outcome::{Cell, Result};

/// A machine's name and its cells.
pub(super) type Row = (String, Vec<Cell>);

/// The table, then the reason of each test that does not apply.
pub(super) fn lines(rows: &[Row]) -> Vec<String> {
    let mut columns = Vec::<&str>::new();
    for cell in rows.iter().flat_map(|(_, cells)| cells) {
        if !columns.contains(&cell.check.as_str()) && cell.result != Result::Nothing {
            columns.push(&cell.check);
        }
    }
    let head = std::iter::once("kernel").chain(columns.iter().copied()).map(str::to_owned);
    let mut table = vec![head.collect::<Vec<_>>()];
    for (name, cells) in rows {
        let of = |column: &&str| {
            cells.iter().find(|cell| cell.check == **column).map(short).unwrap_or_default()
        };
        table.push(std::iter::once(name.clone()).chain(columns.iter().map(of)).collect());
    }
    let widths = (0..=columns.len()).map(|column| {
        table.iter().map(|row| row[column].chars().count()).max().unwrap_or(0).max(3)
    });
    let widths = widths.collect::<Vec<_>>();
    let line = |cells: &[String]| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        format!("| {} |", padded.collect::<Vec<_>>().join(" | "))
    };
    let rule = widths.iter().map(|width| "-".repeat(*width)).collect::<Vec<_>>();
    let mut lines = vec![line(&table[0]), line(&rule)];
    lines.extend(table[1..].iter().map(|row| line(row)));
    lines.extend(reasons(rows));
    lines
}

/// The table stays narrow: what failed is told in full elsewhere.
fn short(cell: &Cell) -> String {
    match &cell.result {
        Result::Failed { why, .. } if why.contains(" of ") && why.len() < 12 => {
            format!("FAILED {why}")
        }
        Result::Failed { .. } => "FAILED".to_owned(),
        _ => cell.shown(),
    }
}

/// `–`: each reason once, with the machines it holds for.
fn reasons(rows: &[Row]) -> Vec<String> {
    let mut reasons = BTreeMap::<String, Vec<&str>>::new();
    for (machine, cells) in rows {
        for cell in cells {
            let Result::Passed { not_applicable, .. } = &cell.result else { continue };
            for reason in not_applicable {
                let reason = format!("{}: {reason}", cell.check);
                reasons.entry(reason).or_default().push(machine);
            }
        }
    }
    let line =
        |(reason, machines): (String, Vec<&str>)| format!("– {}: {reason}", machines.join(", "));
    reasons.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(check: &str, tests: usize, not_applicable: &[&str]) -> Cell {
        let not_applicable = not_applicable.iter().map(ToString::to_string).collect();
        Cell {
            check: check.to_owned(),
            result: Result::Passed { tests, not_applicable, seconds: 1 },
            first: None,
        }
    }

    #[test]
    fn every_machine_has_a_cell_in_every_column_and_reasons_are_told_once() {
        let failed = Result::Failed { why: "2 of 11".to_owned(), output: String::new() };
        let rows = [
            (
                "5.10".to_owned(),
                vec![
                    passed("counting", 11, &[]),
                    passed("caches", 0, &["dentries: events name no cache before 6.0"]),
                ],
            ),
            (
                "5.10 v1".to_owned(),
                vec![
                    Cell { check: "counting".to_owned(), result: failed, first: None },
                    passed("caches", 0, &["dentries: events name no cache before 6.0"]),
                ],
            ),
            (
                "7.2".to_owned(),
                vec![
                    passed("counting", 11, &[]),
                    passed("caches", 3, &[]),
                    Cell { check: "idle".to_owned(), result: Result::Nothing, first: None },
                ],
            ),
        ];
        let expected = [
            "| kernel  | counting       | caches |",
            "| ------- | -------------- | ------ |",
            "| 5.10    | ok 11          | –      |",
            "| 5.10 v1 | FAILED 2 of 11 | –      |",
            "| 7.2     | ok 11          | ok 3   |",
            "– 5.10, 5.10 v1: caches: dentries: events name no cache before 6.0",
        ];
        assert_eq!(lines(&rows), expected);
    }
}

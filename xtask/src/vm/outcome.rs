//! What came out of a machine: read from what `init.sh` and the tests print.

use super::qemu::End;

/// Begins a line of `init.sh`.
const MARK: &str = "@@kleak ";
/// Begins what `harness::not_applicable` of the tests says.
const NOT_APPLICABLE: &str = "NOT APPLICABLE ";

/// Signs in the kernel's messages that something in it is broken.
const TROUBLE: [&str; 8] = [
    "BUG: ",
    "WARNING: CPU",
    "WARNING: at ",
    "Oops: ",
    "Kernel panic",
    "general protection fault",
    "possible circular locking",
    "Out of memory: ",
];

/// The name of the check that reads the kernel's messages.
pub(super) const KERNEL_LOG: &str = "kernel log";

/// One check in one machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) check: String,
    pub(super) result: Result,
    /// What it printed when it failed first, if it was tried twice.
    pub(super) first: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Result {
    /// Tests that passed, and the reasons of those that do not apply here.
    Passed { tests: usize, not_applicable: Vec<String>, seconds: u64 },
    /// No test was asked for by name in this check.
    Nothing,
    /// What was wrong, and the output that shows it.
    Failed { why: String, output: String },
}

impl Cell {
    /// As the table shows it.
    pub(super) fn shown(&self) -> String {
        let again = if self.first.is_some() { " (2nd try)" } else { "" };
        format!("{}{again}", self.once())
    }

    fn once(&self) -> String {
        match &self.result {
            Result::Passed { tests: 0, not_applicable, .. } if !not_applicable.is_empty() => {
                "–".to_owned()
            }
            Result::Passed { tests: 0, .. } => "ok".to_owned(),
            Result::Passed { tests, not_applicable, .. } if not_applicable.is_empty() => {
                format!("ok {tests}")
            }
            Result::Passed { tests, not_applicable, .. } => {
                format!("ok {tests}, – {}", not_applicable.len())
            }
            Result::Nothing => String::new(),
            Result::Failed { why, .. } => format!("FAILED: {why}"),
        }
    }

    fn failed(check: &str, why: &str, output: &str) -> Self {
        let result = Result::Failed { why: why.to_owned(), output: output.to_owned() };
        Self { check: check.to_owned(), result, first: None }
    }
}

/// Reads what a machine left. There is a cell for each of the checks, whatever happened.
pub(super) fn cells(checks: &[&str], results: &str, console: &str, end: End) -> Vec<Cell> {
    let mut cells = Vec::new();
    let mut begun: Option<(String, String)> = None;
    let mut unable = None;
    for line in results.lines().map(|line| line.trim_end_matches('\r')) {
        let Some(words) = line.strip_prefix(MARK) else {
            if let Some((_, output)) = &mut begun {
                output.push_str(line);
                output.push('\n');
            }
            continue;
        };
        let (verb, rest) = words.split_once(' ').unwrap_or((words, ""));
        match verb {
            "begin" => begun = Some((rest.to_owned(), String::new())),
            "end" => {
                if let Some((check, output)) = begun.take() {
                    let mut numbers = rest.split(' ').skip(1).map(str::parse::<u64>);
                    let mut number = || numbers.next()?.ok();
                    let (status, seconds) = (number(), number().unwrap_or(0));
                    let result = of_check(status, seconds, &output);
                    // A second try stands in the place of the first.
                    let before = cells.iter().position(|cell: &Cell| cell.check == check);
                    let before = before.map(|index| cells.remove(index));
                    let first = before.and_then(|cell| match cell.result {
                        Result::Failed { output, .. } => Some(output),
                        _ => None,
                    });
                    cells.push(Cell { check, result, first });
                }
            }
            "unable" => unable = Some(rest.to_owned()),
            _ => {}
        }
    }
    let how = match (&unable, end) {
        (Some(why), _) => why.clone(),
        (None, End::Off) if console.contains("Kernel panic") => "the kernel panicked".to_owned(),
        (None, End::Off) => "the machine turned itself off".to_owned(),
        (None, End::Failed) => "QEMU failed".to_owned(),
        (None, End::Killed) => "the machine hung and was killed".to_owned(),
    };
    if let Some((check, output)) = begun {
        cells.push(Cell::failed(&check, &how, &format!("{output}{}", tail(console, 60))));
    }
    for check in checks {
        if !cells.iter().any(|cell| cell.check == *check) {
            let output = if cells.is_empty() { tail(console, 60) } else { String::new() };
            cells.push(Cell::failed(check, &format!("not run: {how}"), &output));
        }
    }
    cells.push(kernel_log(console));
    cells
}

/// Of what a test binary printed.
fn of_check(status: Option<u64>, seconds: u64, output: &str) -> Result {
    let failed = |why: String| Result::Failed { why, output: output.to_owned() };
    let closing = output.lines().find_map(|line| line.trim().strip_prefix("test result: "));
    let Some(closing) = closing else {
        // 128 + SIGKILL, or what `timeout` itself says.
        return failed(match status {
            Some(137 | 124) => format!("not done in {seconds} s"),
            Some(status) => format!("ended with status {status}"),
            None => "ended".to_owned(),
        });
    };
    let count = |name: &str| {
        closing
            .split(['.', ';'])
            .find_map(|part| part.trim().strip_suffix(name)?.trim().parse::<usize>().ok())
            .unwrap_or(0)
    };
    let (passed, failures) = (count("passed"), count("failed"));
    if failures > 0 {
        return failed(format!("{failures} of {}", passed + failures));
    }
    if status != Some(0) {
        return failed(format!("ended with status {status:?}"));
    }
    if passed == 0 && count("filtered out") > 0 {
        return Result::Nothing;
    }
    let not_applicable = output
        .lines()
        .filter_map(|line| line.split_once(NOT_APPLICABLE))
        .map(|(_, reason)| reason.trim().to_owned())
        .collect::<Vec<_>>();
    if passed < not_applicable.len().max(1) {
        return failed("no test was run".to_owned());
    }
    Result::Passed { tests: passed - not_applicable.len(), not_applicable, seconds }
}

fn kernel_log(console: &str) -> Cell {
    let found = console.lines().find(|line| TROUBLE.iter().any(|sign| line.contains(sign)));
    match found {
        Some(line) => Cell::failed(KERNEL_LOG, line.trim(), &around(console, line)),
        None => Cell {
            check: KERNEL_LOG.to_owned(),
            result: Result::Passed { tests: 0, not_applicable: Vec::new(), seconds: 0 },
            first: None,
        },
    }
}

fn tail(text: &str, count: usize) -> String {
    let lines = text.lines().collect::<Vec<_>>();
    marked(lines.iter().copied().skip(lines.len().saturating_sub(count)))
}

/// The lines that follow one, with the functions that were called.
fn around(text: &str, line: &str) -> String {
    let from = text.find(line).unwrap_or(0);
    marked(text[from..].lines().take(40))
}

/// Lines of the console among those of the tests.
fn marked<'a>(lines: impl Iterator<Item = &'a str>) -> String {
    let lines = lines.map(|line| format!("console: {line}"));
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const RAN: &str = "@@kleak kernel 6.12\n@@kleak begin counting\n\nrunning 3 tests\n\
                       test one ... ok\ntest result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; \
                       0 filtered out; finished in 1.00s\n\n@@kleak end counting 0 12\n";

    fn one(results: &str) -> Result {
        cells(&["counting"], results, "", End::Off).remove(0).result
    }

    #[test]
    fn what_passed_is_counted() {
        let cells = cells(&["counting"], RAN, "", End::Off);
        assert_eq!(cells.len(), 2);
        assert_eq!(cells[0].shown(), "ok 3");
        assert_eq!(
            cells[0].result,
            Result::Passed { tests: 3, not_applicable: Vec::new(), seconds: 12 }
        );
        assert_eq!((cells[1].check.as_str(), cells[1].shown().as_str()), (KERNEL_LOG, "ok"));
    }

    #[test]
    fn what_does_not_apply_is_told_apart_with_its_reason() {
        let ran = RAN.replace("test one", "test NOT APPLICABLE one: before 6.0\ntest one");
        let cell = &cells(&["counting"], &ran, "", End::Off)[0];
        assert_eq!(cell.shown(), "ok 2, – 1");
        let Result::Passed { not_applicable, .. } = &cell.result else { panic!("{cell:?}") };
        assert_eq!(not_applicable, &["one: before 6.0"]);
    }

    #[test]
    fn what_failed_hung_or_said_nothing_is_a_failure() {
        let bad = RAN.replace("ok. 3 passed; 0 failed", "FAILED. 1 passed; 2 failed");
        assert!(matches!(one(&bad.replace(" 0 12", " 101 12")),
            Result::Failed { why, .. } if why == "2 of 3"));
        // A runner that says ok and ends badly.
        assert!(matches!(one(&RAN.replace(" 0 12", " 139 12")), Result::Failed { .. }));
        let killed = "@@kleak begin counting\nrunning 3 tests\n@@kleak end counting 137 300\n";
        assert!(matches!(one(killed),
            Result::Failed { why, .. } if why == "not done in 300 s"));
        let none = RAN.replace("3 passed", "0 passed");
        assert!(matches!(one(&none), Result::Failed { .. }));
        assert_eq!(one(&none.replace("0 filtered", "9 filtered")), Result::Nothing);
    }

    #[test]
    fn a_second_try_stands_in_the_place_of_the_first() {
        let bad =
            "test result: FAILED. 8 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out\n";
        let good = "test result: ok. 9 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n";
        let results = format!(
            "@@kleak begin counting\n{bad}\n@@kleak end counting 101 5\n\
             @@kleak begin counting\n{good}\n@@kleak end counting 0 5\n@@kleak done\n"
        );
        let cells = cells(&["counting"], &results, "", End::Off);
        assert_eq!(cells.len(), 2, "{cells:?}");
        assert_eq!(cells[0].shown(), "ok 9 (2nd try)");
        assert!(cells[0].first.as_ref().is_some_and(|first| first.contains("1 failed")));
    }

    #[test]
    fn a_machine_that_ends_early_leaves_no_gap() {
        let begun = "@@kleak begin owners\ntest x ... ";
        let console =
            "[ 1.0] BUG: unable to handle page fault\n[ 1.1] Kernel panic - not syncing\n";
        let cells = cells(&["owners", "limits"], begun, console, End::Off);
        let shown = cells.iter().map(Cell::shown).collect::<Vec<_>>();
        assert_eq!(shown[0], "FAILED: the kernel panicked");
        assert_eq!(shown[1], "FAILED: not run: the kernel panicked");
        assert!(shown[2].contains("unable to handle page fault"));
        let silent = super::cells(&["owners"], "", "", End::Killed);
        assert_eq!(silent[0].shown(), "FAILED: not run: the machine hung and was killed");
    }
}

//! A build that fails when the kernel leaks: `--fail-on`, and what belongs to it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use kleak_tests::harness::{
    Finished, PATIENCE, Record, binary, class_512_of_messages, require_binary, require_live,
    run_command, workload_binary,
};
use serde_json::Value;
use tempfile::TempDir;

/// Runs of the workload as kleak's command, and the files that belong to them. Fields are dropped in
/// order: the record is read for what to clean up before its directory goes.
struct Case {
    record: Record,
    directory: TempDir,
}

impl Case {
    fn new() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let record = Record::at(directory.path().join("record"));
        Ok(Self { record, directory })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> Result<String> {
        let path = self.path(name);
        fs::write(&path, text)?;
        Ok(path.display().to_string())
    }

    /// Words of a workload that leaves `count` messages in each of `processes`.
    fn leave(&self, count: u32, processes: u32) -> Result<Vec<String>> {
        ensure!(processes > 0, "somebody has to leave them");
        let words = [
            workload_binary()?.display().to_string(),
            "--leave".into(),
            "tree".into(),
            "--count".into(),
            count.to_string(),
            "--depth".into(),
            u32::from(processes > 1).to_string(),
            "--children".into(),
            (processes - 1).to_string(),
            "--record".into(),
            self.record.path().display().to_string(),
        ];
        Ok(words.to_vec())
    }

    /// kleak with every stack, its report in `report.json`.
    fn trace(&self, more: &[&str], command: &[String]) -> Result<Finished> {
        self.trace_by(Command::new(binary()?), more, command)
    }

    fn trace_by(&self, mut kleak: Command, more: &[&str], command: &[String]) -> Result<Finished> {
        kleak
            .args(["trace", "--size", "512", "--stacks", "all", "--format", "json", "-o"])
            .arg(self.path("report.json"))
            .args(more)
            .arg("--")
            .args(command);
        run_command(kleak, PATIENCE)
    }

    fn judgement(&self) -> Result<Value> {
        let text = fs::read_to_string(self.path("report.json")).context("the report")?;
        Ok(serde_json::from_str::<Value>(&text)?["judgement"].take())
    }
}

const SUPPRESSING: &str = r#"
[[suppress]]
reason = "the messages are received by another job"
stack = ["load_msg", "do_msgsnd"]
comm = "kleak-*"

[[suppress]]
reason = "was fixed"
stack = "no_such_function"
"#;

#[test]
fn a_leak_fails_with_the_guilty_stack_in_the_message() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    let cache = class_512_of_messages()?;
    let case = Case::new()?;
    let junit = case.path("junit.xml").display().to_string();
    let command = case.leave(500, 1)?;
    let options = ["--fail-on", "objects>400", "--fail-on", "untracked>0", "--junit", &junit];
    let red = case.trace(&options, &command)?;
    let words = [
        "fail-on: objects>400: 50",
        "by kleak-workload[",
        "most through load_msg < do_msgsnd",
        cache,
        "at load_msg",
        "at do_msgsnd",
        "reproduce  kleak trace --size 512 --stacks all --fail-on 'objects>400'",
    ];
    let red = red.expect(4, &words)?;

    // What a CI server makes of it.
    let text = fs::read_to_string(&junit)?;
    let document = roxmltree::Document::parse(&text)?;
    let suite = document.descendants().find(|node| node.has_tag_name("testsuite"));
    let suite = suite.context("a testsuite")?;
    assert_eq!((suite.attribute("tests"), suite.attribute("failures")), (Some("2"), Some("1")));
    let failure = document.descendants().find(|node| node.has_tag_name("failure"));
    let failure = failure.and_then(|node| node.text()).context("a failure")?;
    assert!(failure.contains("at load_msg") && failure.contains("reproduce"), "{text}");

    let judgement = case.judgement()?;
    assert_eq!(judgement["conditions"][0]["held"], true, "{judgement:#}");
    assert_eq!(judgement["conditions"][1]["held"], false, "{judgement:#}");
    let guilty = &judgement["conditions"][0]["guilty"];
    assert_eq!(guilty["owner"]["comm"], "kleak-workload", "{judgement:#}");
    assert_eq!(guilty["outstanding_objects"], 500, "{judgement:#}");

    // The line to reproduce it does so.
    let line = red.stderr.lines().find_map(|line| line.trim().strip_prefix("reproduce"));
    let line = line.context("a line to reproduce it")?.trim();
    let line = line.strip_prefix("kleak").context("it runs kleak")?;
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(format!("\"$KLEAK\"{line}")).env("KLEAK", binary()?);
    run_command(shell, PATIENCE)?.expect(4, &["objects>400: 50"])?;
    Ok(())
}

#[test]
fn what_is_suppressed_passes_and_what_is_unused_is_told() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    let case = Case::new()?;
    let file = case.write("kleak.toml", SUPPRESSING)?;
    let junit = case.path("junit.xml").display().to_string();
    let options = ["--fail-on", "objects>400", "--suppressions", &file, "--junit", &junit];
    let green = case.trace(&options, &case.leave(500, 1)?)?;
    let unused = format!("unused suppression {file}:7 (was fixed)");
    green.expect(0, &[&unused, "suppressed 500 objects, 250 KiB by 1 of 2 suppressions"])?;
    let judgement = case.judgement()?;
    assert_eq!(judgement["suppressed"][0]["amounts"][0]["outstanding_objects"], 500);
    assert_eq!(judgement["unused_suppressions"][0]["line"], 7, "{judgement:#}");
    let text = fs::read_to_string(&junit)?;
    let document = roxmltree::Document::parse(&text)?;
    let skipped = document.descendants().filter(|node| node.has_tag_name("skipped")).count();
    assert_eq!(skipped, 2, "{text}");

    // Up to so much.
    let limited = SUPPRESSING.replace("comm =", "max = \"32KiB\"\ncomm =");
    let file = case.write("limited.toml", &limited)?;
    let options = ["--fail-on", "objects>400", "--suppressions", &file];
    let red = case.trace(&options, &case.leave(500, 1)?)?;
    red.expect(4, &["objects>400: 43", "has reached its max"])?;
    let judgement = case.judgement()?;
    assert_eq!(judgement["conditions"][0]["guilty"]["outstanding_objects"], 500 - 64);
    Ok(())
}

#[test]
fn only_what_is_more_than_the_baseline_fails() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    let case = Case::new()?;
    let recording = case.path("run.kleak").display().to_string();
    let save = ["--fail-on", "objects>100", "--save", &recording];
    case.trace(&save, &case.leave(500, 1)?)?.expect(4, &["objects>100"])?;

    let against = ["--fail-on", "objects>100", "--baseline", &recording];
    let same = case.trace(&against, &case.leave(500, 1)?)?;
    same.expect(0, &["compared run by run"])?;
    assert_eq!(case.judgement()?["conditions"][0]["held"], false);
    assert_eq!(case.judgement()?["baseline"]["per"], "run");

    let more = case.trace(&against, &case.leave(700, 1)?)?;
    more.expect(4, &["objects>100: 20", "at load_msg"])?;
    let judgement = case.judgement()?;
    let left = judgement["conditions"][0]["guilty"]["outstanding_objects"].as_u64();
    assert_eq!(left, Some(200), "{judgement:#}");

    // A recording is judged as its run was.
    let mut report = Command::new(binary()?);
    report.args(["report", &recording, "--fail-on", "objects>100"]);
    run_command(report, PATIENCE)?.expect(4, &["fail-on: objects>100: 50", "at load_msg"])?;
    let mut report = Command::new(binary()?);
    report.args(["report", &recording, "--fail-on", "objects>100", "--baseline", &recording]);
    run_command(report, PATIENCE)?.expect(0, &["excused"])?;
    Ok(())
}

/// Of three processes with 300 each, the report shows one row.
#[test]
fn top_and_by_do_not_change_what_is_judged() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    for more in [["--top", "1"], ["--by", "stack"]] {
        let case = Case::new()?;
        let options = [&["--fail-on", "objects>800"], &more[..]].concat();
        let red = case.trace(&options, &case.leave(300, 3)?)?;
        red.expect(4, &["objects>800: 90", "kleak-workload["])?;
    }
    Ok(())
}

#[test]
fn github_is_told_and_nothing_of_it_is_in_the_data() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    let case = Case::new()?;
    let file =
        case.write("kleak.toml", SUPPRESSING.split_at(SUPPRESSING.rfind("[[").unwrap_or(0)).1)?;
    let summary = case.write("summary.md", "# Of another step\n")?;
    let mut kleak = Command::new(binary()?);
    kleak.env("GITHUB_STEP_SUMMARY", &summary);
    let options = ["--fail-on", "objects>400", "--suppressions", &file, "--github", "-o", "-"];
    kleak.args(["trace", "--size", "512", "--stacks", "all", "--format", "json"]).args(options);
    kleak.arg("--").args(case.leave(500, 1)?);
    let red = run_command(kleak, PATIENCE)?.expect(4, &["\n::error title=kleak%3A objects>400"])?;
    assert!(red.stderr.contains(&format!("\n::warning file={file},line=1,")), "{red}");
    let error = red.stderr.lines().find(|line| line.starts_with("::error")).context("an error")?;
    assert!(error.contains("%0A  through    at load_msg%0A"), "{error}");
    serde_json::from_slice::<Value>(&red.stdout).context("standard output is one document")?;
    let text = fs::read_to_string(&summary)?;
    assert!(text.starts_with("# Of another step\n## kleak: failed\n"), "{text}");
    assert!(text.contains("do_msgsnd\n"), "{text}");
    Ok(())
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_is_attached() -> Result<()> {
    if !require_binary()? {
        return Ok(());
    }
    let directory = tempfile::tempdir()?;
    let write = |name: &str, text: &str| -> Result<String> {
        let path = directory.path().join(name);
        fs::write(&path, text)?;
        Ok(path.display().to_string())
    };
    let bad = write("bad.toml", "[[suppress]]\nreason = 'x'\nfunction = 'y'\n")?;
    let foreign = write("run.kleak", "not a recording, but long enough to be taken for a file\n")?;
    let missing = directory.path().join("missing").display().to_string();
    let in_missing = format!("{missing}/junit.xml");
    let expect = |options: &[&str], words: &[&str]| -> Result<()> {
        let mut kleak = Command::new(binary()?);
        kleak.args(["trace", "--size", "512", "--duration", "1s", "--fail-on", "objects>9"]);
        kleak.args(options);
        let refused = run_command(kleak, PATIENCE)?.expect(2, words)?;
        ensure!(!refused.stderr.contains("attached:"), "too late: {refused}");
        Ok(())
    };
    let line = format!("{bad}:3: unknown field `function`");
    expect(&["--suppressions", &bad], &[&line, "`stack`"])?;
    expect(&["--suppressions", &missing], &["cannot read suppressions", &missing])?;
    expect(&["--baseline", &foreign], &["--baseline", &foreign])?;
    expect(&["--baseline", &missing], &["--baseline", &missing])?;
    expect(&["--junit", &in_missing], &["there is no directory"])?;
    expect(&["--junit", &bad, "--markdown", &bad], &["--junit", "--markdown", "same file"])?;
    let mut without = Command::new(binary()?);
    without.args(["trace", "--duration", "1s", "--suppressions", &bad]);
    run_command(without, PATIENCE)?.expect(2, &["--fail-on"])?;
    Ok(())
}

/// The root of this repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The Action, as a parser of YAML sees it.
fn action() -> Result<serde_norway::Value> {
    Ok(serde_norway::from_str(&fs::read_to_string(root().join("action.yml"))?)?)
}

fn step(action: &serde_norway::Value) -> Result<&serde_norway::Value> {
    action["runs"]["steps"].get(0).context("a step")
}

/// Words between `${{` and `}}`.
fn expressions(text: &str) -> Vec<&str> {
    let parts = text.split("${{").skip(1);
    parts.filter_map(|part| Some(part.split_once("}}")?.0.trim())).collect()
}

#[test]
fn the_action_uses_each_input_and_lets_none_into_its_script() -> Result<()> {
    let action = action()?;
    assert_eq!(action["runs"]["using"].as_str(), Some("composite"));
    let step = step(&action)?;
    let script = step["run"].as_str().context("a script")?;
    assert!(!script.contains("${{"), "an input could be a part of the script:\n{script}");
    let mut used = Vec::new();
    for (name, value) in step["env"].as_mapping().context("variables")? {
        let name = name.as_str().context("a name")?;
        assert!(script.contains(&format!("${name}")), "{name} is not used:\n{script}");
        used.extend(expressions(value.as_str().context("a value")?));
    }
    let inputs = action["inputs"].as_mapping().context("inputs")?;
    for name in inputs.keys().filter_map(|name| name.as_str()) {
        assert!(used.contains(&format!("inputs.{name}").as_str()), "{name} does nothing");
    }
    for name in used.iter().filter_map(|name| name.strip_prefix("inputs.")) {
        assert!(inputs.contains_key(name), "there is no input {name}");
    }
    Ok(())
}

#[test]
fn the_action_fails_and_passes_as_kleak_does() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    let action = action()?;
    let step = step(&action)?;
    let case = Case::new()?;
    let file = case.write("known files.toml", SUPPRESSING)?;
    // A command that would break out of any quotes.
    let marker = case.path("marker");
    let words: Vec<String> = case.leave(500, 1)?.iter().map(|word| format!("'{word}'")).collect();
    let command = format!(": '\"$(false)'\n{}\ntouch {}", words.join(" "), marker.display());
    let run = |suppressions: &str| -> Result<Finished> {
        let mut shell = Command::new("bash");
        // As GitHub's runner calls it.
        shell.args(["--noprofile", "--norc", "-eo", "pipefail", "-c"]);
        shell.arg(step["run"].as_str().context("a script")?);
        for (name, value) in step["env"].as_mapping().context("variables")? {
            let value = value.as_str().context("a value")?;
            let given = match *expressions(value).first().context("an expression")? {
                "inputs.command" => command.clone(),
                "inputs.kleak" => binary()?.display().to_string(),
                "inputs.size" => "512".into(),
                "inputs.fail-on" => "objects>400\ngrowth>100KiB".into(),
                "inputs.suppressions" => suppressions.into(),
                "inputs.args" => "--top\n5".into(),
                "github.action_path" => root().display().to_string(),
                other => {
                    let input = other.strip_prefix("inputs.").context("an input")?;
                    action["inputs"][input]["default"].as_str().context("a default")?.into()
                }
            };
            shell.env(name.as_str().context("a name")?, given);
        }
        shell.env("RUNNER_TEMP", case.directory.path());
        shell.env("GITHUB_OUTPUT", case.path("output"));
        shell.env("GITHUB_STEP_SUMMARY", case.path("summary.md"));
        run_command(shell, PATIENCE)
    };
    let red = run("")?.expect(4, &["fail-on: objects>400", "fail-on: growth>100KiB"])?;
    assert!(marker.is_file(), "the command was not run to its end: {red}");
    // The report is fenced off, as its names could be commands; then come ours.
    let lines: Vec<&str> = red.text()?.lines().collect();
    let place = |start: &str| {
        let place = lines.iter().position(|line| line.starts_with(start));
        place.with_context(|| format!("no {start}: {red}"))
    };
    let (begin, end) = (place("::stop-commands::kleak-")?, place("::kleak-")?);
    let fence = lines[begin].trim_start_matches("::stop-commands");
    assert_eq!(lines[end].trim_end_matches("::"), fence, "{red}");
    assert!(begin < end && end < place("::error title=kleak%3A objects>400")?, "{red}");
    run(&file)?.expect(0, &["unused suppression"])?;
    // Each use has a directory of its own, and no other step's files.
    let output = fs::read_to_string(case.path("output"))?;
    let directories: Vec<&Path> =
        output.lines().filter_map(|line| line.strip_prefix("directory=")).map(Path::new).collect();
    let [first, out] = *directories.as_slice() else { bail!("two directories expected: {output}") };
    assert_ne!(first, out);
    for name in ["junit.xml", "summary.md", "report.html", "run.kleak"] {
        assert!(out.join(name).is_file(), "no {name}");
    }
    let summary = fs::read_to_string(case.path("summary.md"))?;
    assert!(summary.contains("kleak: failed") && summary.contains("kleak: passed"), "{summary}");
    Ok(())
}

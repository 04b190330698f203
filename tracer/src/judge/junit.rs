//! A judgement as JUnit XML, in the form that Jenkins, GitLab and others read (`jenkins-junit.xsd`).
//!
//! A test case for each condition, and a skipped one for each suppression.

use std::io;

use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesText, Event};

use super::{text, words};
use crate::report::judgement::{Judgement, Outcome};
use crate::report::sanitize::terminal;
use crate::report::{Report, human, text as report_text};

/// Writes the document.
pub fn write(report: &Report, judgement: &Judgement, w: &mut dyn io::Write) -> io::Result<()> {
    let mut document = Vec::new();
    let mut writer = Writer::new_with_indent(&mut document, b' ', 2);
    writer.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    let skipped = judgement.suppressed.len() + judgement.unused_suppressions.len();
    let tests = (judgement.conditions.len() + skipped).to_string();
    let failures = judgement.held().count().to_string();
    let (skipped, time) = (skipped.to_string(), format!("{:.3}", report.window_s));
    let counts =
        [("tests", tests.as_str()), ("failures", &failures), ("errors", "0"), ("time", &time)];
    let hostname = plain(&report.host.hostname);
    let suite = [("name", "kleak"), ("hostname", &hostname), ("skipped", &skipped)];
    writer
        .create_element("testsuites")
        .with_attribute(("name", "kleak"))
        .with_attributes(counts)
        .write_inner_content(|writer| {
        writer
            .create_element("testsuite")
            .with_attributes(suite)
            .with_attributes(counts)
            .write_inner_content(|writer| self::suite(writer, report, judgement))?;
        Ok(())
    })?;
    document.push(b'\n');
    w.write_all(&document)
}

type Out<'a> = Writer<&'a mut Vec<u8>>;

fn suite(writer: &mut Out<'_>, report: &Report, judgement: &Judgement) -> io::Result<()> {
    writer.create_element("properties").write_inner_content(|writer| {
        for (name, value) in properties(report) {
            writer
                .create_element("property")
                .with_attributes([("name", name), ("value", plain(&value).as_str())])
                .write_empty()?;
        }
        Ok(())
    })?;
    for outcome in &judgement.conditions {
        condition(writer, report, judgement, outcome)?;
    }
    for one in &judgement.suppressed {
        let place = words::place(&one.file, one.line, &one.reason);
        skipped(writer, &place, &format!("suppressed {}", words::amounts(&one.amounts)))?;
    }
    for one in &judgement.unused_suppressions {
        let place = words::place(&one.file, one.line, &one.reason);
        skipped(writer, &place, &format!("unused: {}", one.why))?;
    }
    let mut lines = vec![report.verdict.summary.clone()];
    lines.extend(text::sums(judgement));
    lines.extend(text::remarks(judgement));
    lines.extend(trust(report));
    element(writer, "system-out", &lines)
}

fn properties(report: &Report) -> Vec<(&'static str, String)> {
    let host = &report.host;
    let mut properties = vec![
        ("kleak.version", env!("CARGO_PKG_VERSION").to_owned()),
        ("host", host.hostname.clone()),
        ("kernel", host.kernel.clone()),
        ("machine", host.machine.clone()),
        ("window_s", format!("{:.3}", report.window_s)),
        ("stacks", report.filter.stacks.clone()),
    ];
    if let Some(command) = &report.command {
        let words: Vec<_> =
            command.argv.iter().map(|word| super::reproduce::quoted(word)).collect();
        properties.push(("command", words.join(" ")));
        let status = match (command.exit_status, command.signal) {
            (Some(status), _) => format!("exit status {status}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => "unknown".to_owned(),
        };
        properties.push(("command.end", status));
    }
    properties
}

fn condition(
    writer: &mut Out<'_>,
    report: &Report,
    judgement: &Judgement,
    outcome: &Outcome,
) -> io::Result<()> {
    let name = plain(&outcome.expression);
    let attributes = [("name", name.as_str()), ("classname", "kleak.fail-on")];
    let case = writer.create_element("testcase").with_attributes(attributes);
    if !outcome.held {
        let Some(message) = &outcome.message else { return case.write_empty().map(drop) };
        return case
            .write_inner_content(|writer| {
                element(writer, "system-out", std::slice::from_ref(message))
            })
            .map(drop);
    }
    let message = plain(&text::said(outcome));
    let kind: String = outcome.expression.chars().take_while(|c| *c != '>').collect();
    let mut lines = vec![text::said(outcome)];
    lines.extend(outcome.guilty.iter().flat_map(text::account));
    lines.extend(text::sums(judgement));
    lines.push(format!("  reproduce  {}", judgement.reproduce));
    lines.extend(trust(report));
    case.write_inner_content(|writer| {
        writer
            .create_element("failure")
            .with_attributes([("message", message.as_str()), ("type", plain(&kind).as_str())])
            .write_text_content(BytesText::new(&joined(&lines)))
            .map(drop)
    })
    .map(drop)
}

fn skipped(writer: &mut Out<'_>, place: &str, message: &str) -> io::Result<()> {
    let name = plain(place);
    let message = plain(message);
    writer
        .create_element("testcase")
        .with_attributes([("name", name.as_str()), ("classname", "kleak.suppressions")])
        .write_inner_content(|writer| {
            writer
                .create_element("skipped")
                .with_attribute(("message", message.as_str()))
                .write_empty()
                .map(drop)
        })
        .map(drop)
}

/// What was lost, and how far the answer can be trusted.
fn trust(report: &Report) -> Vec<String> {
    let confidence = match report.verdict.confidence {
        crate::report::Confidence::High => "high",
        crate::report::Confidence::Medium => "medium",
        crate::report::Confidence::Low => "low",
    };
    let mut lines =
        vec![format!("  confidence {confidence}; window {}", human::seconds(report.window_s))];
    let losses = report_text::losses(report);
    if losses.is_empty() {
        lines.push("  losses     none known".to_owned());
    }
    lines.extend(losses.iter().map(|loss| format!("  losses     {loss}")));
    lines
}

fn element(writer: &mut Out<'_>, name: &str, lines: &[String]) -> io::Result<()> {
    writer.create_element(name).write_text_content(BytesText::new(&joined(lines))).map(drop)
}

fn joined(lines: &[String]) -> String {
    lines.iter().map(|line| plain(line)).collect::<Vec<_>>().join("\n")
}

/// Text of one line that XML may hold: no control characters, which [`terminal`] shows as escapes, and
/// none of the two code points above them that XML 1.0 forbids (section 2.2, `Char`).
fn plain(text: &str) -> String {
    terminal(text).replace(['\u{fffe}', '\u{ffff}'], "\u{fffd}")
}

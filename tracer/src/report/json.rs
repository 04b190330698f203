//! Reports as JSON: the files in `schema/` say what is in them.

use std::io::{self, Write as _};

use serde::Serialize;

use super::{Report, sanitize};

/// Bytes of a document that are written at once: most are shorter, and are written whole.
const AT_ONCE: usize = 256 << 10;

/// Writes `report` for people and `jq`: indented, one document. One of 100,000 stacks has 120 MB, so that
/// it is not put together in memory.
pub fn write_pretty(report: &impl Serialize, w: &mut (impl io::Write + ?Sized)) -> io::Result<()> {
    let mut out = Safe(io::BufWriter::with_capacity(AT_ONCE, w));
    serde_json::to_writer_pretty(&mut out, report)?;
    out.write_all(b"\n")?;
    out.flush()
}

/// Passes on a document of which it is handed whole strings, or parts of them that are UTF-8, in the form
/// of [`sanitize::json`].
struct Safe<W>(W);

impl<W: io::Write> io::Write for Safe<W> {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        // The serialiser cuts strings at what has to be escaped, which is ASCII.
        let text = std::str::from_utf8(part).map_err(io::Error::other)?;
        self.0.write_all(sanitize::json(text).as_bytes())?;
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Writes `report` as one line, for a stream of intervals (ndjson).
pub fn write_line(report: &Report, w: &mut (impl io::Write + ?Sized)) -> io::Result<()> {
    write(&serde_json::to_string(report)?, w)
}

/// Hands `w` the line whole, so that a reader of the stream never sees half a line because
/// kleak was killed between two small writes.
fn write(document: &str, w: &mut (impl io::Write + ?Sized)) -> io::Result<()> {
    let mut document = sanitize::json(document).into_owned();
    document.push('\n');
    w.write_all(document.as_bytes())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::{judgement, sample, schema};
    use super::*;

    const SCHEMA: &str = include_str!("../../../schema/kleak.report-1.schema.json");

    fn schema() -> jsonschema::Validator {
        schema::validator(SCHEMA)
    }

    fn pretty(report: &Report) -> String {
        let mut out = Vec::new();
        write_pretty(report, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    /// Judged, with all that a judgement has.
    fn judged() -> Report {
        let guilty = judgement::Guilty {
            owner: sample::kubelet(),
            cache: "kmalloc-512".into(),
            outstanding_objects: 14_231,
            outstanding_bytes: 7_286_272,
            growth_bytes_per_s: None,
            estimated: false,
            kernel: sample::msg_stack(1).kernel,
            user: super::super::Frames::default(),
        };
        let amounts = vec![judgement::Amount {
            memory: "slab memory".into(),
            outstanding_objects: 1,
            outstanding_bytes: 512,
            estimated: true,
        }];
        let mut report = sample::incident();
        report.judgement = Some(judgement::Judgement {
            conditions: vec![judgement::Outcome {
                expression: "objects>100".into(),
                held: true,
                message: Some("objects>100: many".into()),
                guilty: Some(guilty.clone()),
            }],
            judged: vec![guilty],
            suppressed: vec![judgement::Suppressed {
                file: "kleak.toml".into(),
                line: 1,
                reason: "known".into(),
                amounts: amounts.clone(),
                max_reached: true,
            }],
            unused_suppressions: vec![judgement::Unused {
                file: "kleak.toml".into(),
                line: 7,
                reason: "known".into(),
                why: "nothing matches it".into(),
            }],
            baseline: Some(judgement::BaselineUse {
                file: "run.kleak".into(),
                kernel: "6.12.0".into(),
                window_s: 30.0,
                per: "run".into(),
                amounts,
            }),
            notes: vec!["A note.".into()],
            reproduce: "kleak trace".into(),
        });
        report
    }

    /// What a correct analysis can produce: its numbers are numbers.
    fn sane() -> Vec<Report> {
        let mut hostile = sample::hostile();
        hostile.owners[0].share = 1.0;
        hostile.owners[0].growth_bytes_per_s = Some(-1.5);
        vec![
            sample::nothing(),
            sample::incident(),
            sample::lossy(),
            sample::sampled(),
            judged(),
            hostile,
        ]
    }

    #[test]
    fn samples_satisfy_the_schema() {
        let schema = schema();
        for report in sane() {
            let value: Value = serde_json::from_str(&pretty(&report)).unwrap();
            let errors: Vec<String> =
                schema.iter_errors(&value).map(|e| format!("{}: {e}", e.instance_path)).collect();
            assert!(errors.is_empty(), "{errors:#?}");
        }
    }

    #[test]
    fn the_schema_rejects_what_is_broken() {
        let schema = schema();
        let good = serde_json::to_value(sample::sampled()).unwrap();
        assert!(schema.is_valid(&good));
        let broken: [(&str, Value); 11] = [
            ("/schema", json!("kleak.report/2")),
            ("/window_s", json!(-1)),
            ("/verdict/confidence", json!("certain")),
            ("/verdict/share", json!(1.2)),
            ("/verdict/owner/kind", json!("daemon")),
            ("/caches/0/outstanding_objects", json!(1.5)),
            ("/owners/0/outstanding_bytes", Value::Null),
            ("/loss/untracked_objects", json!(-1)),
            ("/host/cgroup", json!("v3")),
            ("/sampling/fraction", json!(1.5)),
            ("/cost/bpf_cpu_share", json!(-0.1)),
        ];
        for (at, value) in broken {
            let mut report = good.clone();
            *report.pointer_mut(at).unwrap() = value;
            assert!(!schema.is_valid(&report), "{at} was accepted");
        }
        for part in ["", "/verdict", "/owners/0", "/stacks/0/owner", "/loss", "/cost", "/sampling"]
        {
            let mut report = good.clone();
            let object = report.pointer_mut(part).unwrap().as_object_mut().unwrap();
            object.insert("extra".into(), json!(1));
            assert!(!schema.is_valid(&report), "an unknown field of `{part}` was accepted");
        }
        for key in good.as_object().unwrap().keys() {
            let mut report = good.clone();
            report.as_object_mut().unwrap().remove(key);
            assert!(!schema.is_valid(&report), "a report without `{key}` was accepted");
        }
    }

    #[test]
    fn the_schema_explains_every_field() {
        schema::explains_every_field(SCHEMA);
    }

    #[test]
    fn it_reads_back_as_it_was() {
        for report in sane() {
            assert_eq!(serde_json::from_str::<Report>(&pretty(&report)).unwrap(), report);
        }
    }

    #[test]
    fn a_line_is_one_line() {
        for report in sample::all() {
            let mut out = Vec::new();
            write_line(&report, &mut out).unwrap();
            write_line(&report, &mut out).unwrap();
            let text = String::from_utf8(out).unwrap();
            assert_eq!(text.lines().count(), 2);
            assert!(text.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()));
            assert!(!text.contains('\u{1b}'), "an escape sequence reached the terminal");
        }
    }

    /// An owner's rate is a quotient; should one ever slip through, JSON has no word for it.
    #[test]
    fn what_is_not_a_number_is_null() {
        let mut report = sample::incident();
        report.owners[0].growth_bytes_per_s = Some(f64::NAN);
        report.verdict.growth_bytes_per_s = Some(f64::INFINITY);
        report.cost.bpf_ns_per_event = Some(f64::NEG_INFINITY);
        let value: Value = serde_json::from_str(&pretty(&report)).unwrap();
        assert!(value["owners"][0]["growth_bytes_per_s"].is_null());
        assert!(value["verdict"]["growth_bytes_per_s"].is_null());
        assert!(value["cost"]["bpf_ns_per_event"].is_null());
        assert!(schema().is_valid(&value));
    }
}

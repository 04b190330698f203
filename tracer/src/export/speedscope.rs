//! speedscope's own format: JSON that its page opens, a profile for each thing to look at
//! (`src/lib/file-format-spec.ts` of speedscope).

use std::collections::BTreeSet;
use std::io;

use hashbrown::HashMap;
use serde::Serialize;

use super::frames::{Frame, Kind};
use super::{Exhibit, Exporter, caption, held};
use crate::report::{ledger::Ledger, profile::Sample};

/// The speedscope format as an [`Exporter`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Speedscope;

/// What the format is known by; nothing is fetched from there.
const SCHEMA: &str = "https://www.speedscope.app/file-format-schema.json";

impl Exporter for Speedscope {
    /// Bytes and objects that are held, and bytes a second by which they grow, in profiles of their own for
    /// slab memory, pages and per-CPU memory.
    fn write(&self, what: &Exhibit<'_>, w: &mut dyn io::Write) -> io::Result<()> {
        let mut w = io::BufWriter::new(w);
        serde_json::to_writer(&mut w, &file(what))?;
        io::Write::write_all(&mut w, b"\n")?;
        io::Write::flush(&mut w)
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct File {
    #[serde(rename = "$schema")]
    schema: &'static str,
    name: String,
    exporter: String,
    active_profile_index: usize,
    shared: Shared,
    profiles: Vec<Sampled>,
}

#[derive(Default, Serialize)]
struct Shared {
    frames: Vec<Shown>,
    #[serde(skip)]
    known: HashMap<Frame, usize>,
}

/// A frame. speedscope gives those of one file like colours.
#[derive(Serialize)]
struct Shown {
    name: String,
    file: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Sampled {
    r#type: &'static str,
    name: String,
    unit: &'static str,
    start_value: f64,
    end_value: f64,
    samples: Vec<Vec<usize>>,
    weights: Vec<f64>,
}

/// What a profile is of.
struct Measure {
    name: &'static str,
    unit: &'static str,
    is_growth: bool,
    of: fn(&Sample) -> Option<f64>,
}

const MEASURES: [Measure; 3] = [
    Measure {
        name: "bytes not freed",
        unit: "bytes",
        is_growth: false,
        of: |sample| Some(sample.outstanding_bytes as f64),
    },
    Measure {
        name: "objects not freed",
        unit: "none",
        is_growth: false,
        of: |sample| Some(sample.outstanding_objects as f64),
    },
    // A weight cannot be negative.
    Measure {
        name: "growth, bytes/s (of what grows)",
        unit: "bytes",
        is_growth: true,
        of: |sample| sample.growth_bytes_per_s,
    },
];

fn file(what: &Exhibit<'_>) -> File {
    let paths: Vec<_> = held::paths(what.profile).collect();
    let books: BTreeSet<Ledger> = paths.iter().map(|(_, sample)| held::book(sample)).collect();
    let verdict = what.report.verdict.cache.as_deref().map(Ledger::of_cache);
    let mut shared = Shared::default();
    let (mut profiles, mut active) = (Vec::new(), 0);
    // With nothing held there is a profile all the same: a file without any is refused.
    let each = if books.is_empty() { BTreeSet::from([Ledger::Slab]) } else { books.clone() };
    for book in each {
        let own = || paths.iter().filter(|(_, sample)| held::book(sample) == book);
        if Some(book) == verdict {
            active = profiles.len();
        }
        for (number, measure) in MEASURES.iter().enumerate() {
            let known = own().any(|(_, sample)| (measure.of)(sample).is_some_and(|n| n > 0.0));
            if number > 0 && !known {
                continue;
            }
            let mut sampled = measure.profile(book, books.len() > 1);
            if measure.is_growth && own().any(|(_, sample)| sample.growth_estimated) {
                sampled.name.push_str(", divided among stacks by what they hold");
            }
            for (path, sample) in own() {
                let Some(weight) = (measure.of)(sample).filter(|n| n.is_finite() && *n > 0.0)
                else {
                    continue;
                };
                sampled.samples.push(path.iter().map(|frame| shared.index(frame)).collect());
                sampled.weights.push(weight);
                sampled.end_value += weight;
            }
            profiles.push(sampled);
        }
    }
    File {
        schema: SCHEMA,
        name: format!("{} ({})", caption::title(what.report), caption::subtitle(what)),
        exporter: format!("kleak {}", env!("CARGO_PKG_VERSION")),
        active_profile_index: active,
        shared,
        profiles,
    }
}

impl Measure {
    fn profile(&self, book: Ledger, of_several: bool) -> Sampled {
        let name = if of_several { format!("{book}: {}", self.name) } else { self.name.to_owned() };
        Sampled {
            r#type: "sampled",
            name,
            unit: self.unit,
            start_value: 0.0,
            end_value: 0.0,
            samples: Vec::new(),
            weights: Vec::new(),
        }
    }
}

impl Shared {
    fn index(&mut self, frame: &Frame) -> usize {
        if let Some(&index) = self.known.get(frame) {
            return index;
        }
        let index = self.frames.len();
        let file = match frame.kind {
            Kind::Ledger | Kind::Group | Kind::Owner => "owner",
            Kind::User => "user",
            Kind::Kernel => "kernel",
            Kind::Module => "module",
            Kind::Cache => "cache",
        };
        self.frames.push(Shown { name: frame.name.clone(), file });
        self.known.insert(frame.clone(), index);
        index
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::report::{Report, sample};

    fn read(report: &Report) -> Value {
        let mut out = Vec::new();
        let profile = sample::profile(report);
        Speedscope.write(&Exhibit { report, profile: &profile }, &mut out).unwrap();
        serde_json::from_slice(&out).unwrap()
    }

    /// The format's rules, as its schema has them.
    fn check(file: &Value) {
        assert_eq!(file["$schema"], SCHEMA);
        let frames = file["shared"]["frames"].as_array().unwrap();
        assert!(frames.iter().all(|frame| frame["name"].is_string() && frame["file"].is_string()));
        let profiles = file["profiles"].as_array().unwrap();
        assert!(file["activeProfileIndex"].as_u64().unwrap() < profiles.len() as u64);
        for profile in profiles {
            assert_eq!(profile["type"], "sampled");
            assert!(profile["name"].is_string());
            let units = ["none", "nanoseconds", "microseconds", "milliseconds", "seconds", "bytes"];
            assert!(units.contains(&profile["unit"].as_str().unwrap()));
            let samples = profile["samples"].as_array().unwrap();
            let weights = profile["weights"].as_array().unwrap();
            assert_eq!(samples.len(), weights.len());
            for index in samples.iter().flat_map(|stack| stack.as_array().unwrap()) {
                assert!(index.as_u64().unwrap() < frames.len() as u64);
            }
            let sum: f64 = weights.iter().map(|weight| weight.as_f64().unwrap()).sum();
            assert_eq!(profile["startValue"], 0.0);
            let end = profile["endValue"].as_f64().unwrap();
            assert!((end - sum).abs() <= sum * 1e-12);
        }
    }

    #[test]
    fn any_report_keeps_the_format() {
        for report in sample::all() {
            check(&read(&report));
        }
    }

    #[test]
    fn the_incident() {
        let file = read(&sample::incident());
        let profiles = file["profiles"].as_array().unwrap();
        let ends: Vec<_> = profiles
            .iter()
            .map(|profile| (profile["name"].as_str().unwrap(), profile["endValue"].clone()))
            .collect();
        assert_eq!(
            ends,
            [
                ("bytes not freed", 7_492_096.0.into()),
                ("objects not freed", 14_633.0.into()),
                (
                    "growth, bytes/s (of what grows), divided among stacks by what they hold",
                    (7_492_096.0 / 30.0).into()
                ),
            ]
        );
        let doubts = "2.7 % of the bytes divided among stacks by sampling";
        assert!(file["name"].as_str().unwrap().contains(doubts), "{}", file["name"]);
        // Root first.
        let first = profiles[0]["samples"][0][0].as_u64().unwrap();
        let frame = &file["shared"]["frames"][usize::try_from(first).unwrap()];
        assert_eq!(*frame, serde_json::json!({"name": "[kubelet.service]", "file": "owner"}));
    }

    #[test]
    fn nothing_is_a_profile_of_nothing() {
        let file = read(&sample::nothing());
        assert_eq!(file["profiles"].as_array().unwrap().len(), 1);
        assert_eq!(file["profiles"][0]["endValue"], 0.0);
    }

    #[test]
    fn books_are_profiles_of_their_own() {
        let mut report = sample::incident();
        let mut pages = sample::msg_stack(3);
        pages.cache = "page order-3 unmovable (slab)".into();
        report.stacks.push(pages);
        report.verdict.cache = Some("page order-3 unmovable (slab)".into());
        let file = read(&report);
        let active = usize::try_from(file["activeProfileIndex"].as_u64().unwrap()).unwrap();
        assert_eq!(file["profiles"][active]["name"], "pages: bytes not freed");
        assert_eq!(file["profiles"][active]["endValue"], 7_286_272.0);
        assert_eq!(file["profiles"][0]["name"], "slab memory: bytes not freed");
        check(&file);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_names_and_numbers_keep_the_format(
            name in any::<String>(),
            bytes in any::<u64>(),
            rate in any::<f64>(),
        ) {
            let mut report = sample::incident();
            report.stacks[0].kernel = crate::report::frames([&name, &name]);
            report.stacks[0].cache.clone_from(&name);
            report.stacks[0].outstanding_bytes = bytes;
            report.window_s = rate;
            check(&read(&report));
        }
    }
}

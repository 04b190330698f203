//! A report as its readers see it: JSON, not the tool's own types.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::Finished;

/// What a report says of one owner in one cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Allocated in the window.
    pub allocated: u64,
    /// Of those, freed.
    pub freed: u64,
    /// Of those, not freed.
    pub outstanding: u64,
    /// The same in bytes.
    pub bytes: u64,
}

/// A report.
#[derive(Clone, Debug)]
pub struct Report(pub Value);

impl Report {
    /// Of a run with `--format json`: one document on standard output and nothing else.
    pub fn parse(finished: &Finished) -> Result<Self> {
        let value = serde_json::from_slice(&finished.stdout)
            .with_context(|| format!("standard output is not one JSON document: {finished}"))?;
        Self::check(value)
    }

    /// Of a run with `--format ndjson`: one a line.
    pub fn parse_lines(finished: &Finished) -> Result<Vec<Self>> {
        let lines = finished.text()?.lines();
        lines
            .map(|line| Self::check(serde_json::from_str(line).context(line.to_owned())?))
            .collect()
    }

    /// A document read from elsewhere.
    pub fn check(value: Value) -> Result<Self> {
        ensure!(value["schema"] == "kleak.report/1", "schema is {}", value["schema"]);
        Ok(Self(value))
    }

    /// All rows of `owners`.
    pub fn owners(&self) -> Result<&Vec<Value>> {
        self.0["owners"].as_array().context("owners is no list")
    }

    /// The rows of a process that runs or ran under this id, all caches.
    pub fn rows_of(&self, pid: u32) -> Result<Vec<&Value>> {
        Ok(self.owners()?.iter().filter(|row| row["owner"]["pid"] == pid).collect())
    }

    /// The only row of a process in a cache, if there is one.
    pub fn row(&self, pid: u32, cache: &str) -> Result<Option<&Value>> {
        let mut rows = self.rows_of(pid)?;
        rows.retain(|row| row["cache"] == cache);
        ensure!(rows.len() <= 1, "process {pid} has several rows in {cache}: {rows:#?}");
        Ok(rows.pop())
    }

    /// What it says of a process in a cache; all 0 without a row.
    pub fn counts(&self, pid: u32, cache: &str) -> Result<Counts> {
        self.row(pid, cache)?.map_or_else(|| Ok(Counts::default()), as_counts)
    }

    /// Whether frees by RCU and in bulk were followed, and not only what tracepoints show.
    pub fn follows_rcu(&self) -> bool {
        let frees = self.0.pointer("/mode/frees").and_then(Value::as_str);
        matches!(frees, Some("trampolines" | "kprobes"))
    }

    /// Of a report `--by site`: what each function whose name holds one of these left, by cache.
    pub fn of_sites(&self, functions: &[&str]) -> Result<Vec<(String, Counts)>> {
        let is_one = |row: &&Value| {
            let name = row["owner"]["comm"].as_str().unwrap_or_default();
            functions.iter().any(|function| name.contains(function))
        };
        self.owners()?
            .iter()
            .filter(is_one)
            .map(|row| Ok((row["cache"].as_str().context("cache")?.to_owned(), as_counts(row)?)))
            .collect()
    }

    /// Whether the verdict says that this process grows something.
    pub fn blames(&self, pid: u32) -> bool {
        let verdict = &self.0["verdict"];
        verdict["growing"] == true && verdict["owner"]["pid"] == pid
    }

    /// Whether a note holds all of these words.
    pub fn notes_say(&self, words: &[&str]) -> bool {
        let notes = self.0["notes"].as_array().into_iter().flatten().filter_map(Value::as_str);
        notes.into_iter().any(|note| words.iter().all(|word| note.contains(word)))
    }

    /// Outstanding objects of all rows.
    pub fn outstanding(&self) -> Result<u64> {
        self.owners()?.iter().map(|row| Ok(as_counts(row)?.outstanding)).sum()
    }

    /// Kernel functions of the stacks of a row, one list a stack.
    pub fn stacks_of(&self, row: &Value) -> Result<Vec<&Value>> {
        let ids = row["stacks"].as_array().context("stacks is no list")?;
        let all = self.0["stacks"].as_array().context("stacks is no list")?;
        ids.iter()
            .map(|id| {
                let found = all.iter().find(|stack| stack["id"] == *id);
                found.with_context(|| format!("no stack has id {id}"))
            })
            .collect()
    }

    /// Whether a stack of this row goes through a function whose name holds one of these.
    pub fn passes_through(&self, row: &Value, functions: &[&str]) -> Result<bool> {
        let stacks = self.stacks_of(row)?;
        Ok(stacks.iter().any(|stack| holds_frame(stack, functions)))
    }

    /// A number by its JSON pointer.
    pub fn number(&self, pointer: &str) -> Result<u64> {
        let value = self.0.pointer(pointer).with_context(|| format!("no {pointer}"))?;
        value.as_u64().with_context(|| format!("{pointer} is {value}"))
    }

    /// A word by its JSON pointer.
    pub fn word(&self, pointer: &str) -> Result<&str> {
        let value = self.0.pointer(pointer).with_context(|| format!("no {pointer}"))?;
        value.as_str().with_context(|| format!("{pointer} is {value}"))
    }
}

/// Whether a stack goes through a function whose name holds one of these.
pub fn holds_frame(stack: &Value, functions: &[&str]) -> bool {
    let frames = stack["kernel"].as_array().into_iter().flatten().filter_map(Value::as_str);
    frames.into_iter().any(|frame| functions.iter().any(|function| frame.contains(function)))
}

/// The counts of a row of `owners`.
pub fn as_counts(row: &Value) -> Result<Counts> {
    let field = |name: &str| row[name].as_u64().with_context(|| format!("{name} is {}", row[name]));
    Ok(Counts {
        allocated: field("allocated_objects")?,
        freed: field("freed_objects")?,
        outstanding: field("outstanding_objects")?,
        bytes: field("outstanding_bytes")?,
    })
}

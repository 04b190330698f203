//! One HTML file that holds everything and fetches nothing: verdict, flame graph, growth, owners, stacks.
//! For a colleague who has a browser and nothing else.
//!
//! Names in it are hostile. They are text wherever they are: escaped in what is written here, JSON that
//! cannot end its element in what the script reads, and `textContent` in what the script makes. Should
//! that ever fail, the page's policy lets no script run but its own, known by its hash, and no request be
//! made at all. Without a script the verdict, the owners and how far to trust them can still be read.

mod data;
mod escape;
mod head;
mod intern;
#[cfg(test)]
mod tests;

use std::io;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha2::{Digest as _, Sha256};

use self::data::Bounds;
use super::{Exhibit, Exporter};
use crate::report::names;

/// The page as an [`Exporter`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Html;

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("style.css");
/// In an order in which what is used at once comes first.
const SCRIPT: &str = concat!(
    include_str!("start.js"),
    include_str!("format.js"),
    include_str!("model.js"),
    include_str!("tree.js"),
    include_str!("graph.js"),
    include_str!("table.js"),
    include_str!("chart.js"),
    include_str!("main.js"),
    include_str!("end.js"),
);

impl Exporter for Html {
    fn write(&self, what: &Exhibit<'_>, w: &mut dyn io::Write) -> io::Result<()> {
        write(what, Bounds::default(), w)
    }
}

fn write(what: &Exhibit<'_>, bounds: Bounds, w: &mut dyn io::Write) -> io::Result<()> {
    let report = what.report;
    let data = serde_json::to_string(&data::gather(report, what.profile, bounds))?;
    let owners = head::owners(report);
    // Owners of what was freed have rows too.
    let empty = what.profile.samples.iter().all(|s| s.rest || s.outstanding_objects == 0);
    let title = match report.verdict.owner.as_ref() {
        Some(owner) => format!("{} on {} – kleak", names::who(owner), report.host.hostname),
        None => format!("{} – kleak", report.host.hostname),
    };
    fill(PAGE, w, &|name| {
        Some(match name {
            "policy" => policy(),
            "version" => env!("CARGO_PKG_VERSION").into(),
            "title" => escape::text(&title),
            "style" => STYLE.into(),
            "where" => escape::text(&head::place(report)),
            "alarm" => if report.verdict.growing { " class=\"alarm\"" } else { "" }.into(),
            "verdict" => escape::text(&report.verdict.summary),
            "facts" => head::facts(report),
            "warnings" => head::warnings(report),
            "nothing" => {
                if empty {
                    head::nothing(report)
                } else {
                    String::new()
                }
            }
            "hide_owners" => if empty && report.owners.is_empty() { " hidden" } else { "" }.into(),
            "owners_count" => owners.count.clone(),
            "owners" => owners.table.clone(),
            "owners_more" => owners.more.clone(),
            "trust" => head::trust(report),
            "data" => escape::json(&data).into_owned(),
            "script" => SCRIPT.into(),
            _ => return None,
        })
    })
}

/// Writes `page` with `{{names}}` replaced, each once and in one go: what is put in is not looked at again.
///
/// Errors: `w` cannot be written, or a name is not known.
fn fill(
    page: &str,
    w: &mut dyn io::Write,
    value: &dyn Fn(&str) -> Option<String>,
) -> io::Result<()> {
    let mut rest = page;
    while let Some((before, after)) = rest.split_once("{{") {
        w.write_all(before.as_bytes())?;
        let (name, after) = after.split_once("}}").unwrap_or((after, ""));
        let value = value(name)
            .ok_or_else(|| io::Error::other(format!("the page has no value for {name}")))?;
        w.write_all(value.as_bytes())?;
        rest = after;
    }
    w.write_all(rest.as_bytes())
}

/// What the page may do: run its own script, have its own style. Images, fonts, frames, forms, requests of
/// any kind: nothing.
fn policy() -> String {
    format!(
        "default-src 'none'; script-src '{}'; style-src '{}'; base-uri 'none'; form-action 'none'",
        hash(SCRIPT),
        hash(STYLE)
    )
}

fn hash(content: &str) -> String {
    format!("sha256-{}", STANDARD.encode(Sha256::digest(content)))
}

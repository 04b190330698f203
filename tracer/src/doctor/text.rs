//! The report as text: the answer, where memory is, what stands out, the biggest processes, and the
//! one command to run next.

use std::io;

use super::{
    books::Memory,
    report::{DoctorReport, Finding, ProcessRow, Severity},
};
use crate::report::{
    human,
    sanitize::terminal,
    text::{
        Style,
        layout::{Page, Paint},
        table::{Column, GAP, lay_out, squeeze},
    },
};

/// Columns of the names before each line.
const LABEL: usize = 11;
/// Processes shown.
const PROCESSES: usize = 5;
/// Words that summaries begin with, other than names.
const WORDS: [&str; 9] =
    ["nothing", "kernel", "kernel-memory", "this", "eviction", "very", "the", "cgroup", "kubelet"];
/// Kinds of memory below this part of the whole are left out.
const LEAST: f64 = 0.005;

/// Writes `report` for people. No line is wider than `style.width`, and no name in it can steer the
/// terminal.
pub fn render(
    report: &DoctorReport,
    style: &Style,
    w: &mut (impl io::Write + ?Sized),
) -> io::Result<()> {
    let mut page = Page::new(*style);
    let worst = report.findings.first().map_or(Severity::Info, |finding| finding.severity);
    let paint = if worst == Severity::Info { Paint::Bold } else { Paint::Alarm };
    page.paragraph(paint, "", &capitalised(&report.summary));
    page.line(Paint::Plain, "");
    memory(report, &mut page);
    findings(report, &mut page);
    processes(&report.processes, &mut page);
    unread(report, &mut page);
    page.line(Paint::Plain, "");
    match &report.next {
        Some(next) => command(next, &mut page),
        None => page.line(Paint::Plain, "Next: nothing to do."),
    }
    w.write_all(page.text().as_bytes())
}

fn capitalised(sentence: &str) -> String {
    // Summaries are made of what is safe to print already.
    let mut characters = sentence.chars();
    let word = sentence.split([' ', ',']).next().unwrap_or_default();
    match characters.next() {
        // The name of a cache stays as it is.
        Some(first) if WORDS.contains(&word) => {
            first.to_uppercase().collect::<String>() + characters.as_str()
        }
        _ => sentence.to_owned(),
    }
}

/// The command, which is wrapped where it is wider than the page: JSON has it in one line.
fn command(next: &str, page: &mut Page) {
    let text = terminal(next);
    page.paragraph(Paint::Bold, "Next: ", &text);
}

fn entry(page: &mut Page, paint: Paint, label: &str, text: &str) {
    page.paragraph(paint, &format!("  {label:LABEL$}"), text);
}

fn memory(report: &DoctorReport, page: &mut Page) {
    let memory = &report.memory;
    let Some(total) = memory.total_bytes else {
        entry(page, Paint::Warn, "memory", "unknown: proc/meminfo could not be read");
        return;
    };
    let share = |bytes: u64| human::percent(bytes as f64 / total as f64);
    let mut views = vec![match memory.available_bytes {
        Some(available) => {
            format!("{} available by free ({})", human::bytes(available), share(available))
        }
        None => "what is available this kernel does not say".to_owned(),
    }];
    if let Some(available) = memory.kubelet_available_bytes {
        views.push(format!("{} as kubelet computes it", human::bytes(available)));
    }
    entry(page, Paint::Plain, "memory", &format!("{}; {}", human::bytes(total), views.join(", ")));
    let shown: Vec<String> = places(memory)
        .into_iter()
        .filter(|(_, bytes)| *bytes as f64 >= total as f64 * LEAST)
        .map(|(name, bytes)| format!("{name} {}", human::bytes(bytes)))
        .collect();
    entry(page, Paint::Plain, "where", &shown.join(", "));
    if let (Some(size), Some(free)) = (memory.swap_total_bytes, memory.swap_free_bytes)
        && size > free
    {
        let text = format!("{} of {} used", human::bytes(size - free), human::bytes(size));
        entry(page, Paint::Plain, "swap", &text);
    }
    if let Some(cgroups) = &report.cgroups {
        let dying = cgroups.dying.map_or_else(|| "?".to_owned(), human::count);
        let text = format!(
            "{} live and {dying} dying memory cgroups ({}), of {} ids",
            human::count(cgroups.live),
            cgroups.version,
            human::count(cgroups.ids)
        );
        entry(page, Paint::Plain, "cgroups", &text);
    }
    let host = &report.host;
    let name = |text: &Option<String>| text.as_ref().map(|text| terminal(text).into_owned());
    let of = [
        name(&host.hostname),
        name(&host.kernel).map(|kernel| format!("Linux {kernel}")),
        name(&host.machine),
        Some(if report.live { "live" } else { "a saved or mounted tree" }.to_owned()),
    ];
    entry(page, Paint::Dim, "of", &of.into_iter().flatten().collect::<Vec<_>>().join(", "));
}

/// Kinds of memory, largest first.
fn places(memory: &Memory) -> Vec<(&'static str, u64)> {
    let mut places: Vec<(&'static str, u64)> = [
        ("anonymous", memory.anon_bytes),
        ("page cache", memory.page_cache_bytes),
        ("tmpfs and shared", memory.shmem_bytes),
        ("unreclaimable slab", memory.slab_unreclaimable_bytes),
        ("reclaimable slab", memory.slab_reclaimable_bytes),
        ("per-CPU", memory.percpu_bytes),
        ("vmalloc", memory.vmalloc_bytes),
        ("page tables", memory.page_tables_bytes),
        ("huge pages", memory.hugetlb_bytes),
        ("kernel stacks", memory.kernel_stack_bytes),
        ("other reclaimable", memory.other_reclaimable_bytes),
        ("ZFS cache", memory.zfs_cache_bytes),
        ("free", memory.free_bytes),
        ("unaccounted ~", memory.unaccounted_bytes),
    ]
    .into_iter()
    .filter_map(|(name, bytes)| Some((name, bytes?)))
    .collect();
    places.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    places
}

fn findings(report: &DoctorReport, page: &mut Page) {
    // The worst is the sentence above.
    let said = usize::from(
        report.findings.first().is_some_and(|finding| finding.severity != Severity::Info),
    );
    let rest = report.findings.get(said..).unwrap_or_default();
    if rest.is_empty() {
        return;
    }
    page.line(Paint::Plain, "");
    for finding in rest {
        let (word, paint) = match finding.severity {
            Severity::Critical => ("critical", Paint::Alarm),
            Severity::Warning => ("warning", Paint::Warn),
            Severity::Info => ("info", Paint::Dim),
        };
        page.paragraph(paint, &format!("{word:8}  "), &line(finding));
    }
}

fn line(finding: &Finding) -> String {
    format!("{}: {}", finding.id, finding.summary)
}

fn processes(rows: &[ProcessRow], page: &mut Page) {
    let rows = rows.get(..PROCESSES).unwrap_or(rows);
    if rows.is_empty() {
        return;
    }
    let column = |heading: &str, name: bool, cell: &dyn Fn(&ProcessRow) -> String| Column {
        cells: std::iter::once(heading.to_owned()).chain(rows.iter().map(cell)).collect(),
        name,
    };
    let size = |bytes: Option<u64>| bytes.map_or_else(|| "?".to_owned(), human::bytes);
    let mut columns = vec![
        column("PROCESS", true, &|row| format!("{}[{}]", terminal(&row.comm), row.pid)),
        column("RESIDENT", false, &|row| size(row.rss_bytes)),
        column("ANONYMOUS", false, &|row| size(row.anon_bytes)),
        column("LIMIT", false, &|row| match (row.limit_bytes, row.limited) {
            (Some(bytes), _) => human::bytes(bytes),
            (None, Some(false)) => "none".to_owned(),
            (None, _) => "?".to_owned(),
        }),
        column("OWNER", true, &|row| terminal(&owner(row)).into_owned()),
    ];
    squeeze(&mut columns, page.width() + GAP);
    let mut lines = lay_out(&columns, rows.len()).into_iter();
    page.line(Paint::Plain, "");
    page.line(Paint::Bold, &lines.next().unwrap_or_default());
    for line in lines {
        page.line(Paint::Plain, &line);
    }
}

/// Pod, container, unit, or the cgroup's path.
fn owner(row: &ProcessRow) -> String {
    if let Some(pod) = &row.pod {
        return match &row.namespace {
            Some(namespace) => format!("{namespace}/{pod}"),
            None => format!("pod {pod}"),
        };
    }
    let named = row.container.as_ref().or(row.unit.as_ref()).or(row.cgroup.as_ref());
    named.cloned().unwrap_or_else(|| "?".to_owned())
}

fn unread(report: &DoctorReport, page: &mut Page) {
    if report.unread.is_empty() {
        return;
    }
    let all: Vec<String> = report
        .unread
        .iter()
        .map(|row| format!("{} ({})", terminal(&row.path), terminal(&row.why)))
        .collect();
    page.line(Paint::Plain, "");
    page.paragraph(Paint::Warn, "Not read: ", &all.join(", "));
}

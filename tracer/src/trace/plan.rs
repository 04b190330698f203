//! From options to what will be done: checked as far as can be before anything is attached.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use globset::GlobMatcher;
use hashbrown::{HashMap, HashSet};
use kleak_common::{CallPath, LARGEST_CACHED, flavour};

use super::{Failure, outputs::check_paths};
use crate::{
    analyse,
    cli::{self, Format, Kind, Stacks, TraceArgs},
    export,
    host::{
        Host,
        cgroup::CgroupLayout,
        classes::{self, Classes},
        kallsyms,
        meminfo::MemInfo,
        system,
    },
    probe::{self, CgroupSource},
    recording::check_source,
    report::{Filter, names},
    resolve::roles,
};

/// Share of `MemAvailable` that the maps take by default at the most: the node is short of memory,
/// or nobody would be looking.
const SHARE_OF_AVAILABLE: u64 = 20;
/// Objects held unless told otherwise.
const DEFAULT_OBJECTS: u32 = 1_000_000;
/// Never fewer by default, some 3 MiB.
const FEWEST_OBJECTS: u32 = 20_000;
/// Different stacks held where there is plenty of memory, 58 MiB.
const MOST_STACKS: u32 = 131_072;
/// Never fewer, 7 MiB.
const FEWEST_STACKS: u32 = 16_384;

/// What a run will do.
pub(super) struct Plan {
    pub(super) host: Host,
    pub(super) layout: CgroupLayout,
    pub(super) classes: Classes,
    pub(super) config: probe::Config,
    pub(super) caches: CacheChoice,
    pub(super) filter: Filter,
    pub(super) options: analyse::Options,
    pub(super) duration: Option<Duration>,
    pub(super) interval: Option<Duration>,
    pub(super) min_age: Duration,
    /// Share of the machine that kleak may cost, 0 to 1.
    pub(super) budget: Option<f64>,
    pub(super) format: Format,
    /// Rows of the text report.
    pub(super) top: usize,
    pub(super) output: PathBuf,
    /// Files in other formats.
    pub(super) exports: Vec<(export::Format, PathBuf)>,
    /// What makes it fail.
    pub(super) judging: cli::Judging,
    /// The recording.
    pub(super) save: Option<PathBuf>,
    pub(super) command: Vec<OsString>,
    /// Things to say before attaching.
    pub(super) remarks: Vec<String>,
}

/// Which slab caches are wanted by name.
pub(super) struct CacheChoice {
    globs: Vec<GlobMatcher>,
    /// Other names of merged caches, by each of their names (`/sys/kernel/slab`).
    aliases: HashMap<String, Vec<String>>,
    /// kmalloc classes wanted by size, whatever their caches are called; `None` when all are.
    sizes: Option<HashSet<u64>>,
}

impl CacheChoice {
    /// Whether a named cache is wanted. Caches of the same shape are merged by the kernel, so a
    /// glob may name an alias.
    pub(super) fn wants(&self, name: &str) -> bool {
        let matches = |name: &str| self.globs.iter().any(|glob| glob.is_match(name));
        matches(name) || self.aliases.get(name).is_some_and(|all| all.iter().any(|n| matches(n)))
    }

    /// Other names of merged caches, by each of their names.
    pub(super) fn aliases(&self) -> &HashMap<String, Vec<String>> {
        &self.aliases
    }

    /// Whether objects of a kmalloc cache are wanted.
    pub(super) fn wants_kmalloc(&self, slot_bytes: u64, name: &str) -> bool {
        self.sizes.as_ref().is_none_or(|sizes| sizes.contains(&slot_bytes)) || self.wants(name)
    }
}

impl Plan {
    /// Whether objects of a slab cache are to be shown.
    pub(super) fn wants_cache(&self, name: &str) -> bool {
        match classes::size_in_name(name) {
            Some(size) => self.caches.wants_kmalloc(self.classes.slot_bytes(size), name),
            None => self.caches.wants(name),
        }
    }

    /// Checks options against each other and against this machine.
    ///
    /// Errors: a combination that makes no sense, or a machine that cannot be read.
    pub(super) fn new(args: &TraceArgs) -> Result<Self, Failure> {
        check_combinations(args)?;
        let exports = args.exports.wanted();
        let mut written = vec![("output", args.output.as_path())];
        written.extend(exports.iter().map(|(format, path)| (format.option(), path.as_path())));
        // That a recording is no report has a message of its own.
        let save = args.save.as_deref().filter(|path| path.as_os_str() != "-");
        written.extend(save.map(|path| ("save", path)));
        written.extend(args.judging.written());
        check_paths(&written)?;
        for source in args.judging.read() {
            check_source(source, &written)?;
        }
        let host = host_at(&args.host_root)?;
        if !args.command.is_empty() && !system::own_proc_is_of(&host) {
            return Err(Failure::Cannot(
                "a COMMAND and --host-root go together only in the host's pid namespace: start \
                 kleak there (hostPID: true, docker run --pid=host)"
                    .to_owned(),
            ));
        }
        if let Some(word) = args.command.first() {
            super::child::find(word).map_err(Failure::Usage)?;
        }
        let mut remarks = Vec::new();
        let classes = Classes::read(&host).unwrap_or_else(|error| {
            // Without rights the probe says so in a moment; this is for the odd case of a root
            // that cannot read slabinfo.
            tracing::debug!(%error, "slab caches are not known, standard kmalloc classes assumed");
            Classes::default()
        });
        let layout = CgroupLayout::detect(&host)?;
        let meminfo = crate::host::meminfo::read(&host).unwrap_or_default();
        let choice = choose(args, &classes, &host, &mut remarks)?;
        let release = system::uname(&host).map(|uname| uname.release).unwrap_or_default();
        let max_objects = max_objects(args, &release, &meminfo, &mut remarks)?;
        let (btf, tracefs) = probe::Config::usual_places(&host);
        let (pages, percpu) = (args.kind.contains(&Kind::Page), args.kind.contains(&Kind::Percpu));
        let config = probe::Config {
            host: host.clone(),
            sizes: choice.slots.clone(),
            caches: choice.named,
            scope: probe::Scope::Allocations,
            pages,
            percpu,
            // Large kmallocs are reported twice by some kernels, once by kmalloc itself.
            call_path: Box::new(
                if pages || percpu || choice.slots.iter().any(|&s| s > LARGEST_CACHED) {
                    call_path(&host, &mut remarks)
                } else {
                    CallPath::NONE
                },
            ),
            possible_cpus: system::possible_cpus(&host)?,
            stacks: args.stacks.into(),
            user_stacks: args.user_stacks,
            max_objects,
            // Where a build may fail by it, every event counts; on a sick node time does.
            exact: !(args.command.is_empty() && args.judging.fail_on.is_empty()),
            max_stacks: max_stacks(&meminfo),
            follow_family: !args.command.is_empty(),
            cgroups: CgroupSource::of(&layout),
            stack_size: system::kernel_stack_bytes(&host, &meminfo),
            btf,
            tracefs,
        };
        let filter = filter(args, &classes, &choice);
        let options = analyse::Options {
            by: args.by,
            top: args.top.map(|top| top as usize),
            select: analyse::Select {
                pid: args.pid,
                comm: args.comm.clone(),
                cgroup: args.cgroup.clone(),
                pod: args.pod.clone(),
                family_only: !args.command.is_empty(),
            },
        };
        Ok(Self {
            host,
            layout,
            classes,
            config,
            caches: choice.caches,
            filter,
            options,
            duration: args.duration,
            interval: args.interval,
            min_age: args.min_age.unwrap_or_default(),
            budget: args.budget,
            format: args.format,
            top: args.top.unwrap_or(10) as usize,
            output: args.output.clone(),
            exports,
            save: args.save.clone(),
            judging: args.judging.clone(),
            command: args.command.clone(),
            remarks,
        })
    }
}

/// The running system, its root mounted at `root`.
///
/// Errors: there is no `/proc` of it.
pub(crate) fn host_at(root: &Path) -> Result<Host, Failure> {
    let host = Host::mounted(root);
    if !host.is_own_root() && !host.proc("1/stat").exists() {
        return Err(Failure::Cannot(format!(
            "--host-root {0}: {1} shows no processes; have the host's root mounted there, with what \
             is mounted below it:\n  docker run -v /:{0}:ro,rslave ...   or, in a pod, a hostPath \
             volume of / with mountPropagation: HostToContainer",
            root.display(),
            host.proc("").display(),
        )));
    }
    Ok(host)
}

fn check_combinations(args: &TraceArgs) -> Result<(), Failure> {
    let usage = |text: &str| Err(Failure::Usage(text.to_owned()));
    if let (Some(duration), Some(interval)) = (args.duration, args.interval)
        && interval > duration
    {
        return usage(
            "--interval is longer than --duration, so it would never end; make it shorter",
        );
    }
    if let (Some(duration), Some(min_age)) = (args.duration, args.min_age)
        && min_age >= duration
    {
        return usage(
            "--min-age is not shorter than --duration, so no object could get that old; make the window longer",
        );
    }
    if !args.size.is_empty() && !args.kind.is_empty() && !args.kind.contains(&Kind::Kmalloc) {
        return usage("--size selects kmalloc classes, but --kind leaves kmalloc out");
    }
    if args.user_stacks && args.stacks == Stacks::Off {
        return usage("--user-stacks needs kernel stacks too; drop --stacks off");
    }
    if !args.command.is_empty() && args.pid.is_some() {
        return usage("--pid and a COMMAND exclude each other: the report is of the command");
    }
    Ok(())
}

/// Which functions are which allocator's; without, pages have no caller, and which of them the slab
/// allocator took cannot be told.
fn call_path(host: &Host, remarks: &mut Vec<String>) -> CallPath {
    let found = kallsyms::functions(host).and_then(|functions| roles::call_path(&functions));
    found.unwrap_or_else(|| {
        remarks.push(
            "kernel functions have no addresses in /proc/kallsyms: who called the page allocator is \
             not known, slab pages are not told from others, and a kmalloc above 8 KiB may count \
             twice; run as root, or: sysctl kernel.kptr_restrict=1"
                .to_owned(),
        );
        CallPath::NONE
    })
}

/// What is followed.
struct Choice {
    /// kmalloc classes chosen by size, whatever their caches are called, by name size.
    classes: Vec<u64>,
    /// All classes followed, as the tracepoint reports them: of some only caches that are chosen by name.
    slots: Vec<u64>,
    /// Named caches too.
    named: bool,
    caches: CacheChoice,
}

fn choose(
    args: &TraceArgs,
    classes: &Classes,
    host: &Host,
    remarks: &mut Vec<String>,
) -> Result<Choice, Failure> {
    let explicit = |kind| args.kind.contains(&kind);
    let aliases = aliases(host);
    let mut globs = args.cache.clone();
    if globs.is_empty() && explicit(Kind::Cache) {
        globs.push(
            globset::Glob::new("*").map_err(|e| Failure::Failed(e.to_string()))?.compile_matcher(),
        );
    }
    let matches = |name: &str| globs.iter().any(|glob| glob.is_match(name));
    for (name, others) in globs.iter().filter_map(|glob| aliases.get_key_value(glob.glob().glob()))
    {
        remarks.push(format!(
            "the kernel keeps {name} in one cache with {}: the objects of all of them are followed, \
             and the functions that allocate them tell them apart",
            names::list(others)
        ));
    }
    let by_size: Vec<u64> = classes_of_sizes(&args.size, classes, remarks)?;
    let all: Vec<u64> = classes.sizes().chain((14..=22).map(|order| 1 << order)).collect();
    let kmalloc = args.kind.is_empty() || explicit(Kind::Kmalloc);
    let chosen: Vec<u64> = if !by_size.is_empty() {
        by_size.clone()
    } else if kmalloc && (args.cache.is_empty() || explicit(Kind::Kmalloc)) {
        all.clone()
    } else {
        Vec::new()
    };
    let sizes: HashSet<u64> = chosen.iter().map(|&class| classes.slot_bytes(class)).collect();
    // A glob may name kmalloc caches too: their classes are followed, and sorted out by name.
    let by_name =
        all.iter().filter(|&&class| kmalloc_names(class).iter().any(|name| matches(name)));
    let mut followed: Vec<u64> = chosen.iter().chain(by_name).copied().collect();
    followed.sort_unstable();
    followed.dedup();
    let is_kmalloc = |name: &str| all.iter().any(|&c| kmalloc_names(c).iter().any(|n| n == name));
    let known = classes.names();
    let named_matches =
        known.iter().chain(aliases.keys()).any(|name| matches(name) && !is_kmalloc(name));
    if !globs.is_empty() && !known.is_empty() && !named_matches && followed.is_empty() {
        let list: Vec<&str> = globs.iter().map(|glob| glob.glob().glob()).collect();
        return Err(Failure::Usage(format!(
            "no slab cache of this kernel is called {}; see the names with:\n  cat /proc/slabinfo",
            list.join(" or ")
        )));
    }
    Ok(Choice {
        slots: followed.iter().map(|&class| classes.slot_bytes(class)).collect(),
        classes: chosen,
        named: !globs.is_empty() && (named_matches || known.is_empty()),
        caches: CacheChoice { globs, aliases, sizes: Some(sizes) },
    })
}

fn classes_of_sizes(
    sizes: &[u64],
    classes: &Classes,
    remarks: &mut Vec<String>,
) -> Result<Vec<u64>, Failure> {
    let mut chosen = Vec::new();
    for &bytes in sizes {
        let Some(class) = classes.class_for(bytes) else {
            return Err(Failure::Usage(format!("kmalloc does not serve {bytes} bytes")));
        };
        if class != bytes {
            remarks.push(format!(
                "{bytes} is not a size class; following {}, which serves it",
                classes::cache_name(class, flavour::NORMAL)
            ));
        }
        chosen.push(class);
    }
    Ok(chosen)
}

/// What the kmalloc caches of a class may be called.
fn kmalloc_names(class: u64) -> Vec<String> {
    let plain = classes::cache_name(class, flavour::NORMAL);
    let size = plain.trim_start_matches("kmalloc-").to_owned();
    let mut names: Vec<String> = [flavour::ACCOUNT, flavour::RECLAIMABLE, flavour::DMA]
        .iter()
        .map(|&flavour| classes::cache_name(class, flavour))
        .collect();
    names.extend(
        ["msg_msg", "memdup_user", "kmalloc-large"].map(|family| format!("{family}-{size}")),
    );
    names.push(plain);
    names
}

/// Other names of merged caches, by each name: all are symbolic links to one directory.
fn aliases(host: &Host) -> HashMap<String, Vec<String>> {
    let mut by_target: HashMap<PathBuf, Vec<String>> = HashMap::new();
    for entry in std::fs::read_dir(host.sys("kernel/slab")).into_iter().flatten().flatten() {
        if let (Ok(target), Ok(name)) =
            (std::fs::read_link(entry.path()), entry.file_name().into_string())
        {
            by_target.entry(target).or_default().push(name);
        }
    }
    by_target
        .into_values()
        .filter(|names| names.len() > 1)
        .flat_map(|mut names| {
            names.sort_unstable();
            let others = |name: &String| names.iter().filter(|&n| n != name).cloned().collect();
            names.iter().map(|name| (name.clone(), others(name))).collect::<Vec<_>>()
        })
        .collect()
}

fn max_objects(
    args: &TraceArgs,
    release: &str,
    meminfo: &MemInfo,
    remarks: &mut Vec<String>,
) -> Result<u32, Failure> {
    let available = meminfo.mem_available;
    let bytes_each = probe::bytes_per_object(release);
    match (args.max_objects, available) {
        (Some(asked), Some(available)) => {
            let need = u64::from(asked) * bytes_each;
            if need > available / 2 {
                return Err(Failure::Cannot(format!(
                    "--max-objects {asked} needs {} MiB of kernel memory, and only {} MiB are available; kleak takes no more than half; try:\n  --max-objects {}",
                    need >> 20,
                    available >> 20,
                    available / 2 / bytes_each
                )));
            }
            Ok(asked)
        }
        (Some(asked), None) => Ok(asked),
        (None, available) => {
            let room =
                available.map_or(u64::MAX, |available| available / SHARE_OF_AVAILABLE / bytes_each);
            let room = u32::try_from(room).unwrap_or(u32::MAX);
            let chosen = room.clamp(FEWEST_OBJECTS, DEFAULT_OBJECTS);
            if chosen < DEFAULT_OBJECTS {
                remarks.push(format!(
                    "memory is short, so at most {chosen} objects are followed; --max-objects sets it"
                ));
            }
            Ok(chosen)
        }
    }
}

/// Room for stacks: at most the same share of what is available as objects take.
fn max_stacks(meminfo: &MemInfo) -> u32 {
    let room = meminfo.mem_available.map_or(u64::MAX, |available| {
        let (short, long) = probe::BYTES_PER_STACK;
        available / SHARE_OF_AVAILABLE / (short + long)
    });
    u32::try_from(room).unwrap_or(u32::MAX).clamp(FEWEST_STACKS, MOST_STACKS)
}

fn filter(args: &TraceArgs, classes: &Classes, choice: &Choice) -> Filter {
    let text = |glob: &Option<GlobMatcher>| glob.as_ref().map(|glob| glob.glob().glob().to_owned());
    let mut kinds = Vec::new();
    if !choice.slots.is_empty() {
        kinds.push("kmalloc".to_owned());
    }
    if choice.named {
        kinds.push("cache".to_owned());
    }
    for (kind, name) in [(Kind::Page, "page"), (Kind::Percpu, "percpu")] {
        if args.kind.contains(&kind) {
            kinds.push(name.to_owned());
        }
    }
    tracing::debug!(classes = ?choice.classes, known = classes.names().len(), "following");
    Filter {
        size_classes: choice.classes.clone(),
        kinds,
        caches: args.cache.iter().map(|glob| glob.glob().glob().to_owned()).collect(),
        pid: args.pid,
        comm: text(&args.comm),
        cgroup: text(&args.cgroup),
        pod: text(&args.pod),
        min_age_s: args.min_age.unwrap_or_default().as_secs_f64(),
        by: name_of(&args.by),
        stacks: name_of(&args.stacks),
    }
}

/// The word an option's value is written as.
fn name_of(value: &impl clap::ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::{Filter, Host, choose, filter};
    use crate::{
        cli::{Cli, Command},
        host::classes::Classes,
    };

    fn filter_of(options: &[&str]) -> Filter {
        let args = ["kleak", "trace"].iter().chain(options);
        let Command::Trace(args) = Cli::try_parse_from(args).unwrap().command else {
            panic!("another command");
        };
        let empty = tempfile::tempdir().unwrap();
        let classes = Classes::default();
        let choice = choose(&args, &classes, &Host::new(empty.path()), &mut Vec::new()).unwrap();
        filter(&args, &classes, &choice)
    }

    #[test]
    fn a_class_that_a_name_chose_is_not_followed_for_its_size() {
        let by_name = filter_of(&["--cache", "kmalloc-cg-*"]);
        assert_eq!(by_name.size_classes, [0; 0]);
        assert_eq!(by_name.caches, ["kmalloc-cg-*"]);
        assert!(by_name.kinds.iter().any(|kind| kind == "kmalloc"));
        let both = filter_of(&["--cache", "kmalloc-cg-*", "--size", "512"]);
        assert_eq!(both.size_classes, [512]);
        assert!(filter_of(&[]).size_classes.len() > 10);
    }
}

//! Slab: whether it is where the memory is, which caches stand out, and what does not add up.

use super::{Context, Finding, LEAST, Pressure, Severity, quoted};
use crate::{
    doctor::facts::{Cache, Growth},
    host::classes,
    report::{human, sanitize::terminal},
};

/// Shares of memory that unreclaimable slab, and one unreclaimable cache, may have.
const SLAB_HUGE: f64 = 0.50;
const SLAB_LARGE: f64 = 0.25;
const SLAB_NOTABLE: f64 = 0.15;
const CACHE_HUGE: f64 = 0.25;
const CACHE_LARGE: f64 = 0.10;
const CACHE_NOTABLE: f64 = 0.05;
/// Share of memory from which reclaimable caches are worth a word, and a warning when memory is short.
const RECLAIMABLE_NOTABLE: f64 = 0.15;
const RECLAIMABLE_HUGE: f64 = 0.40;
/// Share of memory from which a cache is looked at for emptiness, and the share of its objects in use
/// below which it is empty.
const EMPTY_LARGE: f64 = 0.005;
const EMPTY_IN_USE: f64 = 0.50;
/// Caches named for each reason, at most.
const MOST: usize = 3;
/// Share of the slab that caches have to explain, or else it is said.
const UNEXPLAINED: f64 = 0.20;
/// A list of fewer caches was cut: every kernel has far more.
const WHOLE_LIST: usize = 40;
/// Growth that is worth a word, bytes a second, in each half of the look; and how uneven it may be.
const GROWTH: f64 = 65_536.0;
const STEADY: f64 = 0.25;

/// Adds what is found.
pub(super) fn find(context: &Context<'_>, findings: &mut Vec<Finding>) {
    let caches = context.facts.caches.as_deref().unwrap_or_default();
    let mut by_size: Vec<&Cache> = caches.iter().collect();
    by_size.sort_by_key(|cache| (std::cmp::Reverse(bytes(context, cache)), &cache.slab.name));
    findings.extend(whole(context, &by_size));
    let mut named: Vec<&str> = Vec::new();
    for (cache, finding) in large(context, &by_size).into_iter().take(MOST) {
        named.push(&cache.slab.name);
        findings.push(finding);
    }
    for (cache, finding) in empty(context, &by_size).into_iter().take(MOST) {
        named.push(&cache.slab.name);
        findings.push(finding);
    }
    findings.extend(growing(context, &by_size, &named));
    findings.extend(unexplained(context, caches));
}

fn bytes(context: &Context<'_>, cache: &Cache) -> u64 {
    cache.slab.slab_bytes(context.facts.page_bytes)
}

/// The command that names who fills a cache; on kernels that kleak cannot trace on, one of perf's.
fn trace(context: &Context<'_>, cache: &str) -> String {
    let class = classes::size_in_name(cache);
    match class {
        Some(class) if context.can_trace() => format!("kleak trace --size {class} --duration 30s"),
        None if context.can_trace() => {
            format!("kleak trace --cache {} --duration 30s", quoted(&glob(cache)))
        }
        // Such kernels report the class as `bytes_alloc` of each event.
        Some(class) => format!(
            "perf record -a -g -e kmem:kmalloc --filter 'bytes_alloc == {class}' -- sleep 10"
        ),
        None => "perf record -a -g -e kmem:kmem_cache_alloc -- sleep 10".to_owned(),
    }
}

/// A name as a pattern that matches it alone.
fn glob(name: &str) -> String {
    let mut pattern = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            '*' | '?' | '[' | ']' | '{' | '}' => {
                pattern.push('[');
                pattern.push(c);
                pattern.push(']');
            }
            c => pattern.push(c),
        }
    }
    pattern
}

fn whole(context: &Context<'_>, by_size: &[&Cache]) -> Option<Finding> {
    let memory = context.memory;
    let slab = memory.slab_unreclaimable_bytes.filter(|slab| *slab >= LEAST)?;
    let share = context.facts.share(slab);
    let severity = match (share, context.pressure) {
        (SLAB_HUGE.., _) | (SLAB_LARGE.., Pressure::Short) => Severity::Critical,
        (SLAB_LARGE.., _) | (SLAB_NOTABLE.., Pressure::Low | Pressure::Short) => Severity::Warning,
        _ => return None,
    };
    let of_processes =
        memory.anon_bytes.map(|anon| anon.saturating_add(memory.shmem_bytes.unwrap_or(0)));
    let what = if of_processes.is_some_and(|processes| processes < slab) {
        "kernel, not processes: "
    } else {
        ""
    };
    let largest = by_size.iter().find(|cache| cache.reclaimable != Some(true));
    let holds = largest.map_or_else(String::new, |cache| {
        format!("; {} holds {}", terminal(&cache.slab.name), human::bytes(bytes(context, cache)))
    });
    let next = match largest {
        Some(cache) => trace(context, &cache.slab.name),
        None if context.can_trace() => "kleak trace --duration 30s".to_owned(),
        None => "slabtop --once --sort=c".to_owned(),
    };
    let summary = format!(
        "{what}{} of unreclaimable slab, {} of memory{holds}",
        human::bytes(slab),
        human::percent(share)
    );
    Some(
        Finding::new("kernel-slab", severity, slab, summary)
            .with("slab_unreclaimable_bytes", slab)
            .with("share_of_memory", share)
            .with("slab_bytes", memory.slab_bytes)
            .with("anon_bytes", memory.anon_bytes)
            .with("available_bytes", context.available)
            .with("largest_cache", largest.map(|cache| cache.slab.name.clone()))
            .with("largest_cache_bytes", largest.map(|cache| bytes(context, cache)))
            .next(Some(next)),
    )
}

fn finding(context: &Context<'_>, cache: &Cache, severity: Severity, summary: String) -> Finding {
    let size = bytes(context, cache);
    let growth = growth_of(context, &cache.slab.name);
    Finding::new("slab-cache", severity, size, summary)
        .with("cache", cache.slab.name.clone())
        .with("bytes", size)
        .with("objects", cache.slab.total_objects)
        .with("active_objects", cache.slab.active_objects)
        .with("object_size_bytes", cache.slab.object_size)
        .with("slabs", cache.slab.total_slabs)
        .with("share_of_memory", context.facts.share(size))
        .with("reclaimable", cache.reclaimable)
        .with("aliases", cache.aliases.clone())
        .with("growth_objects_per_s", growth.map(rate))
        .with("growth_bytes_per_s", growth.map(|growth| rate(growth) * growth.object_size as f64))
}

/// Other names of a cache: the kernel merges caches of one shape under one name.
fn also(cache: &Cache) -> String {
    const SHOWN: usize = 3;
    let shown: Vec<_> = cache.aliases.iter().take(SHOWN).map(|name| terminal(name)).collect();
    match cache.aliases.len() {
        0 => String::new(),
        all if all > SHOWN => {
            format!(" (merged with {} and {} more)", shown.join(", "), all - SHOWN)
        }
        _ => format!(" (merged with {})", shown.join(", ")),
    }
}

/// Caches that stand out by size.
fn large<'a>(context: &Context<'_>, by_size: &[&'a Cache]) -> Vec<(&'a Cache, Finding)> {
    let severity = |cache: &Cache| {
        let size = bytes(context, cache);
        let share = context.facts.share(size);
        if size < LEAST {
            return None;
        }
        if cache.reclaimable == Some(true) {
            return match (share, context.pressure) {
                (RECLAIMABLE_HUGE.., Pressure::Short) => Some(Severity::Warning),
                (RECLAIMABLE_NOTABLE.., _) => Some(Severity::Info),
                _ => None,
            };
        }
        let severity = match (share, context.pressure) {
            (CACHE_HUGE.., _) | (CACHE_LARGE.., Pressure::Short) => Severity::Critical,
            (CACHE_LARGE.., _) | (CACHE_NOTABLE.., Pressure::Low | Pressure::Short) => {
                Severity::Warning
            }
            _ => return None,
        };
        // Of a cache that may be reclaimable, nobody is woken up for sure.
        Some(if cache.reclaimable.is_none() { severity.max(Severity::Warning) } else { severity })
    };
    let row = |cache: &&'a Cache| {
        let cache: &'a Cache = cache;
        let severity = severity(cache)?;
        let slab = &cache.slab;
        let growth = growth_of(context, &slab.name)
            .map_or_else(String::new, |growth| format!(", growing by {}", per_second(growth)));
        let kind = match cache.reclaimable {
            Some(true) => "reclaimable",
            Some(false) => "unreclaimable",
            None => "perhaps reclaimable",
        };
        let summary = format!(
            "{}{} holds {} ({}), {kind}: {} in {} slabs, {} in use{growth}",
            terminal(&slab.name),
            also(cache),
            human::bytes(bytes(context, cache)),
            human::percent(context.facts.share(bytes(context, cache))),
            human::counted(slab.total_objects, "object"),
            human::count(slab.total_slabs),
            human::percent(in_use(cache))
        );
        let next = if cache.reclaimable == Some(true) && severity == Severity::Info {
            None
        } else {
            Some(trace(context, &slab.name))
        };
        Some((cache, finding(context, cache, severity, summary).next(next)))
    };
    by_size.iter().filter_map(row).collect()
}

fn in_use(cache: &Cache) -> f64 {
    if cache.slab.total_objects == 0 {
        return 1.0;
    }
    cache.slab.active_objects as f64 / cache.slab.total_objects as f64
}

/// Caches of which little is in use: the rest is held by the slabs that the few objects lie in.
fn empty<'a>(context: &Context<'_>, by_size: &[&'a Cache]) -> Vec<(&'a Cache, Finding)> {
    let wasted = |cache: &Cache| {
        let size = bytes(context, cache);
        let unused = size as f64 * (1.0 - in_use(cache));
        #[expect(clippy::cast_possible_truncation, reason = "no more than its size")]
        #[expect(clippy::cast_sign_loss, reason = "in use is at most all, or else it saturates")]
        let unused = unused as u64;
        (context.facts.share(size) >= EMPTY_LARGE && in_use(cache) < EMPTY_IN_USE && size >= LEAST)
            .then_some(unused)
    };
    let row = |cache: &&'a Cache| {
        let cache: &'a Cache = cache;
        let unused = wasted(cache)?;
        let summary = format!(
            "{}{} is mostly empty: {} of {} objects in use, and {} of its {} are free but not given \
             back, {}; it held more once",
            terminal(&cache.slab.name),
            also(cache),
            human::count(cache.slab.active_objects),
            human::count(cache.slab.total_objects),
            human::bytes(unused),
            human::bytes(bytes(context, cache)),
            if cache.slab.active_objects >= cache.slab.total_slabs {
                "as a slab is kept while one object in it is in use"
            } else {
                "which shrinking the cache may mend"
            },
        );
        let finding = finding(context, cache, Severity::Info, summary).with("unused_bytes", unused);
        Some((cache, finding))
    };
    let mut rows: Vec<_> = by_size.iter().filter_map(row).collect();
    rows.sort_by_key(|(cache, _)| std::cmp::Reverse(wasted(cache)));
    rows
}

fn rate(growth: &Growth) -> f64 {
    let [first, _, last] = growth.objects;
    let seconds: f64 = growth.seconds.iter().sum();
    if seconds > 0.0 { last.saturating_sub(first) as f64 / seconds } else { 0.0 }
}

/// Growth of a cache when it is worth a word: in both halves of the look, and about as fast.
fn growth_of<'a>(context: &Context<'a>, name: &str) -> Option<&'a Growth> {
    let growth = context.facts.growth.iter().find(|growth| growth.name == name)?;
    let [first, middle, last] = growth.objects;
    let [before, after] = growth.seconds;
    if before <= 0.0 || after <= 0.0 {
        return None;
    }
    let of = |from: u64, to: u64, seconds: f64| {
        to.saturating_sub(from) as f64 * growth.object_size as f64 / seconds
    };
    let (slow, fast) = {
        let (a, b) = (of(first, middle, before), of(middle, last, after));
        (a.min(b), a.max(b))
    };
    (slow >= GROWTH && slow >= fast * STEADY).then_some(growth)
}

fn per_second(growth: &Growth) -> String {
    format!("{}/s", human::size(rate(growth) * growth.object_size as f64))
}

/// The cache that grows fastest, where no other finding has said so.
fn growing(context: &Context<'_>, by_size: &[&Cache], named: &[&str]) -> Option<Finding> {
    let rows = by_size.iter().filter(|cache| {
        cache.reclaimable != Some(true) && !named.contains(&cache.slab.name.as_str())
    });
    let speed = |growth: &Growth| rate(growth) * growth.object_size as f64;
    let (cache, growth) = rows
        .filter_map(|cache| Some((*cache, growth_of(context, &cache.slab.name)?)))
        .max_by(|(_, a), (_, b)| speed(a).total_cmp(&speed(b)))?;
    let left = context.available.map(|available| available as f64 / speed(growth));
    let summary = format!(
        "{}{} grew by {} objects/s ({}) in both halves of {}: a leak if it goes on, which a longer \
         trace tells",
        terminal(&cache.slab.name),
        also(cache),
        human::count(whole_number(rate(growth))),
        per_second(growth),
        human::seconds(context.facts.looked_s),
    );
    Some(
        finding(context, cache, Severity::Info, summary)
            .with("exhausts_memory_in_s", left.map(whole_number))
            .next(Some(trace(context, &cache.slab.name))),
    )
}

#[expect(clippy::cast_possible_truncation, reason = "saturates")]
#[expect(clippy::cast_sign_loss, reason = "rates and times are not negative")]
fn whole_number(number: f64) -> u64 {
    number.round() as u64
}

/// What the caches that are listed do not add up to.
fn unexplained(context: &Context<'_>, caches: &[Cache]) -> Option<Finding> {
    let slab = context.memory.slab_bytes?;
    if caches.is_empty() {
        return None;
    }
    let listed = caches.iter().map(|cache| bytes(context, cache)).fold(0, u64::saturating_add);
    let rest = slab.saturating_sub(listed);
    let share = context.facts.share(rest);
    if rest < LEAST || (rest as f64) < slab as f64 * UNEXPLAINED {
        return None;
    }
    let severity = if share >= SLAB_NOTABLE { Severity::Warning } else { Severity::Info };
    let cut = caches.len() < WHOLE_LIST;
    let mut reasons = Vec::new();
    if cut {
        reasons.push("caches that this list leaves out (every kernel has more than 100)");
    }
    if context.facts.is_before(5, 4) != Some(true) {
        // 6a486c0ad4dc, "mm, sl[ou]b: improve memory accounting".
        reasons.push("allocations too large for any cache, which count as slab since 5.4");
    }
    let next = match (cut, context.can_trace()) {
        (true, _) | (_, false) => "slabtop --once --sort=c",
        // It marks pages of slabs, and of allocations too large for any.
        (false, true) => "kleak trace --kind page --duration 30s",
    };
    let summary = format!(
        "the {} slab caches listed add up to {} of the {} of slab: the other {} is elsewhere{}",
        caches.len(),
        human::bytes(listed),
        human::bytes(slab),
        human::bytes(rest),
        if reasons.is_empty() {
            String::new()
        } else {
            format!(", such as in {}", reasons.join("; "))
        },
    );
    Some(
        Finding::new("slab-unexplained", severity, rest, summary)
            .with("slab_bytes", slab)
            .with("listed_bytes", listed)
            .with("listed_caches", caches.len() as u64)
            .with("unexplained_bytes", rest)
            .with("list_was_cut", cut)
            .next(Some(next.to_owned())),
    )
}

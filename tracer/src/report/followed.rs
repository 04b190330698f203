//! What a run followed, in words.

use super::{Filter, human, names, sanitize::terminal};

/// Size classes that are worth naming each.
const FEW: usize = 6;

/// What was followed, a few words each, fit for a terminal.
pub(crate) fn words(filter: &Filter) -> Vec<String> {
    let list = |label: &str, all: &[String]| {
        let all: Vec<_> = all.iter().map(|name| terminal(name)).collect();
        (!all.is_empty()).then(|| format!("{label} {}", all.join(" ")))
    };
    let named = |label: &str, name: &Option<String>| {
        names::text(name.as_ref()).map(|name| format!("{label} {name}"))
    };
    [
        (!filter.kinds.is_empty()).then(|| terminal(&filter.kinds.join(" ")).into_owned()),
        sizes(&filter.size_classes),
        list("caches", &filter.caches),
        filter.pid.map(|pid| format!("pid {pid}")),
        named("comm", &filter.comm),
        named("cgroup", &filter.cgroup),
        named("pod", &filter.pod),
        (filter.min_age_s > 0.0)
            .then(|| format!("older than {}", human::seconds(filter.min_age_s))),
        named("stacks", &Some(filter.stacks.clone())),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn sizes(classes: &[u64]) -> Option<String> {
    let names = || classes.iter().map(u64::to_string).collect::<Vec<_>>().join(" ");
    match classes.len() {
        0 => None,
        1..=FEW => Some(format!("sizes {}", names())),
        many => Some(format!("{} size classes", human::count(many as u64))),
    }
}

#[cfg(test)]
mod tests {
    use super::{Filter, words};

    #[test]
    fn many_classes_are_counted() {
        let filter = |sizes: &[u64]| Filter { size_classes: sizes.to_vec(), ..Filter::default() };
        assert_eq!(words(&filter(&[512, 1024])), ["sizes 512 1024"]);
        let all: Vec<u64> = (3..25).map(|order| 1 << order).collect();
        assert_eq!(words(&filter(&all)), ["22 size classes"]);
        assert_eq!(words(&Filter::default()), [""; 0]);
    }
}

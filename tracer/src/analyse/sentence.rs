//! Words and numbers for people.

use crate::report::{Confidence, Owner};

/// `4,000`.
pub(super) fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A signed count, or what stands for none.
pub(super) fn signed(growth: Option<i64>) -> String {
    match growth {
        Some(growth) if growth < 0 => format!("-{}", count(growth.unsigned_abs())),
        Some(growth) => count(growth.unsigned_abs()),
        None => "an unknown number".to_owned(),
    }
}

/// `1,000 objects`, `1 object`.
pub(super) fn objects(number: u64) -> String {
    if number == 1 { "1 object".to_owned() } else { format!("{} objects", count(number)) }
}

/// `235 KiB`.
pub(super) fn bytes(bytes: f64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut rest = bytes;
    let mut unit = "B";
    for name in UNITS {
        unit = name;
        if rest.abs() < 999.5 {
            break;
        }
        if name != "TiB" {
            rest /= 1024.0;
        }
    }
    if unit == "B" || rest.abs() >= 9.95 {
        format!("{rest:.0} {unit}")
    } else {
        format!("{rest:.1} {unit}")
    }
}

/// `5 h 46 min`, `12 min`, `45 s`.
pub(super) fn duration(seconds: u64) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    let two = |large: u64, large_unit: &str, small: u64, small_unit: &str| {
        if small == 0 {
            format!("{} {large_unit}", count(large))
        } else {
            format!("{} {large_unit} {small} {small_unit}", count(large))
        }
    };
    match seconds {
        0..MINUTE => format!("{seconds} s"),
        MINUTE..HOUR => format!("{} min", seconds / MINUTE),
        HOUR..DAY => two(seconds / HOUR, "h", seconds % HOUR / MINUTE, "min"),
        _ if seconds < 100 * DAY => two(seconds / DAY, "d", seconds % DAY / HOUR, "h"),
        _ => format!("{} d", count(seconds / DAY)),
    }
}

/// A length of time within a window: `0.5 s`, `12 s`.
pub(super) fn seconds(seconds: f64) -> String {
    if seconds < 9.95 && (seconds - seconds.round()).abs() >= 0.05 {
        format!("{seconds:.1} s")
    } else {
        format!("{seconds:.0} s")
    }
}

/// `97 %`.
pub(super) fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent > 0.0 && percent < 1.0 {
        "less than 1 %".to_owned()
    } else if share < 1.0 && percent > 99.0 {
        "over 99 %".to_owned()
    } else {
        format!("{percent:.0} %")
    }
}

/// Digits of an id that stand for all of it.
const SHORT_ID: usize = 12;

/// How far a sentence goes on about where an owner lives.
const PLACE_LEN: usize = 40;

/// `kubelet (pid 1165, kubelet.service)`; `members` processes of one name otherwise.
pub(super) fn owner(owner: &Owner, members: usize) -> String {
    let place = place(owner);
    match owner.kind.as_str() {
        "softirq" => "network and timer work in softirqs".to_owned(),
        "hardirq" => "hardware interrupts".to_owned(),
        "unknown" => owner
            .comm
            .as_ref()
            .map_or_else(|| "an unknown owner".to_owned(), |name| format!("the {name} itself")),
        "cgroup" | "pod" => place.map_or_else(
            || format!("{} without a name", owner.kind),
            |place| if owner.pod.is_some() { place } else { format!("cgroup {place}") },
        ),
        kind => {
            let name = owner.comm.as_deref().map_or("an unnamed process", |comm| comm);
            let mut details = Vec::new();
            if members > 1 {
                details.push(format!("{} processes", count(members as u64)));
            }
            if let Some(pid) = owner.pid {
                details.push(format!("pid {pid}"));
            }
            if kind == "kthread" {
                details.push("kernel thread".to_owned());
            }
            if owner.exited == Some(true) {
                details.push("exited".to_owned());
            }
            details.extend(place.filter(|_| kind != "kthread"));
            if details.is_empty() {
                name.to_owned()
            } else {
                format!("{name} ({})", details.join(", "))
            }
        }
    }
}

/// `shop/web-0`, or the pod's UID. In whole, as it is to be given to other tools.
fn pod(owner: &Owner) -> Option<String> {
    let pod = owner.pod.as_ref()?;
    Some(match &owner.namespace {
        Some(namespace) => format!("{namespace}/{pod}"),
        None => pod.clone(),
    })
}

/// `container web`; of an id as much as docker and crictl show.
fn container(owner: &Owner) -> Option<String> {
    let name = owner.container.as_ref()?;
    let is_id = owner.container_id.as_ref() == Some(name);
    let shown: String = if is_id { name.chars().take(SHORT_ID).collect() } else { name.clone() };
    Some(format!("container {shown}"))
}

fn place(owner: &Owner) -> Option<String> {
    let place = match (&owner.pod, &owner.namespace, &owner.unit, &owner.cgroup) {
        (Some(_), ..) => {
            let container = container(owner).map(|name| format!(", {name}")).unwrap_or_default();
            return Some(format!("pod {}{container}", pod(owner)?));
        }
        // Where a container is run as a unit, both are its names.
        (None, _, Some(unit), _) => match container(owner) {
            Some(name) => return Some(format!("{unit}, {name}")),
            None => unit.clone(),
        },
        (None, ..) if owner.container.is_some() && owner.kind != "cgroup" => {
            return container(owner);
        }
        (None, _, None, Some(cgroup)) if cgroup.as_str() != "/" || owner.kind == "cgroup" => {
            cgroup.clone()
        }
        _ => return None,
    };
    let length = place.chars().count();
    if length <= PLACE_LEN {
        return Some(place);
    }
    // The end of a path says more than its beginning.
    Some(std::iter::once('…').chain(place.chars().skip(length + 1 - PLACE_LEN)).collect())
}

/// A sentence of its own.
pub(super) fn capitalise(reason: &str) -> String {
    let mut chars = reason.chars();
    let first: String = chars.next().into_iter().flat_map(char::to_uppercase).collect();
    format!("{first}{}.", chars.as_str())
}

/// The sentence with what weakens it.
pub(super) fn with_doubts(text: &str, confidence: Confidence, doubts: &[String]) -> String {
    let level = match confidence {
        Confidence::High => return format!("{text}."),
        Confidence::Medium => "medium",
        Confidence::Low => "low",
    };
    // The first two carry it; the notes have the rest.
    let reasons: Vec<&str> = doubts.iter().take(2).map(String::as_str).collect();
    format!("{text}; {level} confidence: {}.", reasons.join(", "))
}

#[cfg(test)]
mod tests {
    use super::{bytes, count, duration, owner, percent, seconds, signed};
    use crate::report::Owner;

    #[test]
    fn numbers_read_well() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(signed(Some(-4000)), "-4,000");
        assert_eq!(bytes(512.0), "512 B");
        assert_eq!(bytes(240_640.0), "235 KiB");
        assert_eq!(bytes(1536.0), "1.5 KiB");
        assert_eq!(bytes(f64::from(u32::MAX)), "4.0 GiB");
        assert_eq!(duration(20_760), "5 h 46 min");
        assert_eq!(duration(59), "59 s");
        assert_eq!(duration(3 * 86_400 + 7200), "3 d 2 h");
        assert_eq!(duration(1000 * 86_400), "1,000 d");
        assert_eq!(seconds(2.0), "2 s");
        assert_eq!(seconds(0.5), "0.5 s");
        assert_eq!(seconds(29.97), "30 s");
        assert_eq!(percent(0.97), "97 %");
        assert_eq!(percent(0.9999), "over 99 %");
        assert_eq!(percent(0.001), "less than 1 %");
        assert_eq!(percent(1.0), "100 %");
    }

    #[test]
    fn owners_are_named_by_what_a_reader_can_act_on() {
        let kubelet = Owner {
            kind: "process".to_owned(),
            pid: Some(1165),
            comm: Some("kubelet".to_owned()),
            exited: Some(false),
            cgroup: Some("/system.slice/kubelet.service".to_owned()),
            unit: Some("kubelet.service".to_owned()),
            ..Owner::default()
        };
        assert_eq!(owner(&kubelet, 1), "kubelet (pid 1165, kubelet.service)");
        let gone = Owner {
            exited: Some(true),
            unit: None,
            pod: Some("web-0".to_owned()),
            namespace: Some("shop".to_owned()),
            ..kubelet.clone()
        };
        assert_eq!(owner(&gone, 1), "kubelet (pid 1165, exited, pod shop/web-0)");
        let named = Owner { container: Some("web".to_owned()), ..gone.clone() };
        assert_eq!(owner(&named, 1), "kubelet (pid 1165, exited, pod shop/web-0, container web)");
        let row = Owner { kind: "pod".to_owned(), pid: None, comm: None, ..named.clone() };
        assert_eq!(owner(&row, 1), "pod shop/web-0, container web");
        let id = "3f1c5e0a9b7d4c2e8f6a1b3d5c7e9f0a2b4c6d8e0f1a3b5c7d9e1f2a4b6c8d0e";
        let nameless = Owner {
            pod: Some("0d5b6f9e-3c1a-4f7b-9e2d-8a6c4b2e0f1d".to_owned()),
            namespace: None,
            container: Some(id.to_owned()),
            container_id: Some(id.to_owned()),
            ..gone.clone()
        };
        assert_eq!(
            owner(&nameless, 1),
            "kubelet (pid 1165, exited, pod 0d5b6f9e-3c1a-4f7b-9e2d-8a6c4b2e0f1d, \
             container 3f1c5e0a9b7d)"
        );
        let docker =
            Owner { pod: None, namespace: None, container: Some("web".to_owned()), ..gone.clone() };
        assert_eq!(owner(&docker, 1), "kubelet (pid 1165, exited, container web)");
        let many = Owner { pid: None, exited: None, unit: None, cgroup: None, ..kubelet };
        assert_eq!(owner(&many, 40), "kubelet (40 processes)");
        let deep =
            Owner { kind: "cgroup".to_owned(), cgroup: Some("/a".repeat(100)), ..Owner::default() };
        assert!(owner(&deep, 1).chars().count() < 50);
    }
}

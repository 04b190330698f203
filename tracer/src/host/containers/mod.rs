//! What pods and containers are called, by what lies on the node itself: the links to their logs,
//! the files their runtime keeps, and its socket. The API server is never asked: in the incidents
//! kleak is for, that is what is down.
//!
//! Names come from whoever made the pod. One that does not have the form that Kubernetes or the
//! runtime demands of it is not used.

pub mod bundles;
pub mod cri;
pub mod logs;
mod open;

/// A pod, as the API server knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Pod {
    /// A pod of these names, if they have the form of such.
    #[must_use]
    pub fn of(namespace: &str, name: &str) -> Option<Self> {
        let valid = is_label(namespace) && is_subdomain(name);
        valid.then(|| Self { namespace: namespace.to_owned(), name: name.to_owned() })
    }
}

/// What a source says of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Container {
    /// The pod it belongs to.
    pub pod: Option<Pod>,
    /// UID of that pod, where the source has it.
    pub pod_uid: Option<String>,
    /// Its name; `None` for what only holds a pod's namespaces (the sandbox, or "pause" container).
    pub name: Option<String>,
}

impl Container {
    /// Whether nothing is known of it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pod.is_none() && self.name.is_none()
    }
}

/// A pod's UID with dashes: a UUID, written with `-` or `_`, or the 32 hex digits of a static pod
/// (the hash of its manifest).
#[must_use]
pub fn pod_uid(text: &str) -> Option<String> {
    if is_hex(text, 32) {
        return Some(text.to_owned());
    }
    let uid = text.replace('_', "-");
    let groups: Vec<&str> = uid.split('-').collect();
    let lengths = [8, 4, 4, 4, 12];
    let is_uuid = groups.len() == lengths.len()
        && groups.iter().zip(lengths).all(|(group, length)| is_hex(group, length));
    is_uuid.then_some(uid)
}

/// The id that all runtimes of Kubernetes, and docker and podman, give a container.
#[must_use]
pub fn is_container_id(text: &str) -> bool {
    is_hex(text, 64)
}

/// As many hex digits, in lower case as all these tools write them.
fn is_hex(text: &str, length: usize) -> bool {
    let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.len() == length && text.bytes().all(digit)
}

/// A DNS label (RFC 1123), as names of namespaces and of containers in pods have to be:
/// `IsDNS1123Label` in Kubernetes' `apimachinery/pkg/util/validation`.
#[must_use]
pub fn is_label(name: &str) -> bool {
    name.len() <= 63 && is_label_of_any_length(name)
}

/// Labels with dots between them, as names of pods have to be: `IsDNS1123Subdomain`.
#[must_use]
pub fn is_subdomain(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(is_label_of_any_length)
}

fn is_label_of_any_length(name: &str) -> bool {
    let end = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let lower = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let bytes = name.as_bytes();
    bytes.iter().all(|&byte| lower(byte)) && end(bytes.first()) && end(bytes.last())
}

/// A name that docker and podman take for a container: `RestrictedNameChars` in docker's
/// `daemon/names`, `NameRegex` in podman's `libpod/define`. Of at most 255 bytes, which is more
/// than either is good for.
#[must_use]
pub fn is_container_name(name: &str) -> bool {
    name.len() <= 255
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_the_form_that_kubernetes_demands() {
        for name in ["a", "kube-system", "x9", &"a".repeat(63)] {
            assert!(is_label(name), "{name}");
        }
        for name in ["", "-a", "a-", "A", "a_b", "a.b", "ä", "a b", "a\n", "a/b", &"a".repeat(64)]
        {
            assert!(!is_label(name), "{name}");
        }
        for name in ["web-0", "a.b.c", "etcd-node1.example.org", &"a".repeat(253)] {
            assert!(is_subdomain(name), "{name}");
        }
        for name in ["", ".", "a..b", ".a", "a.", "a_b", "a.-b", "..", &"a".repeat(254)] {
            assert!(!is_subdomain(name), "{name}");
        }
        for name in ["web", "Web_1.x-2", "0"] {
            assert!(is_container_name(name), "{name}");
        }
        for name in ["", "/web", "_x", "a/b", "a b", "a\u{1b}[31m", "é", &"a".repeat(256)] {
            assert!(!is_container_name(name), "{name}");
        }
        assert_eq!(Pod::of("shop", "web_0"), None);
    }
}

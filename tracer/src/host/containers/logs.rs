//! The names of kubelet's log files, which tell pod, namespace and container of every container on
//! a node without a file being opened.

use hashbrown::HashMap;

use super::{Container, Pod, is_container_id, is_label, open, pod_uid};
use crate::host::Host;

/// Links to the logs of containers: `legacyContainerLogsDir` in kubelet's
/// `kuberuntime/legacy.go`.
const LINKS: &str = "/var/log/containers";
/// The logs themselves, by pod: `podLogsRootDirectory` in kubelet's `kuberuntime/helpers.go`.
const PODS: &str = "/var/log/pods";

/// Most entries looked at of each: a node of 500 pods has some 2,000, those of restarts included.
const MOST_ENTRIES: usize = 50_000;

/// What the names of all logs say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Logs {
    /// By container id.
    pub containers: HashMap<String, Container>,
    /// By pod UID.
    pub pods: HashMap<String, Pod>,
    /// Whether a directory had more entries than are looked at.
    pub cut: bool,
}

/// Reads both directories; what is not there says nothing.
#[must_use]
pub fn read(host: &Host) -> Logs {
    read_most(host, MOST_ENTRIES)
}

fn read_most(host: &Host, most: usize) -> Logs {
    let links = open::list(host, LINKS, most).unwrap_or_default();
    let pods = open::list(host, PODS, most).unwrap_or_default();
    Logs {
        containers: unequivocal(links.entries.iter().filter_map(|(name, _)| parse_link(name))),
        pods: unequivocal(
            pods.entries
                .iter()
                .filter(|(_, is_directory)| *is_directory != Some(false))
                .filter_map(|(name, _)| parse_pod(name)),
        ),
        cut: links.cut || pods.cut,
    }
}

/// By key, without those of which two different things are said: who may write there could say
/// anything.
fn unequivocal<T: PartialEq>(pairs: impl Iterator<Item = (String, T)>) -> HashMap<String, T> {
    let mut found: HashMap<String, Option<T>> = HashMap::new();
    for (key, value) in pairs {
        match found.entry(key) {
            hashbrown::hash_map::Entry::Occupied(mut entry) => {
                if entry.get().as_ref() != Some(&value) {
                    entry.insert(None);
                }
            }
            hashbrown::hash_map::Entry::Vacant(entry) => drop(entry.insert(Some(value))),
        }
    }
    found.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
}

/// `<pod>_<namespace>_<container>-<id>.log`: `logSymlink()` in kubelet's `kuberuntime/legacy.go`,
/// which cuts what would be longer than a file's name may be at its end, the id.
#[must_use]
pub fn parse_link(name: &str) -> Option<(String, Container)> {
    let (names, id) = name.strip_suffix(".log")?.rsplit_once('-')?;
    let mut parts = names.split('_');
    let (pod, namespace, container) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || !is_container_id(id) || !is_label(container) {
        return None;
    }
    let pod = Some(Pod::of(namespace, pod)?);
    Some((id.to_owned(), Container { pod, pod_uid: None, name: Some(container.to_owned()) }))
}

/// `<namespace>_<pod>_<uid>`: `BuildPodLogsDirectory()` in kubelet's `kuberuntime/helpers.go`.
#[must_use]
pub fn parse_pod(name: &str) -> Option<(String, Pod)> {
    let mut parts = name.split('_');
    let (namespace, pod, uid) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    Some((pod_uid(uid)?, Pod::of(namespace, pod)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "3f1c5e0a9b7d4c2e8f6a1b3d5c7e9f0a2b4c6d8e0f1a3b5c7d9e1f2a4b6c8d0e";
    const UID: &str = "0d5b6f9e-3c1a-4f7b-9e2d-8a6c4b2e0f1d";

    #[test]
    fn links_tell_pod_namespace_and_container() {
        let link = format!("coredns-5d78c9869d-x2x7k_kube-system_coredns-{ID}.log");
        let (id, container) = parse_link(&link).unwrap();
        assert_eq!(id, ID);
        assert_eq!(container.name.as_deref(), Some("coredns"));
        assert_eq!(container.pod, Pod::of("kube-system", "coredns-5d78c9869d-x2x7k"));
        // A container whose own name has dashes, of a static pod whose name has dots.
        let link = format!("etcd-a.example.org_kube-system_etcd-main-{ID}.log");
        let (_, container) = parse_link(&link).unwrap();
        assert_eq!(container.name.as_deref(), Some("etcd-main"));
        assert_eq!(container.pod.unwrap().name, "etcd-a.example.org");
    }

    #[test]
    fn what_is_not_wholly_a_link_s_name_says_nothing() {
        let short = &ID[..63];
        for name in [
            format!("web_shop_web-{short}.log"),
            format!("web_shop_web-{ID}.txt"),
            format!("web_shop_web_x-{ID}.log"),
            format!("web_shop-{ID}.log"),
            format!("WEB_shop_web-{ID}.log"),
            format!("web_shop_w\u{1b}[31m-{ID}.log"),
            format!("web_sh.op_web-{ID}.log"),
            format!("_shop_web-{ID}.log"),
            format!("web_shop_web-{}.log", ID.to_uppercase()),
            "a_b_c.log".to_owned(),
            String::new(),
        ] {
            assert_eq!(parse_link(&name), None, "{name}");
        }
        for name in [
            format!("shop_web-0_{UID}_x"),
            "shop_web-0_123".to_owned(),
            format!("shop_web 0_{UID}"),
            UID.to_owned(),
        ] {
            assert_eq!(parse_pod(&name), None, "{name}");
        }
    }

    #[test]
    fn directories_tell_pods_by_uid() {
        let pod = |text: &str| parse_pod(text).unwrap();
        assert_eq!(pod(&format!("shop_web-0_{UID}")).1, Pod::of("shop", "web-0").unwrap());
        let of_manifest = "kube-system_kube-apiserver-n1_b5c7d9e1f2a4b6c8d0e13f1c5e0a9b7d";
        assert_eq!(pod(of_manifest).0, "b5c7d9e1f2a4b6c8d0e13f1c5e0a9b7d");
    }

    #[test]
    fn two_names_for_one_container_are_none() {
        let tree = tempfile::tempdir().unwrap();
        let host = Host::new(tree.path());
        std::fs::create_dir_all(host.join(LINKS)).unwrap();
        let link = |name: &str| std::fs::write(host.join(LINKS).join(name), "").unwrap();
        link(&format!("web-0_shop_web-{ID}.log"));
        let other = ID.replace('3', "4");
        link(&format!("db-0_shop_db-{other}.log"));
        std::fs::create_dir_all(host.join(PODS).join(format!("shop_web-0_{UID}"))).unwrap();
        let logs = read(&host);
        assert_eq!((logs.containers.len(), logs.pods.len(), logs.cut), (2, 1, false));
        link(&format!("innocent_kube-system_web-{ID}.log"));
        let logs = read(&host);
        assert_eq!(logs.containers.get(ID), None);
        assert!(logs.containers.contains_key(&other));
    }

    #[test]
    fn of_a_flooded_directory_no_more_is_read_than_is_bounded() {
        let tree = tempfile::tempdir().unwrap();
        let host = Host::new(tree.path());
        std::fs::create_dir_all(host.join(LINKS)).unwrap();
        for number in 0..100 {
            let name = format!("web-{number}_shop_web-{number:064x}.log");
            std::fs::write(host.join(LINKS).join(name), "").unwrap();
        }
        let logs = read_most(&host, 10);
        assert!(logs.cut && logs.containers.len() <= 12, "{}", logs.containers.len());
        let logs = read_most(&host, 100);
        assert_eq!((logs.containers.len(), logs.cut), (100, false));
        assert_eq!(read(&Host::new("/nonexistent")), Logs::default());
    }

    proptest! {
        #[test]
        fn no_name_is_made_up(name in "[a-z0-9._-]{0,40}_[a-z.]{0,10}_[a-z-]{0,10}-[a-f0-9]{63,65}\\.log|\\PC{0,80}") {
            if let Some((id, container)) = parse_link(&name) {
                let (pod, called) = (container.pod.unwrap(), container.name.unwrap());
                prop_assert_eq!(
                    format!("{}_{}_{}-{}.log", pod.name, pod.namespace, called, id),
                    name
                );
            }
        }

        #[test]
        fn no_pod_is_made_up(name in "[a-z0-9-]{0,10}_[a-z0-9._-]{0,20}_([a-f0-9]{32}|\\PC{0,36})") {
            if let Some((uid, pod)) = parse_pod(&name) {
                prop_assert_eq!(format!("{}_{}_{}", pod.namespace, pod.name, uid), name);
            }
        }
    }
}

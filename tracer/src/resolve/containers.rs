//! What pods and containers are called, remembered after they are gone.
//!
//! Names are learned in the order of what they cost: those of all log files at once, the runtime's
//! files of the containers that are wanted, then its socket, for what is left. Who may write the
//! file counts more: what only root can write replaces what log names said.

use std::time::{Duration, Instant};

use hashbrown::{HashMap, HashSet};

use super::cgroup_path::CgroupNames;
use crate::host::{
    Host,
    containers::{Container, Pod, bundles, cri, logs},
};

/// Most containers and pods remembered, each some 300 bytes.
const MOST: usize = 50_000;
/// Most that are waited for: who makes cgroups in a storm has no names for them.
const MOST_WANTED: usize = 2_000;
/// How often it is looked for names that are wanted, at the most.
const PAUSE: Duration = Duration::from_secs(1);
/// Looking rests this many times as long as it took.
const REST: u32 = 50;
/// How often a runtime is asked, at the most.
const ASKING_PAUSE: Duration = Duration::from_secs(10);
/// How often a name is looked for before it is given up: kubelet makes the link to a log within
/// seconds of the container's start.
const TRIES: u8 = 10;

/// How far a source is trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Trust {
    /// Names of files that kubelet makes, in a directory that pods may be given.
    Logs,
    /// The runtime's answer.
    Runtime,
    /// The runtime's own files.
    Bundle,
}

/// What is wanted by its id.
#[derive(Debug, Default)]
struct Wanted {
    tries: u8,
}

/// Names of pods and containers.
#[derive(Debug)]
pub struct Containers {
    by_id: HashMap<String, (Trust, Container)>,
    pods: HashMap<String, (Trust, Pod)>,
    /// Containers without a name yet.
    wanted: HashMap<String, Wanted>,
    /// Pods without a name yet.
    wanted_pods: HashMap<String, Wanted>,
    /// Given up.
    nameless: HashSet<String>,
    /// Bundles that have been looked at.
    looked_at: HashSet<String>,
    asked: Option<cri::Asked>,
    next_asking: Instant,
    next_look: Instant,
}

impl Default for Containers {
    fn default() -> Self {
        let now = Instant::now();
        Self {
            by_id: HashMap::new(),
            pods: HashMap::new(),
            wanted: HashMap::new(),
            wanted_pods: HashMap::new(),
            nameless: HashSet::new(),
            looked_at: HashSet::new(),
            asked: None,
            next_asking: now,
            next_look: now,
        }
    }
}

/// What is called how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// The pod.
    pub pod: Option<Pod>,
    /// The container.
    pub container: Option<String>,
}

impl Containers {
    /// Reads the names of all log files as they are now.
    #[must_use]
    pub fn scan(host: &Host) -> Self {
        let mut containers = Self::default();
        containers.read_logs(host);
        containers
    }

    /// The names of what a cgroup's path has ids of, as far as they are known.
    #[must_use]
    pub fn names(&self, ids: &CgroupNames) -> Named {
        let container = ids.container_id.as_ref().and_then(|id| self.by_id.get(id));
        let container = container.map(|(_, container)| container).filter(|it| is_of(it, ids));
        let by_uid = ids.pod_uid.as_ref().and_then(|uid| self.pods.get(uid));
        let by_uid = by_uid.map(|(_, pod)| pod);
        let by_container = container.and_then(|container| container.pod.as_ref());
        // Two different names for one pod are none.
        let agree = by_uid.is_none() || by_container.is_none() || by_uid == by_container;
        let pod = by_container.or(by_uid).filter(|_| agree).cloned();
        let name = container.and_then(|it| it.name.clone()).filter(|_| agree);
        Named { pod, container: name.or_else(|| ids.container_name.clone()) }
    }

    /// Remembers that the names of this are wanted.
    pub fn want(&mut self, ids: &CgroupNames) {
        let named = self.names(ids);
        let outside = ids.pod_uid.is_none();
        if let Some(id) = &ids.container_id
            && (named.container.is_none() || (!outside && named.pod.is_none()))
            && self.wanted.len() < MOST_WANTED
            && !self.nameless.contains(id)
        {
            self.wanted.entry_ref(id.as_str()).or_default();
        }
        if let Some(uid) = &ids.pod_uid
            && named.pod.is_none()
            && self.wanted_pods.len() < MOST_WANTED
            && !self.nameless.contains(uid)
        {
            self.wanted_pods.entry_ref(uid.as_str()).or_default();
        }
    }

    /// Looks for the names that are wanted, if it is time to.
    pub fn chores(&mut self, host: &Host) {
        self.take_answer();
        let now = Instant::now();
        if now < self.next_look || (self.wanted.is_empty() && self.wanted_pods.is_empty()) {
            return;
        }
        self.look(host);
        self.next_look = Instant::now() + PAUSE.max(now.elapsed() * REST);
    }

    /// Makes as sure of the names of these as can be: for a report. Takes 300 ms at the most where
    /// a runtime has to be asked.
    pub fn make_sure<'a>(&mut self, host: &Host, all: impl Iterator<Item = &'a CgroupNames>) {
        let mut bundles_wanted: Vec<String> = Vec::new();
        for ids in all {
            self.want(ids);
            bundles_wanted.extend(ids.container_id.clone());
        }
        // Also of those that log names have named.
        for id in bundles_wanted {
            self.read_bundle(host, &id);
        }
        if self.wanted.is_empty() && self.wanted_pods.is_empty() && self.asked.is_none() {
            return;
        }
        self.look(host);
        if let Some(asked) = self.asked.take() {
            self.take(asked.wait());
        }
    }

    /// Everything that files tell of what is wanted; what they do not, the runtime is asked.
    fn look(&mut self, host: &Host) {
        let wanted: Vec<String> = self.wanted.keys().cloned().collect();
        for id in &wanted {
            self.read_bundle(host, id);
        }
        if !self.wanted.is_empty() || !self.wanted_pods.is_empty() {
            self.read_logs(host);
        }
        if !self.wanted.is_empty() {
            for (id, container) in bundles::podman(host) {
                self.learn(id, Trust::Bundle, container);
            }
        }
        self.settle();
        let unnamed = !self.wanted.is_empty() || !self.wanted_pods.is_empty();
        if unnamed && self.asked.is_none() && Instant::now() >= self.next_asking {
            self.asked = cri::ask(host);
            self.next_asking = Instant::now() + ASKING_PAUSE;
        }
    }

    fn read_logs(&mut self, host: &Host) {
        let logs = logs::read(host);
        if logs.cut {
            tracing::debug!("more log files than are looked at: names of pods may be missing");
        }
        for (id, container) in logs.containers {
            self.learn(id, Trust::Logs, container);
        }
        for (uid, pod) in logs.pods {
            self.learn_pod(uid, Trust::Logs, pod);
        }
    }

    fn read_bundle(&mut self, host: &Host, id: &str) {
        if self.looked_at.contains(id) {
            return;
        }
        if let Some(container) = bundles::of(host, id) {
            self.learn(id.to_owned(), Trust::Bundle, container);
            if self.looked_at.len() < MOST {
                self.looked_at.insert(id.to_owned());
            }
        }
    }

    fn take_answer(&mut self) {
        if let Some(answer) = self.asked.as_ref().and_then(cri::Asked::poll) {
            self.asked = None;
            self.take(answer);
        }
    }

    fn take(&mut self, answer: cri::Answer) {
        for (id, container) in answer.containers {
            self.learn(id, Trust::Runtime, container);
        }
        for (uid, pod) in answer.pods {
            self.learn_pod(uid, Trust::Runtime, pod);
        }
    }

    fn learn(&mut self, id: String, trust: Trust, container: Container) {
        if let (Some(uid), Some(pod)) = (&container.pod_uid, &container.pod) {
            self.learn_pod(uid.clone(), trust, pod.clone());
        }
        self.wanted.remove(&id);
        keep(&mut self.by_id, id, trust, container);
    }

    fn learn_pod(&mut self, uid: String, trust: Trust, pod: Pod) {
        self.wanted_pods.remove(&uid);
        keep(&mut self.pods, uid, trust, pod);
    }

    /// Gives up what has been looked for in vain often enough.
    fn settle(&mut self) {
        for wanted in [&mut self.wanted, &mut self.wanted_pods] {
            wanted.retain(|id, wanted| {
                wanted.tries += 1;
                let goes_on = wanted.tries < TRIES;
                if !goes_on && self.nameless.len() < MOST {
                    self.nameless.insert(id.clone());
                }
                goes_on
            });
        }
    }
}

/// Whether a container is of the pod that the path says it is in, if both are known.
fn is_of(container: &Container, ids: &CgroupNames) -> bool {
    container.pod_uid.is_none() || ids.pod_uid.is_none() || container.pod_uid == ids.pod_uid
}

/// Remembers what is said, unless somebody who is trusted more has said something.
fn keep<T>(known: &mut HashMap<String, (Trust, T)>, id: String, trust: Trust, said: T) {
    let full = known.len() >= MOST;
    match known.entry(id) {
        hashbrown::hash_map::Entry::Occupied(mut entry) => {
            if entry.get().0 <= trust {
                entry.insert((trust, said));
            }
        }
        hashbrown::hash_map::Entry::Vacant(entry) => {
            if !full {
                entry.insert((trust, said));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resolve::cgroup_path::parse;

    const ID: &str = "3f1c5e0a9b7d4c2e8f6a1b3d5c7e9f0a2b4c6d8e0f1a3b5c7d9e1f2a4b6c8d0e";
    const UID: &str = "0d5b6f9e-3c1a-4f7b-9e2d-8a6c4b2e0f1d";

    /// A node with nothing on it.
    fn node() -> (tempfile::TempDir, Host) {
        let tree = tempfile::tempdir().unwrap();
        let host = Host::new(tree.path());
        for directory in ["/var/log/containers", "/var/log/pods"] {
            std::fs::create_dir_all(host.join(directory)).unwrap();
        }
        (tree, host)
    }

    fn touch(host: &Host, path: &str) {
        std::fs::write(host.join(path), "").unwrap();
    }

    fn bundle(host: &Host, id: &str, annotations: &serde_json::Value) {
        let path = format!("/run/containerd/io.containerd.runtime.v2.task/k8s.io/{id}");
        std::fs::create_dir_all(host.join(&path)).unwrap();
        let json = serde_json::json!({ "annotations": annotations }).to_string();
        std::fs::write(host.join(format!("{path}/config.json")), json).unwrap();
    }

    fn in_pod() -> CgroupNames {
        parse(&format!("/kubepods/burstable/pod{UID}/{ID}"))
    }

    fn web() -> Named {
        Named { pod: Pod::of("shop", "web-0"), container: Some("web".to_owned()) }
    }

    #[test]
    fn names_outlive_the_pod() {
        let (_tree, host) = node();
        let link = format!("/var/log/containers/web-0_shop_web-{ID}.log");
        touch(&host, &link);
        let mut containers = Containers::scan(&host);
        assert_eq!(containers.names(&in_pod()), web());
        std::fs::remove_file(host.join(&link)).unwrap();
        containers.make_sure(&host, [in_pod()].iter());
        assert_eq!(containers.names(&in_pod()), web());
    }

    #[test]
    fn a_pod_that_comes_later_is_named_while_it_is_there() {
        let (_tree, host) = node();
        let mut containers = Containers::scan(&host);
        containers.want(&in_pod());
        containers.chores(&host);
        assert_eq!(containers.names(&in_pod()), Named::default());
        let link = format!("/var/log/containers/web-0_shop_web-{ID}.log");
        touch(&host, &link);
        containers.chores(&host);
        assert_eq!(containers.names(&in_pod()), Named::default(), "not looked for all the time");
        containers.next_look = Instant::now();
        containers.chores(&host);
        assert_eq!(containers.names(&in_pod()), web());
    }

    #[test]
    fn the_pod_s_own_processes_have_its_name() {
        let (_tree, host) = node();
        std::fs::create_dir_all(host.join(format!("/var/log/pods/shop_web-0_{UID}"))).unwrap();
        let containers = Containers::scan(&host);
        let named = containers.names(&parse(&format!("/kubepods/burstable/pod{UID}")));
        assert_eq!(named, Named { container: None, ..web() });
        // Of a container nobody knows, the pod is known.
        assert_eq!(containers.names(&in_pod()).pod, web().pod);
    }

    #[test]
    fn the_runtime_s_files_count_more_than_names_of_logs() {
        let (_tree, host) = node();
        touch(&host, &format!("/var/log/containers/innocent_kube-system_x-{ID}.log"));
        let annotations = serde_json::json!({
            "io.kubernetes.cri.sandbox-name": "web-0",
            "io.kubernetes.cri.sandbox-namespace": "shop",
            "io.kubernetes.cri.container-name": "web",
            "io.kubernetes.cri.sandbox-uid": UID,
        });
        bundle(&host, ID, &annotations);
        let mut containers = Containers::scan(&host);
        containers.make_sure(&host, [in_pod()].iter());
        assert_eq!(containers.names(&in_pod()), web());
        // And a later look at the logs does not change that.
        containers.read_logs(&host);
        assert_eq!(containers.names(&in_pod()), web());
    }

    #[test]
    fn names_that_contradict_each_other_are_none() {
        let (_tree, host) = node();
        touch(&host, &format!("/var/log/containers/web-0_shop_web-{ID}.log"));
        std::fs::create_dir_all(host.join(format!("/var/log/pods/shop_db-0_{UID}"))).unwrap();
        let containers = Containers::scan(&host);
        assert_eq!(containers.names(&in_pod()), Named::default());
        // A container whose bundle says that it is of another pod than its cgroup does.
        let (_tree, host) = node();
        let annotations = serde_json::json!({
            "io.kubernetes.pod.name": "web-0",
            "io.kubernetes.pod.namespace": "shop",
            "io.kubernetes.pod.uid": "11111111-3c1a-4f7b-9e2d-8a6c4b2e0f1d",
        });
        bundle(&host, ID, &annotations);
        let mut containers = Containers::scan(&host);
        containers.make_sure(&host, [in_pod()].iter());
        assert_eq!(containers.names(&in_pod()), Named::default());
    }

    #[test]
    fn containers_outside_pods() {
        let (_tree, host) = node();
        std::fs::create_dir_all(host.join("/var/lib/containers/storage/overlay-containers"))
            .unwrap();
        let list = serde_json::json!([{"id": ID, "names": ["trial"]}]).to_string();
        let path = "/var/lib/containers/storage/overlay-containers/containers.json";
        std::fs::write(host.join(path), list).unwrap();
        let ids = parse(&format!("/machine.slice/libpod-{ID}.scope/container"));
        let mut containers = Containers::scan(&host);
        containers.make_sure(&host, [&ids].into_iter());
        assert_eq!(containers.names(&ids).container.as_deref(), Some("trial"));
        let lxc = parse("/lxc.payload.box/init.scope");
        assert_eq!(containers.names(&lxc).container.as_deref(), Some("box"));
    }

    #[test]
    fn what_has_no_name_is_given_up() {
        let (_tree, host) = node();
        let mut containers = Containers::scan(&host);
        for _ in 0..TRIES {
            containers.make_sure(&host, [in_pod()].iter());
        }
        assert!(containers.wanted.is_empty() && containers.wanted_pods.is_empty());
        containers.want(&in_pod());
        assert!(containers.wanted.is_empty());
        // A storm of cgroups is not waited for.
        for number in 0..MOST_WANTED + 10 {
            containers.want(&parse(&format!("/docker/{number:064x}")));
        }
        assert_eq!(containers.wanted.len(), MOST_WANTED);
    }

    #[test]
    fn a_busy_node_is_read_in_no_time() {
        let (_tree, host) = node();
        for number in 0..3_000 {
            touch(&host, &format!("/var/log/containers/pod-{number}_shop_web-{number:064x}.log"));
        }
        let start = Instant::now();
        let containers = Containers::scan(&host);
        assert_eq!(containers.by_id.len(), 3_000);
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    }
}

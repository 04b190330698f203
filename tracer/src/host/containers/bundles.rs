//! The files that runtimes keep of each container, by its id. They are there also while the runtime
//! itself hangs, and only root can write to them.

use hashbrown::HashMap;
use serde::Deserialize;

use super::{Container, Pod, is_container_id, is_container_name, is_label, open, pod_uid};
use crate::host::Host;

/// Where containerd keeps its state, as it is packaged, and in k3s, k0s and `MicroK8s`.
const CONTAINERD: [&str; 4] = [
    "/run/containerd",
    "/run/k3s/containerd",
    "/run/k0s/containerd",
    "/var/snap/microk8s/common/run/containerd",
];
/// Its namespaces: of Kubernetes, of nerdctl and ctr.
const NAMESPACES: [&str; 2] = ["k8s.io", "default"];
/// Where the storage library of CRI-O and podman keeps what it knows.
const STORAGE: [&str; 2] = ["/run/containers/storage", "/var/lib/containers/storage"];
/// Its drivers.
const DRIVERS: [&str; 4] = ["overlay", "vfs", "btrfs", "zfs"];

/// What the runtimes' files say of a container.
#[must_use]
pub fn of(host: &Host, id: &str) -> Option<Container> {
    // The id becomes part of a path.
    if !is_container_id(id) {
        return None;
    }
    of_containerd(host, id)
        .or_else(|| of_crio(host, id))
        .or_else(|| {
            parse_docker(
                &open::read(host, &format!("/var/lib/docker/containers/{id}/config.v2.json"))
                    .ok()?,
            )
        })
        .filter(|container| !container.is_empty())
}

/// The bundle that containerd hands to runc, from 1.2 on.
fn of_containerd(host: &Host, id: &str) -> Option<Container> {
    CONTAINERD
        .iter()
        .flat_map(|state| NAMESPACES.iter().map(move |namespace| (state, namespace)))
        .map(|(state, namespace)| {
            format!("{state}/io.containerd.runtime.v2.task/{namespace}/{id}/config.json")
        })
        .find_map(|path| parse_bundle(&open::read(host, &path).ok()?))
}

/// The one that CRI-O does.
fn of_crio(host: &Host, id: &str) -> Option<Container> {
    STORAGE
        .iter()
        .flat_map(|storage| DRIVERS.iter().map(move |driver| (storage, driver)))
        .map(|(storage, driver)| format!("{storage}/{driver}-containers/{id}/userdata/config.json"))
        .find_map(|path| parse_bundle(&open::read(host, &path).ok()?))
}

/// What podman calls its containers, by id: two lists, the second one of those that do not outlive
/// a boot (`--rm`).
#[must_use]
pub fn podman(host: &Host) -> HashMap<String, Container> {
    let lists = DRIVERS.iter().flat_map(|driver| {
        [
            format!("/var/lib/containers/storage/{driver}-containers/containers.json"),
            format!("/run/containers/storage/{driver}-containers/volatile-containers.json"),
            format!("/var/lib/containers/storage/{driver}-containers/volatile-containers.json"),
        ]
    });
    lists
        .filter_map(|path| open::read(host, &path).ok())
        .flat_map(|list| parse_podman(&list))
        .collect()
}

/// What is used of an OCI bundle's `config.json`.
#[derive(Deserialize)]
struct Bundle {
    #[serde(default)]
    annotations: HashMap<String, String>,
}

/// A bundle's annotations: containerd's `internal/cri/annotations`, CRI-O's and kubelet's
/// `pkg/kubelet/types/labels.go`, nerdctl's `pkg/labels`.
#[must_use]
pub fn parse_bundle(json: &[u8]) -> Option<Container> {
    let Bundle { annotations } = serde_json::from_slice(json).ok()?;
    let get = |key: &str| annotations.get(key).map(String::as_str);
    let first = |keys: [&str; 2]| keys.into_iter().find_map(get);
    let pod = first(["io.kubernetes.cri.sandbox-name", "io.kubernetes.pod.name"]);
    let namespace = first(["io.kubernetes.cri.sandbox-namespace", "io.kubernetes.pod.namespace"]);
    let uid = first(["io.kubernetes.cri.sandbox-uid", "io.kubernetes.pod.uid"]);
    let container = first(["io.kubernetes.cri.container-name", "io.kubernetes.container.name"])
        .filter(|name| is_label(name))
        .or_else(|| get("nerdctl/name").filter(|name| is_container_name(name)));
    known(namespace.zip(pod), uid, container)
}

/// What is used of docker's `config.v2.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerContainer {
    #[serde(default)]
    name: String,
    #[serde(default)]
    config: Option<DockerConfig>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerConfig {
    #[serde(default)]
    labels: Option<HashMap<String, String>>,
}

/// Docker's name for a container, and, where cri-dockerd or dockershim made it, Kubernetes' own.
#[must_use]
pub fn parse_docker(json: &[u8]) -> Option<Container> {
    let DockerContainer { name, config } = serde_json::from_slice(json).ok()?;
    let labels = config.unwrap_or_default().labels.unwrap_or_default();
    let get = |key: &str| labels.get(key).map(String::as_str);
    let pod = get("io.kubernetes.pod.namespace").zip(get("io.kubernetes.pod.name"));
    let container = if pod.is_some() {
        get("io.kubernetes.container.name").filter(|name| is_label(name))
    } else {
        name.strip_prefix('/').filter(|name| is_container_name(name))
    };
    known(pod, get("io.kubernetes.pod.uid"), container)
}

/// What is used of the storage library's list.
#[derive(Deserialize)]
struct Stored {
    #[serde(default)]
    id: String,
    #[serde(default)]
    names: Option<Vec<String>>,
    /// JSON in a string: podman's has a `name`; CRI-O's has a `pod-name` too.
    #[serde(default)]
    metadata: String,
}

/// The containers of the storage library's list. Those that CRI-O made are in the same one: their
/// names are made up of several, and told by the bundle.
#[must_use]
pub fn parse_podman(json: &[u8]) -> HashMap<String, Container> {
    let stored: Vec<Stored> = serde_json::from_slice(json).unwrap_or_default();
    let name = |stored: &Stored| {
        let of_a_pod = stored.metadata.contains("\"pod-name\"");
        let name = stored.names.as_ref()?.first().filter(|_| !of_a_pod)?;
        is_container_name(name).then(|| name.clone())
    };
    stored
        .iter()
        .filter(|stored| is_container_id(&stored.id))
        .filter_map(|stored| {
            Some((
                stored.id.clone(),
                Container { name: Some(name(stored)?), ..Container::default() },
            ))
        })
        .collect()
}

/// A container of these names, as far as they have the form of such.
fn known(pod: Option<(&str, &str)>, uid: Option<&str>, name: Option<&str>) -> Option<Container> {
    let container = Container {
        pod: pod.and_then(|(namespace, pod)| Pod::of(namespace, pod)),
        pod_uid: uid.and_then(pod_uid),
        name: name.map(str::to_owned),
    };
    (!container.is_empty()).then_some(container)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "3f1c5e0a9b7d4c2e8f6a1b3d5c7e9f0a2b4c6d8e0f1a3b5c7d9e1f2a4b6c8d0e";
    const UID: &str = "0d5b6f9e-3c1a-4f7b-9e2d-8a6c4b2e0f1d";

    fn web() -> Container {
        Container {
            pod: Pod::of("shop", "web-0"),
            pod_uid: Some(UID.to_owned()),
            name: Some("web".to_owned()),
        }
    }

    #[test]
    fn bundles_of_containerd_and_of_cri_o() {
        let containerd = format!(
            r#"{{"ociVersion": "1.0.2", "process": {{}}, "annotations": {{
                "io.kubernetes.cri.container-name": "web",
                "io.kubernetes.cri.container-type": "container",
                "io.kubernetes.cri.sandbox-id": "{ID}",
                "io.kubernetes.cri.sandbox-name": "web-0",
                "io.kubernetes.cri.sandbox-namespace": "shop",
                "io.kubernetes.cri.sandbox-uid": "{UID}"}}}}"#
        );
        assert_eq!(parse_bundle(containerd.as_bytes()), Some(web()));
        let crio = format!(
            r#"{{"annotations": {{
                "io.container.manager": "cri-o",
                "io.kubernetes.container.name": "web",
                "io.kubernetes.pod.name": "web-0",
                "io.kubernetes.pod.namespace": "shop",
                "io.kubernetes.pod.uid": "{UID}"}}}}"#
        );
        assert_eq!(parse_bundle(crio.as_bytes()), Some(web()));
        // The sandbox, of which CRI-O says that its name is POD.
        let sandbox = crio.replace(
            r#""io.kubernetes.container.name": "web""#,
            r#""io.kubernetes.container.name": "POD""#,
        );
        assert_eq!(parse_bundle(sandbox.as_bytes()), Some(Container { name: None, ..web() }));
        let nerdctl =
            br#"{"annotations": {"nerdctl/name": "My_web", "nerdctl/namespace": "default"}}"#;
        assert_eq!(parse_bundle(nerdctl).unwrap().name.as_deref(), Some("My_web"));
        // podman's bundle has annotations, and no name of Kubernetes in them.
        assert_eq!(parse_bundle(br#"{"annotations": {"io.container.manager": "libpod"}}"#), None);
    }

    #[test]
    fn docker_s_configuration() {
        let alone = br#"{"ID": "x", "Name": "/web_1", "Config": {"Labels": {"a": "b"}}}"#;
        assert_eq!(
            parse_docker(alone),
            Some(Container { name: Some("web_1".to_owned()), ..Container::default() })
        );
        let in_pod = format!(
            r#"{{"Name": "/k8s_web_web-0_shop_{UID}_0", "Config": {{"Labels": {{
                "io.kubernetes.container.name": "web", "io.kubernetes.pod.name": "web-0",
                "io.kubernetes.pod.namespace": "shop", "io.kubernetes.pod.uid": "{UID}"}}}}}}"#
        );
        assert_eq!(parse_docker(in_pod.as_bytes()), Some(web()));
        assert_eq!(parse_docker(br#"{"Name": "/w\u001b[31m", "Config": {"Labels": null}}"#), None);
        assert_eq!(parse_docker(b"[]"), None);
    }

    #[test]
    fn podman_s_list() {
        let list = format!(
            r#"[{{"id": "{ID}", "names": ["trial", "other"], "metadata": "{{\"name\":\"trial\"}}"}},
                {{"id": "{other}", "names": ["k8s_web_web-0_shop_{UID}_0"],
                  "metadata": "{{\"pod-name\":\"x\"}}"}},
                {{"id": "short", "names": ["short"]}},
                {{"id": "{third}", "names": ["../../etc"]}}]"#,
            other = ID.replace('3', "4"),
            third = ID.replace('3', "5"),
        );
        let found = parse_podman(list.as_bytes());
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[ID].name.as_deref(), Some("trial"));
        assert!(parse_podman(b"nonsense").is_empty());
    }

    #[test]
    fn files_are_found_where_each_runtime_has_them() {
        let bundle = br#"{"annotations": {"io.kubernetes.pod.name": "web-0", "io.kubernetes.pod.namespace": "shop"}}"#;
        for path in [
            format!("/run/containerd/io.containerd.runtime.v2.task/k8s.io/{ID}/config.json"),
            format!("/run/k3s/containerd/io.containerd.runtime.v2.task/k8s.io/{ID}/config.json"),
            format!("/run/containers/storage/overlay-containers/{ID}/userdata/config.json"),
        ] {
            let tree = tempfile::tempdir().unwrap();
            let host = Host::new(tree.path());
            std::fs::create_dir_all(host.join(&path).parent().unwrap()).unwrap();
            std::fs::write(host.join(&path), bundle).unwrap();
            assert_eq!(of(&host, ID).unwrap().pod, Pod::of("shop", "web-0"), "{path}");
            assert_eq!(of(&host, "../../../etc"), None);
        }
    }

    proptest! {
        #[test]
        fn never_panics_and_never_takes_a_name_of_another_form(
            name in "\\PC{0,20}|[a-z0-9.-]{0,20}",
            namespace in "\\PC{0,20}|[a-z0-9-]{0,20}",
            bytes: Vec<u8>,
        ) {
            drop((parse_bundle(&bytes), parse_docker(&bytes), parse_podman(&bytes)));
            let annotations = serde_json::json!({"annotations": {
                "io.kubernetes.pod.name": name, "io.kubernetes.pod.namespace": namespace,
                "io.kubernetes.container.name": name,
            }});
            if let Some(container) = parse_bundle(annotations.to_string().as_bytes()) {
                prop_assert!(container.name.is_none_or(|name| is_label(&name)));
                if let Some(pod) = container.pod {
                    prop_assert!(super::super::is_subdomain(&pod.name) && is_label(&pod.namespace));
                }
            }
        }
    }
}

//! What the path of a cgroup says about its owner: systemd unit, pod, container.
//!
//! Paths are conventions of systemd, kubelet and the container runtimes, not of the kernel.
//! Everything here is strict: a component counts only if it has the whole form that the tool
//! gives it (a container id is 64 hex digits, a pod is below `kubepods`), because a wrong name is
//! worse than none.

use crate::host::containers::{is_container_id, is_container_name, pod_uid};

/// The owner that a path names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CgroupNames {
    /// systemd unit (`.service`, `.scope`, `.socket`, `.mount`, `.swap`), unescaped for display.
    /// Within a container, a unit of the systemd that runs in it. A container's own scope is not
    /// a unit, and neither is a unit that a container lies below.
    pub unit: Option<String>,
    /// The innermost systemd slice around the unit, container or pod, unescaped for display.
    pub slice: Option<String>,
    /// Pod UID, with dashes; that of a static pod is 32 hex digits and has none.
    pub pod_uid: Option<String>,
    /// The pod's quality-of-service class.
    pub qos: Option<Qos>,
    /// Container id, 64 hex digits. Of containers in containers, the outermost one in its pod:
    /// the one that the node's own tools know.
    pub container_id: Option<String>,
    /// The container's name, with runtimes that have no ids: LXC (Incus, LXD, Proxmox) and
    /// systemd-nspawn.
    pub container_name: Option<String>,
    /// `docker`, `containerd`, `cri-o`, `podman`, `lxc` or `systemd-nspawn`, where the path tells.
    pub runtime: Option<&'static str>,
}

/// Kubernetes' quality-of-service classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Qos {
    /// Requests equal limits; such pods lie directly below `kubepods`.
    Guaranteed,
    /// Some requests or limits.
    Burstable,
    /// Neither.
    BestEffort,
}

impl Qos {
    /// As the Kubernetes API spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// Reads the names out of a cgroup path. What it does not recognise stays `None`.
pub fn parse(path: &str) -> CgroupNames {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let mut names = CgroupNames::default();

    // The innermost pod: on a node that is itself a container, the outer ids are the node's.
    let pod = (0..parts.len()).rev().find_map(|at| Some((at, pod_at(&parts, at)?)));
    let mut inside = 0;
    if let Some((at, pod)) = pod {
        names.pod_uid = Some(pod.uid);
        names.qos = Some(pod.qos);
        inside = at;
    }

    let in_pod = names.pod_uid.is_some();
    let container =
        (inside..parts.len()).find_map(|at| Some((at, container_at(&parts, at, in_pod)?)));
    let mut in_unit = false;
    if let Some((at, container)) = container {
        match container.id {
            Called::Id(id) => names.container_id = Some(id.to_owned()),
            Called::Name(name) => names.container_name = Some(name),
        }
        names.runtime = container.runtime;
        in_unit = container.in_unit;
        inside = at;
    }

    // What lies above a pod or container runs it, and is not in it; unless it is run as a unit.
    let below = if in_pod || names.runtime.is_some() || names.container_id.is_some() {
        inside + 1
    } else {
        0
    };
    let unit = unit_at(&parts, below).or_else(|| in_unit.then(|| unit_at(&parts[..inside], 0))?);
    names.unit = unit.map(|at| display_name(parts[at]));
    let around = unit.unwrap_or(parts.len());
    names.slice = parts[..around]
        .iter()
        .rev()
        .find(|part| is_unit(part, &["slice"]))
        .map(|part| display_name(part));
    names
}

struct Pod {
    uid: String,
    qos: Qos,
}

struct Container<'a> {
    id: Called<'a>,
    runtime: Option<&'static str>,
    /// Whether the unit that it lies in was made for it alone.
    in_unit: bool,
}

enum Called<'a> {
    Id(&'a str),
    Name(String),
}

impl<'a> Container<'a> {
    fn of_id(id: &'a str, runtime: Option<&'static str>) -> Self {
        Self { id: Called::Id(id), runtime, in_unit: false }
    }
}

/// The pod that a component stands for.
///
/// kubelet's cgroupfs driver makes `…/kubepods[/burstable|/besteffort]/pod<uid>`, its systemd
/// driver `[prefix-]kubepods[-burstable|-besteffort]-pod<uid>.slice` with `_` for `-`
/// (`pkg/kubelet/cm/cgroup_manager_linux.go`). A runtime whose driver is not kubelet's leaves
/// `<that slice>:cri-containerd:<id>` as one component.
fn pod_at(parts: &[&str], at: usize) -> Option<Pod> {
    let part = parts[at];
    if let Some(uid) = part.strip_prefix("pod").and_then(pod_uid) {
        let parent = |up: usize| at.checked_sub(up).map(|index| parts[index]);
        let qos = match (parent(1)?, parent(2)) {
            ("kubepods", _) => Qos::Guaranteed,
            ("burstable", Some("kubepods")) => Qos::Burstable,
            ("besteffort", Some("kubepods")) => Qos::BestEffort,
            _ => return None,
        };
        return Some(Pod { uid, qos });
    }
    let slice = part.split_once(':').map_or(part, |(slice, _)| slice);
    let (group, uid) = slice.strip_suffix(".slice")?.rsplit_once("-pod")?;
    let uid = pod_uid(uid)?;
    let (rest, qos) = if let Some(rest) = group.strip_suffix("-burstable") {
        (rest, Qos::Burstable)
    } else if let Some(rest) = group.strip_suffix("-besteffort") {
        (rest, Qos::BestEffort)
    } else {
        (group, Qos::Guaranteed)
    };
    if rest == "kubepods" || rest.ends_with("-kubepods") { Some(Pod { uid, qos }) } else { None }
}

/// The container that a component stands for.
///
/// With systemd: `<prefix>-<id>.scope`. With cgroupfs: the bare id below its pod or a directory
/// of the runtime, or `<prefix>-<id>`. With mismatched drivers: `<slice>:<prefix>:<id>`. The
/// monitors (`crio-conmon-…`, `libpod-conmon-…`, `lxc.monitor.…`) are processes beside the
/// container, and are left as the units or paths they are. A bare id below `libpod_parent` is a pod
/// of podman's.
fn container_at<'a>(parts: &[&'a str], at: usize, in_pod: bool) -> Option<Container<'a>> {
    let part = parts[at];
    let parent = at.checked_sub(1).map(|index| parts[index]);
    if is_container_id(part) {
        let runtime = match parent? {
            // The second: GitHub's runner has docker put its containers there.
            "docker" | "actions_job" => Some("docker"),
            // Namespaces of containerd: of Kubernetes, and of ctr and nerdctl.
            "k8s.io" | "default" => Some("containerd"),
            // Amazon's agent has docker put them below one for the task.
            task if parts[0] == "ecs" && pod_uid(task).is_some() => Some("docker"),
            _ if in_pod && pod_at(parts, at - 1).is_some() => None,
            _ => return None,
        };
        return Some(Container::of_id(part, runtime));
    }
    if let Some(name) = lxc(part, parent, at).or_else(|| nspawn(part, parent)) {
        return Some(name);
    }
    let (prefix, id) = match part.strip_suffix(".scope") {
        Some(scope) => scope.rsplit_once('-')?,
        None => part.rsplit_once([':', '-'])?,
    };
    let prefix = prefix.rsplit_once(':').map_or(prefix, |(_, prefix)| prefix);
    let runtime = match prefix {
        "docker" => "docker",
        "cri-containerd" | "nerdctl" => "containerd",
        "crio" => "cri-o",
        // The second in the unit that podman was started in (`--cgroups=split`, as Quadlet does).
        "libpod" | "libpod-payload" => "podman",
        _ => return None,
    };
    let container = Container::of_id(id, Some(runtime));
    is_container_id(id).then_some(Container {
        in_unit: prefix == "libpod-payload" && parent.is_some(),
        ..container
    })
}

/// `lxc.payload.<name>` (LXC 4), `lxc.payload/<name>` (3.1) or `lxc/<name>` (before, and Proxmox):
/// `src/lxc/cgroups/cgfsng.c`. Where such a cgroup was left behind, the next one has `-1`, and so on,
/// at its end, so that a name which ends so may be of another container.
fn lxc<'a>(part: &str, parent: Option<&str>, at: usize) -> Option<Container<'a>> {
    let name = match (part.strip_prefix("lxc.payload."), parent) {
        (Some(name), _) => name,
        (None, Some("lxc" | "lxc.payload")) if at == 1 => part,
        _ => return None,
    };
    let counted = name
        .rsplit_once('-')
        .is_some_and(|(_, end)| !end.is_empty() && end.bytes().all(|byte| byte.is_ascii_digit()));
    let known = is_container_name(name) && !counted;
    let id = Called::Name(name.to_owned());
    known.then_some(Container { id, runtime: Some("lxc"), in_unit: false })
}

/// `payload` below `systemd-nspawn@<name>.service` or `machine-<name>.scope`: `src/nspawn` in
/// systemd. (The scopes of virtual machines have no such part.)
fn nspawn<'a>(part: &str, parent: Option<&str>) -> Option<Container<'a>> {
    let unit = parent.filter(|_| part == "payload")?;
    let name = match unit.strip_prefix("systemd-nspawn@") {
        Some(rest) => rest.strip_suffix(".service")?,
        None => unit.strip_prefix("machine-")?.strip_suffix(".scope")?,
    };
    let name = display_name(name);
    let known = is_container_name(&name);
    known.then_some(Container {
        id: Called::Name(name),
        runtime: Some("systemd-nspawn"),
        in_unit: true,
    })
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Index of the unit that a path lies in, not looking above `below`: the innermost one.
///
/// `init.scope` below a service is the user manager itself, and is better known as the service
/// (`user@1000.service`).
fn unit_at(parts: &[&str], below: usize) -> Option<usize> {
    let innermost =
        |end: usize, kinds: &[&str]| (below..end).rev().find(|&at| is_unit(parts[at], kinds));
    let at = innermost(parts.len(), &["service", "scope", "socket", "mount", "swap"])?;
    if parts[at] == "init.scope"
        && let Some(manager) = innermost(at, &["service"])
    {
        return Some(manager);
    }
    Some(at)
}

/// Whether a component is the name of a unit of one of these kinds: `VALID_CHARS_WITH_AT` in
/// systemd's `src/basic/unit-name.c`, at most 255 bytes.
fn is_unit(part: &str, kinds: &[&str]) -> bool {
    let Some((name, kind)) = part.rsplit_once('.') else {
        return false;
    };
    kinds.contains(&kind)
        && !name.is_empty()
        && part.len() <= 255
        && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte))
}

/// A unit's name for display. systemd puts a `_` before names that could be taken for a file of
/// the kernel's (`cg_escape()`), and writes bytes outside its alphabet as `\xNN`, a dash in what
/// is not a path separator among them. Only printable ASCII is restored: what a name cannot hold
/// unescaped (`/`, `\`, control characters) stays escaped.
fn display_name(part: &str) -> String {
    let mut rest = part.strip_prefix('_').unwrap_or(part);
    let mut name = String::with_capacity(rest.len());
    while let Some(at) = rest.find("\\x") {
        name.push_str(&rest[..at]);
        let digits = rest.get(at + 2..at + 4).filter(|digits| is_hex(digits, 2));
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match byte {
            Some(byte @ 0x20..=0x7e) if byte != b'/' && byte != b'\\' => {
                name.push(char::from(byte));
                rest = &rest[at + 4..];
            }
            _ => {
                name.push_str("\\x");
                rest = &rest[at + 2..];
            }
        }
    }
    name.push_str(rest);
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: &str = "3f1c5e0a9b7d4c2e8f6a1b3d5c7e9f0a2b4c6d8e0f1a3b5c7d9e1f2a4b6c8d0e";
    const NODE: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const UID: &str = "0d5b6f9e-3c1a-4f7b-9e2d-8a6c4b2e0f1d";
    const UID_: &str = "0d5b6f9e_3c1a_4f7b_9e2d_8a6c4b2e0f1d";
    const STATIC: &str = "b5c7d9e1f2a4b6c8d0e13f1c5e0a9b7d";

    /// `path`, `unit`, `slice`, `pod_uid`, `qos`, `container_id`, `runtime`; `-` is none, and
    /// `ID`, `NODE`, `UID`, `UID_` and `STATIC` stand for the constants.
    const TABLE: &str = r"
        # nothing to say
        /                                              -  -  -  -  -  -
        /foo/bar                                       -  -  -  -  -  -
        /agent/9a375e4f415f2e30c3c59fd82e9f4fc0  -  -  -  -  -  -
        # systemd
        /init.scope                                    init.scope - - - - -
        /system.slice                                  - system.slice - - - -
        /system.slice/kubelet.service                  kubelet.service system.slice - - - -
        /system.slice/systemd-udevd.service/udev       systemd-udevd.service system.slice - - - -
        /system.slice/dbus.socket                      dbus.socket system.slice - - - -
        /system.slice/dev-hugepages.mount              dev-hugepages.mount system.slice - - - -
        /system.slice/system-getty.slice/getty@tty1.service  getty@tty1.service system-getty.slice - - - -
        /system.slice/system-serial\x2dgetty.slice/serial-getty@ttyS0.service  serial-getty@ttyS0.service system-serial-getty.slice - - - -
        /system.slice/_cpu.service                     cpu.service system.slice - - - -
        /system.slice/a\x2fb\x0ac\xzz\x2.service       a\x2fb\x0ac\xzz\x2.service system.slice - - - -
        /user.slice/user-1000.slice/session-3.scope    session-3.scope user-1000.slice - - - -
        /user.slice/user-1000.slice/user@1000.service/init.scope  user@1000.service user-1000.slice - - - -
        /user.slice/user-1000.slice/user@1000.service/app.slice/dbus.service  dbus.service app.slice - - - -
        /user.slice/user-1000.slice/user@1000.service/app.slice/app-org.gnome.Terminal\x2d42.scope  app-org.gnome.Terminal-42.scope app.slice - - - -
        /machine.slice/machine-qemu\x2d1\x2dvm.scope/libvirt/emulator  machine-qemu-1-vm.scope machine.slice - - - -
        # not units
        /system.slice/.service                         - system.slice - - - -
        /system.slice/two\040words.servicex            - system.slice - - - -
        # pods, cgroupfs driver
        /kubepods                                      - - - - - -
        /kubepods/burstable                            - - - - - -
        /kubepods/burstable/podUID                     - - UID Burstable - -
        /kubepods/burstable/podUID/ID                  - - UID Burstable ID -
        /kubepods/besteffort/podUID/ID                 - - UID BestEffort ID -
        /kubepods/podUID/ID                            - - UID Guaranteed ID -
        /kubepods/burstable/podSTATIC/ID               - - STATIC Burstable ID -
        /kubepods/burstable/podUID/crio-ID             - - UID Burstable ID cri-o
        /kubepods/burstable/podUID/crio-conmon-ID      - - UID Burstable - -
        /custom/kubepods/besteffort/podUID/ID          - - UID BestEffort ID -
        # pods, systemd driver
        /kubepods.slice/kubepods-burstable.slice       - kubepods-burstable.slice - - - -
        /kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID_.slice  - kubepods-burstable-podUID_.slice UID Burstable - -
        /kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID_.slice/cri-containerd-ID.scope  - kubepods-burstable-podUID_.slice UID Burstable ID containerd
        /kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podUID_.slice/docker-ID.scope  - kubepods-besteffort-podUID_.slice UID BestEffort ID docker
        /kubepods.slice/kubepods-podUID_.slice/crio-ID.scope  - kubepods-podUID_.slice UID Guaranteed ID cri-o
        /kubepods.slice/kubepods-podUID_.slice/crio-ID.scope/container  - kubepods-podUID_.slice UID Guaranteed ID cri-o
        /kubepods.slice/kubepods-podUID_.slice/crio-conmon-ID.scope  crio-conmon-ID.scope kubepods-podUID_.slice UID Guaranteed - -
        /kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podSTATIC.slice/cri-containerd-ID.scope  - kubepods-burstable-podSTATIC.slice STATIC Burstable ID containerd
        /kubepods.slice/kubepods-podUID_.slice/ID      - kubepods-podUID_.slice UID Guaranteed ID -
        # systemd in a pod, and a runtime in a pod
        /kubepods/burstable/podUID/ID/system.slice/nginx.service  nginx.service system.slice UID Burstable ID -
        /kubepods/burstable/podUID/ID/docker/NODE      - - UID Burstable ID -
        # mismatched drivers
        /system.slice/containerd.service/kubepods-burstable-podUID_.slice:cri-containerd:ID  - system.slice UID Burstable ID containerd
        /kubepods-podUID_.slice:cri-containerd:ID      - - UID Guaranteed ID containerd
        /system.slice:docker:ID                        - - - - ID docker
        # kind: nodes are containers
        /kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-podUID_.slice/cri-containerd-ID.scope  - kubelet-kubepods-burstable-podUID_.slice UID Burstable ID containerd
        /system.slice/docker-NODE.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-podUID_.slice/cri-containerd-ID.scope  - kubelet-kubepods-besteffort-podUID_.slice UID BestEffort ID containerd
        /docker/NODE/kubelet/kubepods/besteffort/podUID/ID  - - UID BestEffort ID -
        /docker/NODE/kubelet/kubepods/besteffort/podUID  - - UID BestEffort - -
        /docker/NODE/system.slice/kubelet.service      kubelet.service system.slice - - NODE docker
        # containers without a pod
        /docker/ID                                     - - - - ID docker
        /docker/ID/init                                - - - - ID docker
        /docker/buildkit/xyz                           - - - - - -
        /system.slice/docker-ID.scope                  - system.slice - - ID docker
        /system.slice/docker-ID.scope/init.scope       init.scope system.slice - - ID docker
        /system.slice/nerdctl-ID.scope                 - system.slice - - ID containerd
        /k8s.io/ID                                     - - - - ID containerd
        /machine.slice/libpod-ID.scope                 - machine.slice - - ID podman
        /machine.slice/libpod-ID.scope/container       - machine.slice - - ID podman
        /machine.slice/libpod-conmon-ID.scope          libpod-conmon-ID.scope machine.slice - - - -
        /libpod_parent/libpod-ID                       - - - - ID podman
        /libpod_parent/NODE                            - - - - - -
        /libpod_parent/NODE/libpod-ID                  - - - - ID podman
        /libpod_parent/conmon                          - - - - - -
        /libpod-payload-ID                             - - - - ID podman
        /system.slice/web.service/libpod-payload-ID    web.service system.slice - - ID podman
        /default/ID                                    - - - - ID containerd
        /user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope/container  - user.slice - - ID podman
        # seen from within a cgroup namespace
        /../cri-containerd-ID.scope                    - - - - ID containerd
        # nearly right is not right
        /unknown/ID                                    - - - - - -
        /burstable/podUID/ID                           - - - - - -
        /kubepods/burstable/pod1234/ID                 - - - - - -
        /kubepods/guaranteed/podUID/ID                 - - - - - -
        /kubepods/burstable/podUIDx                    - - - - - -
        /mykubepods-podUID_.slice                      - mykubepods-podUID_.slice - - - -
        /system.slice/docker-abc123.scope              docker-abc123.scope system.slice - - - -
        /system.slice/other-ID.scope                   other-ID.scope system.slice - - - -
        /ecs/ID/NODE                                   - - - - - -
        /x/ecs/STATIC/ID                               - - - - - -
    ";

    fn fill(text: &str) -> String {
        text.replace("UID_", UID_)
            .replace("UID", UID)
            .replace("STATIC", STATIC)
            .replace("NODE", NODE)
            .replace("ID", ID)
    }

    #[test]
    fn paths_and_what_they_say() {
        let mut rows = 0;
        for row in TABLE.lines().map(str::trim) {
            if row.is_empty() || row.starts_with('#') {
                continue;
            }
            let row = fill(row);
            let columns: Vec<&str> = row.split_whitespace().collect();
            let [path, expected @ ..] = columns.as_slice() else { panic!("{row}") };
            let names = parse(path);
            let found = [
                names.unit.as_deref(),
                names.slice.as_deref(),
                names.pod_uid.as_deref(),
                names.qos.map(Qos::as_str),
                names.container_id.as_deref(),
                names.runtime,
            ]
            .map(|name| name.unwrap_or("-"));
            assert_eq!(found.as_slice(), expected, "{path}");
            rows += 1;
        }
        assert!(rows >= 60, "{rows}");
    }

    /// Layouts as they were seen, or are documented, elsewhere: `path`, `unit`, `slice`, `pod_uid`,
    /// `qos`, `container_id`, `container_name`, `runtime`, and where it is from.
    const SEEN: &str = include_str!("cgroup_paths.txt");

    #[test]
    fn paths_that_others_have_seen() {
        let mut rows = 0;
        for row in SEEN.lines().filter(|row| !row.is_empty() && !row.starts_with('#')) {
            let columns: Vec<&str> = row.split_whitespace().collect();
            let [path, expected @ .., source] = columns.as_slice() else { panic!("{row}") };
            let names = parse(path);
            // An id stands in the path, and in the table by its beginning.
            let id = names.container_id.as_deref().map(|id| &id[..8]);
            let found = [
                names.unit.as_deref(),
                names.slice.as_deref(),
                names.pod_uid.as_deref(),
                names.qos.map(Qos::as_str),
                id,
                names.container_name.as_deref(),
                names.runtime,
            ]
            .map(|name| name.unwrap_or("-"));
            assert_eq!(found.as_slice(), expected, "{path}");
            assert!(source.contains('.') && source.contains('/'), "no source: {row}");
            rows += 1;
        }
        assert!(rows >= 25, "{rows}");
    }

    #[test]
    fn containers_that_have_names_and_no_ids() {
        let named = |path: &str| {
            let names = parse(path);
            (names.container_name, names.runtime, names.unit)
        };
        let of = |name: &str, runtime, unit: Option<&str>| {
            (Some(name.to_owned()), Some(runtime), unit.map(str::to_owned))
        };
        assert_eq!(named("/lxc.payload.web"), of("web", "lxc", None));
        let inner = "/lxc.payload.web/system.slice/nginx.service";
        assert_eq!(named(inner), of("web", "lxc", Some("nginx.service")));
        assert_eq!(named("/lxc/101/ns/init.scope"), of("101", "lxc", Some("init.scope")));
        let machine = r"/machine.slice/machine-my\x2dbox.scope/payload/system.slice/a.service";
        assert_eq!(named(machine), of("my-box", "systemd-nspawn", Some("a.service")));
        // It may be the second cgroup of `web`; a monitor; a virtual machine; something else.
        for path in [
            "/lxc.payload.web-1",
            "/lxc.payload.",
            "/lxc.monitor.web",
            "/x/lxc/web",
            r"/machine.slice/machine-qemu\x2d1\x2dvm.scope/libvirt/emulator",
            "/machine.slice/other@web.service/payload",
            "/payload",
        ] {
            assert_eq!((named(path).0, named(path).1), (None, None), "{path}");
        }
    }

    #[test]
    fn names_of_units_are_unescaped_for_display() {
        assert_eq!(display_name(r"a\x2db\x20c.scope"), "a-b c.scope");
        assert_eq!(display_name("__x.service"), "_x.service");
        for kept in [r"\x5cx2d", r"\x1b", r"\xff", r"\x", r"\x2", r"\xé", r"\\"] {
            assert_eq!(display_name(kept), kept);
        }
    }

    #[test]
    fn the_empty_path_says_nothing() {
        assert_eq!(parse(""), CgroupNames::default());
        assert_eq!(parse("////"), CgroupNames::default());
    }

    proptest! {
        #[test]
        fn never_panics(path in "(?s).{0,200}") {
            parse(&path);
            display_name(&path);
        }

        #[test]
        fn never_panics_on_what_looks_like_it(
            parts in proptest::collection::vec(
                "(kubepods|pod|burstable|docker|crio|libpod|[a-f0-9]{64}|[é:._\\\\x@-]|\\.slice|\\.scope|\\.service){0,5}",
                0..6,
            )
        ) {
            parse(&parts.join("/"));
        }

        #[test]
        fn a_name_is_never_made_up(path in "[a-z/.-]{0,80}") {
            let names = parse(&path);
            prop_assert_eq!(names.pod_uid, None);
            prop_assert_eq!(names.container_id, None);
            prop_assert!(names.container_name.is_none_or(|name| path.contains(&name)));
            if let Some(unit) = names.unit {
                prop_assert!(path.contains(&unit));
            }
        }
    }
}

//! Pods and containers by name: in kubelet's layout, in a real container, and from within one.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use kleak_tests::harness::{
    Cgroup, Counts, PATIENCE, Report, Tracer, Workload, as_counts, binary, class_512_of_messages,
    has_btf, holds_frame, not_applicable, require_live, require_program, run_command, shout,
    workload_binary,
};
use serde_json::Value;

const fn staying(objects: u64) -> Counts {
    Counts { allocated: objects, freed: 0, outstanding: objects, bytes: objects * 512 }
}

/// Hex digits that no other run of the tests has.
fn unique(length: usize) -> String {
    let digits = format!("{:08x}", std::process::id());
    digits.chars().cycle().take(length).collect()
}

/// A UUID, by its last digit.
fn uid(last: char) -> String {
    let digits = unique(31) + &last.to_string();
    [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-")
}

/// Runs kleak in a mount namespace of its own, prepared by a script of which `$1` is `place`.
fn in_namespace(script: &str, place: &Path, arguments: &[&str]) -> Result<Command> {
    let script = format!("set -e; mount --make-rprivate /; {script}; shift; exec \"$@\"");
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script, "sh"]).arg(place).arg(binary()?).args(arguments);
    Ok(command)
}

/// The root of a node: its own `/proc` and `/sys`, and whatever else lies there.
const NODE: &str = "mkdir -p \"$1/proc\" \"$1/sys\"; mount --rbind /proc \"$1/proc\"; \
                    mount --rbind /sys \"$1/sys\"";
/// Takes away what a container need not have.
const HIDE_PROC: &str = "mount -t tmpfs none /proc";

/// A pod as kubelet makes it: its cgroups, and the names of its logs.
struct Pod {
    uid: String,
    id: String,
    link: PathBuf,
    cgroup: Cgroup,
}

impl Pod {
    fn make(root: &Path, name: &str, last: char) -> Result<Self> {
        let (uid, id) = (uid(last), unique(63) + &last.to_string());
        let logs = root.join("var/log/containers");
        fs::create_dir_all(&logs)?;
        fs::create_dir_all(root.join(format!("var/log/pods/shop_{name}_{uid}/leaker")))?;
        let link = logs.join(format!("{name}_shop_leaker-{id}.log"));
        // As on a node whose logs are elsewhere: only the name counts.
        std::os::unix::fs::symlink(format!("/var/log/pods/shop_{name}_{uid}/leaker/0.log"), &link)?;
        let cgroup = Cgroup::make(&format!("kubepods/burstable/pod{uid}/{id}"))?;
        Ok(Self { uid, id, link, cgroup })
    }
}

#[test]
fn pods_in_kubelet_s_layout_have_their_names() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    let cache = class_512_of_messages()?;
    let root = tempfile::tempdir()?;
    let folded = tempfile::NamedTempFile::new()?;
    let folded_path = folded.path().to_str().context("its path")?;
    let web = Pod::make(root.path(), "web-0", 'a')?;
    let db = Pod::make(root.path(), "db-0", 'b')?;
    let mut one = Workload::start(&["--comm", "leak-web", "msg", "--count", "3000"])?;
    let mut two = Workload::start(&["--comm", "leak-db", "msg", "--count", "700"])?;
    web.cgroup.join(one.pid())?;
    db.cgroup.join(two.pid())?;
    let root_path = root.path().to_str().context("its path")?;
    let base = ["trace", "--size", "512", "--host-root", root_path, "--top", "1000"];
    let script = format!("{NODE}; {HIDE_PROC}");
    let run = |options: &[&str], one: &mut Workload, two: &mut Workload| -> Result<_> {
        let arguments = [&base, options].concat();
        let tracer = Tracer::start_by(in_namespace(&script, root.path(), &arguments)?)?;
        assert_eq!(one.go("count")?, 3000);
        assert_eq!(two.go("count")?, 700);
        // What was there when kleak began is remembered.
        if web.link.is_symlink() {
            fs::remove_file(&web.link)?;
        }
        let finished = tracer.interrupt()?.expect(0, &[])?;
        one.drain()?;
        two.drain()?;
        Ok(finished)
    };

    let json = ["--format", "json", "--folded", folded_path];
    let report = Report::parse(&run(&json, &mut one, &mut two)?)?;
    for (pod, name, process, count) in [(&web, "web-0", &one, 3000), (&db, "db-0", &two, 700)] {
        let row = report.row(process.pid(), cache)?.with_context(|| format!("no row of {name}"))?;
        assert_eq!(as_counts(row)?, staying(count));
        let owner = &row["owner"];
        assert_eq!(owner["pod"], name, "{owner:#}");
        assert_eq!(owner["namespace"], "shop");
        assert_eq!(owner["container"], "leaker");
        assert_eq!(owner["pod_uid"], pod.uid);
        assert_eq!(owner["container_id"], pod.id);
        assert_eq!(owner["cgroup"], pod.cgroup.path());
        assert_eq!(owner["exited"], false, "{owner:#}");
    }
    let summary = report.0["verdict"]["summary"].as_str().context("summary")?;
    assert!(summary.contains("pod shop/web-0, container leaker"), "{summary}");
    let lines = fs::read_to_string(folded_path)?;
    let root_of_web = format!("[web-0];leak-web-{};", one.pid());
    assert!(lines.lines().any(|line| line.starts_with(&root_of_web)), "{lines}");

    // Of web-0 nothing tells the name any more but the directory of its logs.
    let report = Report::parse(&run(&["--format", "json", "--by", "pod"], &mut one, &mut two)?)?;
    for (name, count) in [("web-0", 3000), ("db-0", 700)] {
        let rows = report.owners()?.iter();
        let rows = rows.filter(|row| row["owner"]["pod"] == name && row["cache"] == cache);
        let rows = rows.collect::<Vec<_>>();
        assert_eq!(rows.len(), 1, "{name}: {rows:#?}");
        assert_eq!(rows[0]["owner"]["kind"], "pod");
        assert_eq!(rows[0]["owner"]["namespace"], "shop");
        assert_eq!(as_counts(rows[0])?, staying(count), "{name}");
    }

    for pattern in ["db-*", "shop/db-0", &db.uid] {
        let options = ["--format", "json", "--pod", pattern];
        let report = Report::parse(&run(&options, &mut one, &mut two)?)?;
        assert_eq!(report.counts(two.pid(), cache)?, staying(700), "{pattern}");
        let others = report.owners()?.iter().filter(|row| row["owner"]["pod"] != "db-0");
        assert_eq!(others.count(), 0, "--pod {pattern} let others through");
    }

    let text = run(&["--stacks", "off"], &mut one, &mut two)?;
    let text = text.text()?;
    assert!(text.contains("shop/db-0, container leaker"), "{text}");
    Ok(())
}

#[test]
fn a_pod_that_comes_and_goes_within_the_window_has_its_name() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    if !has_btf() {
        not_applicable("without BTF a cgroup that is gone has no path");
        return Ok(());
    }
    let cache = class_512_of_messages()?;
    let root = tempfile::tempdir()?;
    let root_path = root.path().to_str().context("its path")?;
    let arguments =
        ["trace", "--size", "512", "--host-root", root_path, "--format", "json", "--top", "1000"];
    let mut workload =
        Workload::start(&["--comm", "leak-job", "--leave", "msg", "--count", "900"])?;
    let tracer = Tracer::start_by(in_namespace(NODE, root.path(), &arguments)?)?;
    let pod = Pod::make(root.path(), "job-1", 'c')?;
    pod.cgroup.join(workload.pid())?;
    assert_eq!(workload.go("count")?, 900);
    // kleak looks for names that it wants once a second.
    std::thread::sleep(std::time::Duration::from_millis(2500));
    fs::remove_file(&pod.link)?;
    fs::remove_dir_all(root.path().join("var/log/pods"))?;
    let (id, uid) = (pod.id.clone(), pod.uid.clone());
    assert!(workload.exit()?.success());
    drop(pod);
    let report = tracer.report()?;

    let row = report.row(workload.pid(), cache)?.context("no row of the job")?;
    assert_eq!(as_counts(row)?, staying(900));
    let owner = &row["owner"];
    assert_eq!(
        (&owner["pod"], &owner["namespace"]),
        (&"job-1".into(), &"shop".into()),
        "{owner:#}"
    );
    assert_eq!(owner["container"], "leaker");
    assert_eq!((&owner["container_id"], &owner["pod_uid"]), (&id.into(), &uid.into()));
    assert_eq!((&owner["exited"], &owner["cgroup_removed"]), (&true.into(), &true.into()));
    Ok(())
}

#[test]
fn names_that_lie_are_not_used() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    let cache = class_512_of_messages()?;
    let root = tempfile::tempdir()?;
    let pod = Pod::make(root.path(), "web-0", 'd')?;
    fs::remove_dir_all(root.path().join("var/log/pods"))?;
    fs::remove_file(&pod.link)?;
    let logs = root.path().join("var/log/containers");
    for name in ["w\u{1b}[31mb_shop_leaker", "WEB_shop_leaker", "web_sh.op_leaker", "..;_x_y"] {
        fs::write(logs.join(format!("{name}-{}.log", pod.id)), "")?;
    }
    let mut workload = Workload::start(&["msg", "--count", "400"])?;
    pod.cgroup.join(workload.pid())?;
    let root_path = root.path().to_str().context("its path")?;
    let arguments = ["trace", "--size", "512", "--host-root", root_path, "--format", "json"];
    let tracer = Tracer::start_by(in_namespace(NODE, root.path(), &arguments)?)?;
    assert_eq!(workload.go("count")?, 400);
    let report = tracer.report()?;

    let row = report.row(workload.pid(), cache)?.context("no row of the workload")?;
    assert_eq!(as_counts(row)?, staying(400));
    assert_eq!(row["owner"]["pod"], pod.uid);
    assert_eq!(row["owner"]["namespace"], Value::Null);
    assert_eq!(row["owner"]["container"], pod.id);
    Ok(())
}

/// What kleak says of a workload in a cgroup when the host's root is at `$1`, after `script`.
fn from_within(unshare: &[&str], script: &str) -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    let cache = class_512_of_messages()?;
    let place = tempfile::tempdir()?;
    let place_path = place.path().to_str().context("its path")?;
    let cgroup = Cgroup::make(&format!("kleak-test-within-{}", std::process::id()))?;
    let mut workload = Workload::start(&["--comm", "outside", "msg", "--count", "1200"])?;
    cgroup.join(workload.pid())?;
    let script = format!(
        "set -e; mount --make-rprivate /; mount --rbind / \"$1\"; {script}; shift; exec \"$@\""
    );
    let mut command = Command::new("unshare");
    command.args(unshare).args(["--mount", "sh", "-c", &script, "sh", place_path]);
    command.arg(binary()?).args(["trace", "--size", "512", "--format", "json", "--top", "1000"]);
    command.args(["--stacks", "all", "--duration", "6s", "--host-root", place_path]);
    let tracer = Tracer::start_by(command)?;
    assert_eq!(workload.go("count")?, 1200);
    let own = report_of(tracer)?;
    let row = own.row(workload.pid(), cache)?.context("no row of the workload")?;
    assert_eq!(as_counts(row)?, staying(1200));
    let owner = &row["owner"];
    assert_eq!((&owner["comm"], &owner["exited"]), (&"outside".into(), &false.into()), "{owner:#}");
    assert_eq!(owner["cgroup"], cgroup.path());
    assert_eq!(owner["cgroup_removed"], false);
    let stacks = own.stacks_of(row)?;
    assert!(stacks.iter().any(|stack| holds_frame(stack, &["load_msg"])), "{stacks:#?}");
    let explained = own.number("/cost/map_bytes")?;
    assert!(explained > 0);
    // Neither kleak itself, nor anybody under a name that only its namespace knows.
    let comms = own.owners()?.iter().filter_map(|row| row["owner"]["comm"].as_str());
    let comms = comms.collect::<Vec<_>>();
    assert!(!comms.contains(&"kleak"), "{comms:?}");
    Ok(())
}

fn report_of(tracer: Tracer) -> Result<Report> {
    Report::parse(&tracer.finish()?.expect(0, &[])?)
}

#[test]
fn the_host_s_root_elsewhere_and_no_proc_of_its_own() -> Result<()> {
    from_within(&[], HIDE_PROC)
}

#[test]
fn the_host_s_root_elsewhere_and_a_pid_namespace_of_its_own() -> Result<()> {
    from_within(&["--pid", "--fork"], "mount -t proc none /proc")
}

#[test]
fn a_pid_namespace_of_its_own_without_the_host_s_root_is_refused() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc"]).arg(binary()?);
    command.args(["trace", "--size", "512", "--duration", "1s"]);
    run_command(command, PATIENCE)?.expect(3, &["pid namespace", "--host-root"])?;
    let empty = tempfile::tempdir()?;
    let mut command = Command::new(binary()?);
    command.args(["trace", "--size", "512", "--duration", "1s", "--host-root"]).arg(empty.path());
    run_command(command, PATIENCE)?.expect(3, &["--host-root", "hostPath"])?;
    Ok(())
}

#[test]
fn cgroups_are_counted_from_within() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    let place = tempfile::tempdir()?;
    let place_path = place.path().to_str().context("its path")?;
    let arguments = ["cgroups", "--duration", "1s", "--format", "json", "--host-root", place_path];
    let script = format!("mount --rbind / \"$1\"; {HIDE_PROC}");
    let within = run_command(in_namespace(&script, place.path(), &arguments)?, PATIENCE)?;
    let within: Value = serde_json::from_slice(&within.expect(0, &[])?.stdout)?;
    let direct = kleak_tests::harness::run(&["cgroups", "--duration", "1s", "--format", "json"])?;
    let direct: Value = serde_json::from_slice(&direct.expect(0, &[])?.stdout)?;
    assert_eq!(within["host"]["cgroup"], direct["host"]["cgroup"]);
    assert_eq!(within["schema"], direct["schema"]);
    assert_eq!(within["hierarchy"]["version"], direct["hierarchy"]["version"]);
    assert_eq!(within["host"]["kernel"], direct["host"]["kernel"]);
    // Others may make some between the two.
    let live = |report: &Value| report["cgroups"]["live"].as_u64().context("cgroups.live");
    let (within, direct) = (live(&within)?, live(&direct)?);
    ensure!(within > 0 && within.abs_diff(direct) < 5, "{within} and {direct} cgroups");
    Ok(())
}

/// podman with the storage it has, or on a machine where it is new, the driver that works everywhere.
struct Podman {
    program: PathBuf,
    runtime: PathBuf,
    vfs: bool,
    image: String,
    container: String,
    /// Cgroups that podman makes and does not remove, where they were not there before.
    parents: Vec<PathBuf>,
}

impl Podman {
    fn new(program: PathBuf, runtime: PathBuf) -> Self {
        let storage = Path::new("/var/lib/containers/storage");
        let vfs = !storage.join("overlay-containers").exists();
        let name = format!("kleak-test-{}", std::process::id());
        let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        let roots = hierarchies.map(|entry| entry.path()).chain([PathBuf::from("/sys/fs/cgroup")]);
        let parents = roots.map(|root| root.join("libpod_parent"));
        let parents = parents.filter(|parent| !parent.exists()).collect();
        let image = format!("localhost/{name}:1");
        Self { program, runtime, vfs, image, container: name, parents }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--cgroup-manager=cgroupfs").arg("--runtime").arg(&self.runtime);
        if self.vfs {
            command.arg("--storage-driver=vfs");
        }
        command
    }

    fn say(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.command();
        command.args(arguments);
        let finished = run_command(command, PATIENCE)?.expect(0, &[])?;
        Ok(finished.text()?.trim().to_owned())
    }

    /// An image of the workload and what it is linked to.
    fn import(&self) -> Result<()> {
        let root = tempfile::tempdir()?;
        let workload = workload_binary()?;
        let linked = Command::new("ldd").arg(&workload).output().context("ldd")?;
        let linked = String::from_utf8(linked.stdout)?;
        let libraries = linked.split_whitespace().filter(|word| word.starts_with('/'));
        for library in libraries {
            let place = root.path().join(library.trim_start_matches('/'));
            fs::create_dir_all(place.parent().context("a library's directory")?)?;
            fs::copy(library, place).with_context(|| library.to_owned())?;
        }
        fs::copy(&workload, root.path().join("workload"))?;
        let archive = root.path().join("image.tar");
        let status = Command::new("tar")
            .args(["--exclude=./image.tar", "-cf"])
            .arg(&archive)
            .arg("-C")
            .arg(root.path())
            .arg(".")
            .status()
            .context("tar")?;
        ensure!(status.success(), "tar: {status}");
        self.say(&["import", archive.to_str().context("its path")?, &self.image])?;
        Ok(())
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        for arguments in [
            ["rm", "--force", "--time=0", &self.container],
            ["rmi", "--force", "--ignore", &self.image],
        ] {
            let output = self.command().args(arguments).stdout(Stdio::null()).output();
            match output {
                Ok(output) if output.status.success() => {}
                other => shout(&format!("podman {arguments:?}: {other:?}")),
            }
        }
        for parent in self.parents.iter().filter(|parent| parent.exists()) {
            let conmon = parent.join("conmon");
            for directory in [&conmon, parent].into_iter().filter(|path| path.exists()) {
                if let Err(error) = fs::remove_dir(directory) {
                    shout(&format!("left behind: {}: {error}", directory.display()));
                }
            }
        }
    }
}

#[test]
fn a_real_container_has_its_name() -> Result<()> {
    let Some(_live) = require_live()? else {
        return Ok(());
    };
    let (Some(program), Some(runtime)) = (require_program("podman")?, require_program("runc")?)
    else {
        return Ok(());
    };
    let cache = class_512_of_messages()?;
    let podman = Podman::new(program, runtime);
    podman.import()?;
    let mut command = podman.command();
    // The host's queues, so that they are removed with the guard; limits that need no rights.
    command.args(["run", "--interactive", "--name", &podman.container, "--network=none"]);
    command.args(["--ipc=host", "--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"]);
    command.args([podman.image.as_str(), "/workload", "msg", "--count", "2500"]);
    let mut workload = Workload::spawn_by(command)?;
    workload.await_ready()?;
    let id = podman.say(&["inspect", "--format", "{{.Id}}", &podman.container])?;
    let pid: u32 =
        podman.say(&["inspect", "--format", "{{.State.Pid}}", &podman.container])?.parse()?;
    let folded = tempfile::NamedTempFile::new()?;
    let folded_path = folded.path().to_str().context("its path")?;
    let tracer = Tracer::json(&["--folded", folded_path])?;
    assert_eq!(workload.go("count")?, 2500);
    let report = tracer.report()?;

    let row = report.row(pid, cache)?.context("no row of the container's process")?;
    assert_eq!(as_counts(row)?, staying(2500));
    let owner = &row["owner"];
    assert_eq!(owner["container"], podman.container, "{owner:#}");
    assert_eq!(owner["container_id"], id);
    assert_eq!(owner["comm"], "workload");
    assert_eq!((&owner["pod"], &owner["namespace"]), (&Value::Null, &Value::Null));
    let summary = report.0["verdict"]["summary"].as_str().context("summary")?;
    assert!(summary.contains(&format!("container {}", podman.container)), "{summary}");
    let lines = fs::read_to_string(folded_path)?;
    let root = format!("[{}];workload-{pid};", podman.container);
    assert!(lines.lines().any(|line| line.starts_with(&root)), "{lines}");
    Ok(())
}

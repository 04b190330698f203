//! Runs kleak and the workloads, keeps them in step, cleans up.

mod bpf;
mod cgroup;
mod kleak;
mod output;
mod report;
mod slabs;
mod tracer;
mod workload;

use std::fs::File;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

pub use bpf::{Loaded, loaded_by};
pub use cgroup::{Cgroup, cgroup_hierarchy};
pub use kleak::{Finished, binary, run, run_command};
pub use output::shout;
pub use report::{Counts, Report};
pub use report::{as_counts, holds_frame};
pub use slabs::{Returned, class_512_of_filters, class_512_of_messages, in_use, settle};
pub use tracer::Tracer;
pub use workload::{Record, Workload, workload_binary};

/// How long anything that should be quick may take on a busy machine. Where processors are emulated
/// (see [`on_this_machine`]) all that waits waits longer.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A time limit made for a processor of its own, as it is on this machine: `KLEAK_TEST_SLOWNESS`
/// times as long.
pub fn on_this_machine(limit: Duration) -> Duration {
    static SLOWNESS: OnceLock<u32> = OnceLock::new();
    let slowness = SLOWNESS.get_or_init(|| {
        let set = std::env::var("KLEAK_TEST_SLOWNESS").ok();
        set.and_then(|slowness| slowness.parse().ok()).unwrap_or(1)
    });
    limit * *slowness
}

/// What a virtual machine of `cargo xtask vm` has besides its kernel: `cgroup-v2`, `cgroup-v1`,
/// `no-btf` or `no-trampolines`; `None` on a machine of one's own.
pub fn vm_variant() -> Option<String> {
    std::env::var("KLEAK_VM_VARIANT").ok()
}

/// Whether the kernel shows its types, without which kleak cannot look into its structs.
pub fn has_btf() -> bool {
    Path::new("/sys/kernel/btf/vmlinux").exists()
}

/// Says that a test has nothing to test on this kernel, and why. To be followed by `return Ok(())`:
/// `cargo xtask vm` counts the test as not applicable, and prints the reason below its table.
pub fn not_applicable(why: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    shout(&format!("NOT APPLICABLE {test}: {why}"));
}

/// The right to trace this machine: one test at a time, in whatever process it runs, because what
/// one test allocates is another one's noise.
#[derive(Debug)]
pub struct Live {
    _lock: File,
}

/// Waits for the machine, or says loudly that this test cannot run here and returns `None`. With
/// `CI` set, being unable is a failure.
pub fn require_live() -> Result<Option<Live>> {
    static UNABLE: OnceLock<Option<String>> = OnceLock::new();
    let Some(live) = require_root()? else {
        return Ok(None);
    };
    let unable = if let Some(unable) = UNABLE.get() {
        unable
    } else {
        let unable = why_not_live()?;
        UNABLE.get_or_init(|| unable)
    };
    Ok(able(unable.as_ref())?.then_some(live))
}

/// As [`require_live`], for tests that do without kleak.
pub fn require_root() -> Result<Option<Live>> {
    let root = nix::unistd::geteuid().is_root();
    if !able((!root).then(|| "it takes root".to_owned()).as_ref())? {
        return Ok(None);
    }
    let path = std::env::temp_dir().join("kleak-live-tests.lock");
    let lock = File::options()
        .create(true)
        .append(true)
        .open(&path)
        .with_context(|| path.display().to_string())?;
    lock.lock().with_context(|| format!("locking {}", path.display()))?;
    Ok(Some(Live { _lock: lock }))
}

/// The kleak binary for tests that attach nothing, or `None` as [`require_live`] does.
pub fn require_binary() -> Result<bool> {
    able(binary().err().map(|error| format!("{error:#}")).as_ref())
}

/// A program that a test runs, or `None` as [`require_live`] does. `cargo xtask test` installs it.
pub fn require_program(name: &str) -> Result<Option<std::path::PathBuf>> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/sbin"].map(std::path::PathBuf::from);
    let found = std::env::split_paths(&path)
        .chain(usual)
        .map(|directory| directory.join(name))
        .find(|program| program.is_file());
    let missing = found.is_none().then(|| format!("there is no {name} in PATH"));
    Ok(if able(missing.as_ref())? { found } else { None })
}

/// Whether kleak follows named caches here: wherever there is BTF it has to.
pub fn require_caches() -> Result<bool> {
    if !has_btf() {
        not_applicable("--cache needs BTF");
        return Ok(false);
    }
    let tried = run(&["trace", "--kind", "cache", "--duration", "1s", "--format", "json"])?;
    match tried.code() {
        Some(0) => Ok(true),
        Some(3) => able(Some(&tried.stderr.trim().to_owned())),
        _ => bail!("kleak trace --kind cache does not even run: {tried}"),
    }
}

/// Says loudly that the running test cannot run on this kernel, and why.
pub fn skip(why: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    shout(&format!("SKIPPED {test}: {why}"));
}

fn able(unable: Option<&String>) -> Result<bool> {
    let Some(why) = unable else { return Ok(true) };
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    if std::env::var_os("CI").is_some() {
        bail!("{test} has to run where CI is set, and cannot: {why}");
    }
    skip(why);
    Ok(false)
}

/// Why tests that trace cannot run here. A kleak that fails in any other way than by saying that
/// it cannot is no reason to skip.
fn why_not_live() -> Result<Option<String>> {
    if let Err(error) = binary() {
        return Ok(Some(format!("{error:#}")));
    }
    let tried = run(&["trace", "--size", "512", "--duration", "1s", "--format", "json"])?;
    match tried.code() {
        Some(0) => Ok(None),
        Some(3) => Ok(Some(tried.stderr.trim().to_owned())),
        _ => bail!("kleak trace does not even run: {tried}"),
    }
}

/// A tmpfs of a test's own, unmounted with its guard.
#[derive(Debug)]
pub struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    /// Mounts one.
    pub fn mount() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let none = None::<&str>;
        nix::mount::mount(
            none,
            directory.path(),
            Some("tmpfs"),
            nix::mount::MsFlags::empty(),
            none,
        )
        .context("mounting a tmpfs")?;
        Ok(Self(directory))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let flags = nix::mount::MntFlags::MNT_DETACH;
        if let Err(error) = nix::mount::umount2(self.0.path(), flags) {
            shout(&format!("left mounted: {}: {error}", self.0.path().display()));
        }
    }
}

/// Asks until the answer is `Some`, or the deadline has passed.
pub fn wait_for<T>(
    what: &str,
    patience: Duration,
    mut ask: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let patience = on_this_machine(patience);
    let deadline = Instant::now() + patience;
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if Instant::now() > deadline {
            bail!("no {what} within {patience:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

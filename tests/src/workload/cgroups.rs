//! Cgroups that are made, used and removed; those that pin something stay on as dying ones.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

use super::CgroupsArgs;
use super::protocol::{self, Order};

/// Bytes of a file that pins: well above what the kernel's per-CPU counters hold back, which in 5.10
/// is up to 128 KiB a cgroup and CPU.
const PIN: usize = 2 << 20;

/// `go`: makes cgroups, pins if asked to, and removes them; `drain`: deletes what pins.
pub(super) fn run(args: &CgroupsArgs) -> Result<()> {
    ensure!(!args.keep || args.pin.is_none(), "--keep and --pin exclude each other");
    // From the beginning, so that all is done from one cgroup.
    enter(&args.home)?;
    protocol::ready(&[])?;
    let mut made = 0;
    loop {
        match protocol::next()? {
            Order::Go(count) => {
                let count = count.unwrap_or(args.count);
                for _ in 0..count {
                    one(args, made)?;
                    made += 1;
                }
                protocol::say(&format!("done count={count}"))?;
            }
            Order::Drain => {
                let mut deleted = 0;
                for index in 0..made {
                    if let Some(file) = pin_file(args, index).filter(|file| file.exists()) {
                        fs::remove_file(&file).with_context(|| file.display().to_string())?;
                        deleted += 1;
                    }
                }
                protocol::say(&format!("drained count={deleted}"))?;
            }
            Order::Exit => return Ok(()),
            Order::Stop => bail!("nothing to stop"),
        }
    }
}

fn one(args: &CgroupsArgs, index: usize) -> Result<()> {
    let group = args.parent.join(format!("g{index}"));
    fs::create_dir(&group).with_context(|| group.display().to_string())?;
    if let Some(file) = pin_file(args, index) {
        enter(&group)?;
        let written = fs::File::create(&file).and_then(|mut file| file.write_all(&vec![1; PIN]));
        // Out again first, or the group could not be removed.
        enter(&args.home)?;
        written.with_context(|| file.display().to_string())?;
    }
    if !args.keep {
        fs::remove_dir(&group).with_context(|| group.display().to_string())?;
    }
    Ok(())
}

fn pin_file(args: &CgroupsArgs, index: usize) -> Option<PathBuf> {
    args.pin.as_ref().map(|directory| directory.join(format!("pin{index}")))
}

/// Moves this process.
fn enter(group: &Path) -> Result<()> {
    let procs = group.join("cgroup.procs");
    fs::write(&procs, std::process::id().to_string()).with_context(|| procs.display().to_string())
}

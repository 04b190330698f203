//! A command whose whole family leaves something behind.

use std::io::Write as _;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::{TreeArgs, protocol, remember};
use crate::sysv::Queues;

/// Sends, has the children run, and returns the exit status asked for.
pub(super) fn run(args: &TreeArgs, leave: bool) -> Result<u8> {
    let queues = Queues::for_messages(args.count, 512)?;
    remember(queues.ids());
    let line = format!("pid={} queues={}\n", std::process::id(), protocol::join(queues.ids()));
    std::fs::File::options()
        .append(true)
        .create(true)
        .open(&args.record)
        .and_then(|mut file| file.write_all(line.as_bytes()))
        .with_context(|| args.record.display().to_string())?;
    (0..args.count).try_for_each(|index| queues.send(index))?;
    if args.depth > 0 {
        for _ in 0..args.children {
            let status = Command::new(std::env::current_exe()?)
                .args(leave.then_some("--leave"))
                .args(["tree", "--count", &args.count.to_string()])
                .args(["--depth", &(args.depth - 1).to_string()])
                .args(["--children", &args.children.to_string()])
                .arg("--record")
                .arg(&args.record)
                .status()
                .context("a child")?;
            ensure!(status.success(), "a child ended with {status}");
        }
    }
    Ok(args.exit_code)
}

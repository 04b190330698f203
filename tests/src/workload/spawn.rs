//! Processes that do nothing but begin and end.

use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use super::SpawnArgs;
use super::protocol::{self, Order};

/// Starts `--count` of them at each `go`.
pub(super) fn run(args: &SpawnArgs) -> Result<()> {
    protocol::ready(&[])?;
    loop {
        match protocol::next()? {
            Order::Go(count) => {
                let count = count.unwrap_or(args.count);
                for _ in 0..count {
                    let status = Command::new("/bin/true").status().context("/bin/true")?;
                    ensure!(status.success(), "/bin/true ended with {status}");
                }
                protocol::say(&format!("done count={count}"))?;
            }
            Order::Exit => return Ok(()),
            order => bail!("{order:?}: not an order for processes"),
        }
    }
}

//! Attaches programs that do nothing to kleak's two hottest tracepoints, until it is ended: what
//! being attached costs by itself. For `cargo xtask bench`.

use std::io::{Write as _, stderr};

use anyhow::{Context as _, Result};
use kleak::probe::EmptyPrograms;

fn main() -> Result<()> {
    let programs = EmptyPrograms::attach().context("attaching the empty programs")?;
    // The bench waits for this line, as for kleak's own.
    writeln!(stderr(), "attached: programs that do nothing").context("standard error")?;
    nix::unistd::pause();
    drop(programs);
    Ok(())
}

//! What cargo alone cannot do for kleak: find or install the tool chain for the BPF side, build one
//! static file, run it as root, lint, test, and measure what tracing costs.

mod apt;
mod archive;
mod bench;
mod bpf;
mod build;
mod command;
mod files;
mod lint;
mod run;
mod say;
mod test;
mod toolchain;
mod vm;
mod workspace;

use std::{ffi::OsString, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::{bench::BenchArgs, build::Profile, vm::VmArgs, workspace::Workspace};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Find or install what builds the BPF side: a compiler with its library source, and bpf-linker
    Setup,
    /// Build target/release/kleak, one static file with its BPF programs inside
    Build {
        /// Build target/debug/kleak, faster to compile and slower to run
        #[arg(long)]
        debug: bool,
    },
    /// Build, then run kleak with these arguments, through sudo if need be
    Run {
        /// What to pass to kleak: `cargo xtask run -- trace --size 512 --duration 10s`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Formatting, clippy on both sides, and documentation, each with warnings denied
    Lint,
    /// Build, lint, and run every test, here and on the kernels of `vm`
    Test {
        /// Leave the lints out
        #[arg(long)]
        no_lint: bool,
        /// Leave the virtual machines out
        #[arg(long)]
        no_vm: bool,
    },
    /// Run the ground-truth tests on Debian's kernels from 5.10 to 7.2, in virtual machines
    Vm(VmArgs),
    /// Measure what tracing costs, beside memleak and nothing, in interleaved rounds
    Bench(BenchArgs),
}

fn main() -> ExitCode {
    let Cli { task } = Cli::parse();
    match perform(task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say::error(&error);
            ExitCode::FAILURE
        }
    }
}

fn perform(task: Task) -> anyhow::Result<()> {
    let workspace = Workspace::locate()?;
    match task {
        Task::Setup => {
            let toolchain = toolchain::find_or_install()?;
            say::step("setup", &format!("ready: {toolchain}"));
            Ok(())
        }
        Task::Build { debug } => {
            let profile = if debug { Profile::Debug } else { Profile::Release };
            let built = build::everything(&workspace, profile)?;
            say::step("build", &format!("left {}", built.executable.display()));
            Ok(())
        }
        Task::Run { args } => run::run(&workspace, &args),
        Task::Lint => lint::run(&workspace),
        Task::Test { no_lint, no_vm } => test::run(&workspace, !no_lint, !no_vm),
        Task::Vm(args) => {
            let tally = vm::run(&workspace, &args)?;
            anyhow::ensure!(tally.failed == 0, "{} of the matrix's cells failed", tally.failed);
            Ok(())
        }
        Task::Bench(args) => bench::run(&workspace, &args),
    }
}

//! Wires the command line to what it does.

use std::{io::Write as _, process::ExitCode};

use clap::Parser as _;
use kleak::{
    cgroups,
    cli::{self, Cli, Command},
    diff, doctor,
    export::output,
    recording,
    report::sanitize,
    trace::{self, Failure, Outcome},
};

/// Exit status: something that should work did not.
const FAILED: u8 = 1;
/// Exit status: the command line makes no sense. clap uses it too.
const USAGE: u8 = 2;
/// Exit status: this system or user cannot.
const CANNOT: u8 = 3;
/// Exit status: a `--fail-on` held.
const HELD: u8 = 4;

fn main() -> ExitCode {
    let command = match Cli::parse().command {
        Command::Completions { shell } => {
            return printed(cli::completions(shell, &mut std::io::stdout()));
        }
        Command::Man => return printed(cli::manual(&mut std::io::stdout())),
        command => command,
    };
    let filter = tracing_subscriber::EnvFilter::from_env("KLEAK_LOG");
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(FAILED, &format!("starting the event loop: {error}")),
    };
    let outcome = match &command {
        Command::Trace(args) => runtime.block_on(trace::run(args)),
        Command::Report(args) => recording::report(args),
        Command::Export(args) => recording::export(args),
        Command::Diff(args) => diff::run(args),
        Command::Cgroups(args) => runtime.block_on(cgroups::run(args)),
        Command::Doctor(args) => doctor::run(args),
        Command::Completions { .. } | Command::Man => Ok(Outcome::Done),
    };
    match outcome {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::ConditionHeld) => ExitCode::from(HELD),
        Ok(Outcome::Command(status)) => ExitCode::from(status),
        Ok(Outcome::Signal(number)) => {
            ExitCode::from(128_u8.saturating_add(u8::try_from(number).unwrap_or(u8::MAX)))
        }
        Err(Failure::Usage(why)) => fail(USAGE, &why),
        Err(Failure::Cannot(why)) => fail(CANNOT, &why),
        Err(Failure::Failed(why)) => fail(FAILED, &why),
    }
}

/// A reader that has gone had what it wanted.
fn printed(result: std::io::Result<()>) -> ExitCode {
    match output::broken_pipe_is_success(result) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(FAILED, &format!("writing to standard output: {error}")),
    }
}

/// Says why on stderr. Lines are kept, anything in them that could steer a terminal is not.
fn fail(status: u8, why: &str) -> ExitCode {
    let mut stderr = std::io::stderr().lock();
    for (number, line) in why.lines().enumerate() {
        let label = if number == 0 { "error: " } else { "" };
        drop(writeln!(stderr, "{label}{}", sanitize::terminal(line)));
    }
    ExitCode::from(status)
}

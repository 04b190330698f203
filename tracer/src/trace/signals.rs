//! Signals in a window: INT and TERM end it with a report, others end it with their number.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Failure;

/// What arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrived {
    /// INT or TERM: end the window and report.
    End,
    /// Another, by its number.
    Other(i32),
}

/// The signals listened to.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    others: Vec<(i32, Signal)>,
}

/// Signals whose default is to end the process, that people and service managers send.
const OTHERS: [i32; 4] = [libc::SIGHUP, libc::SIGQUIT, libc::SIGUSR1, libc::SIGUSR2];

impl Signals {
    /// Starts to listen. A signal that is ignored (as nohup does with HUP) stays so.
    ///
    /// Errors: the kernel refused a handler.
    pub(crate) fn listen() -> Result<Self, Failure> {
        let failed =
            |error: std::io::Error| Failure::Failed(format!("listening for signals: {error}"));
        let ignored = ignored();
        let mut others = Vec::new();
        for number in OTHERS {
            if ignored >> (number - 1) & 1 == 0 {
                others.push((number, signal(SignalKind::from_raw(number)).map_err(failed)?));
            }
        }
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
            others,
        })
    }

    /// Waits for the next one.
    pub(crate) async fn next(&mut self) -> Arrived {
        let others = &mut self.others;
        let other = std::future::poll_fn(|context| {
            for (number, stream) in others.iter_mut() {
                if stream.poll_recv(context).is_ready() {
                    return std::task::Poll::Ready(*number);
                }
            }
            std::task::Poll::Pending
        });
        tokio::select! {
            _ = self.interrupt.recv() => Arrived::End,
            _ = self.terminate.recv() => Arrived::End,
            number = other => Arrived::Other(number),
        }
    }
}

/// Signals this process was started to ignore, as a bit mask (`SigIgn` of `/proc/self/status`).
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

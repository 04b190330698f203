//! System V messages and semaphores.

use std::io;

use anyhow::{Context as _, Result, ensure};

use super::{Objects, check};
use crate::sysv::Queues;

/// Messages of one size, in queues that are removed with them.
pub(super) struct Messages {
    queues: Queues,
    sent: usize,
}

impl Messages {
    /// Room for some messages that fill objects of `size_class` bytes.
    pub(super) fn new(most: usize, size_class: usize) -> Result<Self> {
        let queues = Queues::for_messages(most, size_class)?;
        super::super::remember(queues.ids());
        Ok(Self { queues, sent: 0 })
    }
}

impl Objects for Messages {
    fn make(&mut self) -> Result<()> {
        self.queues.send(self.sent)?;
        self.sent += 1;
        Ok(())
    }

    fn destroy(&mut self) -> Result<usize> {
        let received = self.queues.drain()?;
        ensure!(received == std::mem::take(&mut self.sent), "{received} messages were there");
        Ok(received)
    }
}

/// Sets of semaphores.
#[derive(Default)]
pub(super) struct Semaphores(Vec<libc::c_int>);

impl Objects for Semaphores {
    fn make(&mut self) -> Result<()> {
        // SAFETY: takes and returns integers.
        let id = unsafe { libc::semget(libc::IPC_PRIVATE, 4, 0o600) };
        self.0.push(check(id).context("semget")?);
        Ok(())
    }

    fn destroy(&mut self) -> Result<usize> {
        let made = self.0.len();
        while let Some(id) = self.0.pop() {
            remove(id).context("semctl(IPC_RMID)")?;
        }
        Ok(made)
    }
}

impl Drop for Semaphores {
    fn drop(&mut self) {
        for id in self.0.drain(..) {
            drop(remove(id));
        }
    }
}

fn remove(id: libc::c_int) -> io::Result<()> {
    // SAFETY: IPC_RMID takes no fourth argument.
    check(unsafe { libc::semctl(id, 0, libc::IPC_RMID) }).map(drop)
}

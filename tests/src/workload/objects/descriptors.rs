//! Objects behind file descriptors.

use std::fs::File;
use std::io::{PipeReader, PipeWriter, Write as _, pipe};
use std::os::fd::OwnedFd;

use anyhow::{Context as _, Result};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};

use super::Objects;

/// Timers that are read from.
#[derive(Default)]
pub(super) struct Timerfds(Vec<TimerFd>);

impl Objects for Timerfds {
    fn make(&mut self) -> Result<()> {
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC);
        self.0.push(timer.context("timerfd_create")?);
        Ok(())
    }

    fn destroy(&mut self) -> Result<usize> {
        Ok(drop_all(&mut self.0))
    }
}

/// Descriptors waited for, all made beforehand.
pub(super) struct EpollItems {
    set: Epoll,
    descriptors: Vec<EventFd>,
    added: usize,
}

impl EpollItems {
    pub(super) fn new(most: usize) -> Result<Self> {
        let set = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("epoll_create")?;
        let descriptors = (0..most).map(|_| event()).collect::<Result<_>>()?;
        Ok(Self { set, descriptors, added: 0 })
    }
}

impl Objects for EpollItems {
    fn make(&mut self) -> Result<()> {
        let descriptor = self.descriptors.get(self.added).context("no more descriptors")?;
        let event = EpollEvent::new(EpollFlags::EPOLLIN, self.added as u64);
        self.set.add(descriptor, event).context("epoll_ctl(EPOLL_CTL_ADD)")?;
        self.added += 1;
        Ok(())
    }

    fn destroy(&mut self) -> Result<usize> {
        let added = std::mem::take(&mut self.added);
        for descriptor in &self.descriptors[..added] {
            self.set.delete(descriptor).context("epoll_ctl(EPOLL_CTL_DEL)")?;
        }
        Ok(added)
    }
}

/// Counters and signals to wait for.
#[derive(Default)]
pub(super) struct Events(Vec<(EventFd, SignalFd)>);

impl Objects for Events {
    fn make(&mut self) -> Result<()> {
        let signals = SignalFd::with_flags(&SigSet::empty(), SfdFlags::SFD_CLOEXEC);
        self.0.push((event()?, signals.context("signalfd")?));
        Ok(())
    }

    fn destroy(&mut self) -> Result<usize> {
        Ok(drop_all(&mut self.0))
    }
}

/// Files, all the same.
#[derive(Default)]
pub(super) struct Files(Vec<File>);

impl Objects for Files {
    fn make(&mut self) -> Result<()> {
        self.0.push(File::open("/dev/null").context("/dev/null")?);
        Ok(())
    }

    fn destroy(&mut self) -> Result<usize> {
        Ok(drop_all(&mut self.0))
    }
}

/// Pipes with some pages in them.
#[derive(Default)]
pub(super) struct Pipes(Vec<(PipeReader, PipeWriter)>);

impl Objects for Pipes {
    fn make(&mut self) -> Result<()> {
        let (reader, mut writer) = pipe().context("pipe")?;
        writer.write_all(&[0; 8192]).context("writing to a pipe")?;
        self.0.push((reader, writer));
        Ok(())
    }

    fn destroy(&mut self) -> Result<usize> {
        Ok(drop_all(&mut self.0))
    }
}

/// Files that live in memory, and their pages.
#[derive(Default)]
pub(super) struct Memory(Vec<OwnedFd>);

impl Objects for Memory {
    fn make(&mut self) -> Result<()> {
        let flags = nix::sys::memfd::MFdFlags::MFD_CLOEXEC;
        let file = nix::sys::memfd::memfd_create(c"kleak", flags).context("memfd_create")?;
        nix::unistd::write(&file, &[0; 4096]).context("writing to a memfd")?;
        self.0.push(file);
        Ok(())
    }

    fn destroy(&mut self) -> Result<usize> {
        Ok(drop_all(&mut self.0))
    }
}

fn event() -> Result<EventFd> {
    EventFd::from_flags(EfdFlags::EFD_CLOEXEC).context("eventfd")
}

/// Closes all, and says how many there were. The room for them is kept.
pub(super) fn drop_all<T>(all: &mut Vec<T>) -> usize {
    all.drain(..).count()
}

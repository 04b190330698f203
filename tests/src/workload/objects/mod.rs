//! Kernel objects of many kinds, made and destroyed by number: those that the kernel frees by RCU
//! or in bulk, which no tracepoint shows, beside others that it frees one by one.

mod descriptors;
mod inodes;
mod ipc;
mod keys;
mod names;
mod sockets;
mod storm;
mod timers;

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, Subcommand};
use nix::errno::Errno;
use nix::poll::PollTimeout;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::protocol::{self, Order};

pub(super) use inodes::{PRIVATE, private_tmpfs};

/// Descriptors, and timers, that are enough for every workload.
const MANY: u64 = 65_536;

/// Objects of one kind.
pub(super) trait Objects {
    /// Makes one more.
    fn make(&mut self) -> Result<()>;

    /// Destroys all there are, and says how many that was.
    fn destroy(&mut self) -> Result<usize>;
}

/// Workloads by what they make: `go` makes, `drain` destroys.
#[derive(Debug, Subcommand)]
pub(super) enum ObjectWork {
    /// timerfds: a `struct timerfd_ctx` each, freed by `kfree_rcu`
    Timerfd(ObjectArgs),
    /// Descriptors in an epoll set: a `struct epitem` each, freed by RCU
    Epoll(ObjectArgs),
    /// POSIX timers, of a cache of their own, freed by RCU
    Timers(ObjectArgs),
    /// Access control lists of files: a `struct posix_acl` each, freed by `kfree_rcu`
    Acl(ObjectArgs),
    /// Multicast groups joined on the loopback of a private network: an `ip_mc_list` and an
    /// `ip_mc_socklist` each, freed by `kfree_rcu`
    Mcast(ObjectArgs),
    /// Keys of 200 bytes: one kmalloc object of the 256 class each beside the key, freed by a worker
    Keys(ObjectArgs),
    /// Open files: a `struct file` each
    Files(ObjectArgs),
    /// Names in /proc that nobody has looked up: threads that sleep
    Threads(ObjectArgs),
    /// Many kinds at once by threads on all CPUs, for some time, until nothing is left
    Storm(storm::StormArgs),
}

#[derive(Debug, Args)]
pub(super) struct ObjectArgs {
    /// Objects for each `go` that does not say how many
    #[arg(long)]
    count: usize,
    /// On `go`, makes so many and destroys them, over and over until `stop`
    #[arg(long)]
    churn: bool,
    /// Milliseconds of rest after each round of `--churn`
    #[arg(long, default_value_t = 10)]
    rest_ms: u16,
}

/// Makes objects when told to.
pub(super) fn run(work: &ObjectWork) -> Result<()> {
    allow_many()?;
    match work {
        ObjectWork::Timerfd(args) => obey(args, descriptors::Timerfds::default()),
        ObjectWork::Epoll(args) => obey(args, descriptors::EpollItems::new(args.count)?),
        ObjectWork::Timers(args) => obey(args, timers::Timers::default()),
        ObjectWork::Acl(args) => {
            private_tmpfs()?;
            obey(args, inodes::Attributes::acls(args.count)?)
        }
        ObjectWork::Mcast(args) => {
            super::net::private_loopback()?;
            obey(args, sockets::Groups::new(args.count)?)
        }
        ObjectWork::Keys(args) => {
            obey(args, keys::Keys::new(&format!("kleak-{}", std::process::id())))
        }
        ObjectWork::Files(args) => obey(args, descriptors::Files::default()),
        ObjectWork::Threads(args) => obey(args, names::Threads::default()),
        ObjectWork::Storm(args) => storm::run(args),
    }
}

fn obey(args: &ObjectArgs, mut objects: impl Objects) -> Result<()> {
    if let Err(error) = objects.make() {
        return if is_missing(&error) {
            protocol::say(&format!("unable {error:#}"))
        } else {
            Err(error)
        };
    }
    objects.destroy()?;
    protocol::ready(&[])?;
    loop {
        match protocol::next()? {
            Order::Go(None) if args.churn => {
                let made = churn(args, &mut objects)?;
                protocol::say(&format!("done count={made}"))?;
            }
            Order::Go(count) => {
                let count = count.unwrap_or(args.count);
                for number in 0..count {
                    objects.make().with_context(|| format!("object {number}"))?;
                }
                protocol::say(&format!("done count={count}"))?;
            }
            Order::Drain => protocol::say(&format!("drained count={}", objects.destroy()?))?,
            // The order that ended the churning.
            Order::Stop if args.churn => {}
            Order::Stop => bail!("nothing to stop"),
            Order::Exit => {
                objects.destroy()?;
                return Ok(());
            }
        }
    }
}

/// Whether an error says that this kernel was built without something.
fn is_missing(error: &anyhow::Error) -> bool {
    let errno = error.chain().find_map(|cause| {
        let io = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error);
        io.or_else(|| cause.downcast_ref::<Errno>().map(|errno| *errno as i32))
    });
    matches!(errno, Some(libc::ENOSYS | libc::EOPNOTSUPP | libc::ENOPROTOOPT))
}

/// A negative result of a C function as the error it stands for.
pub(super) fn check<T: Default + PartialOrd>(result: T) -> std::io::Result<T> {
    if result < T::default() { Err(std::io::Error::last_os_error()) } else { Ok(result) }
}

fn churn(args: &ObjectArgs, objects: &mut impl Objects) -> Result<usize> {
    let mut made = 0;
    while !protocol::pending(PollTimeout::from(args.rest_ms))? {
        for _ in 0..args.count {
            objects.make().with_context(|| format!("object {made}"))?;
            made += 1;
        }
        let destroyed = objects.destroy()?;
        ensure!(destroyed == args.count, "{destroyed} of {} destroyed", args.count);
    }
    Ok(made)
}

/// Raises a limit, the hard one too where this process may, and says what it is now.
fn raise(limit: Resource) -> Result<u64> {
    let (_, hard) = getrlimit(limit)?;
    let wanted = hard.max(MANY);
    if setrlimit(limit, MANY, wanted).is_ok() {
        return Ok(MANY);
    }
    setrlimit(limit, hard, hard).with_context(|| format!("{limit:?}"))?;
    Ok(hard)
}

/// Lifts what would keep this process from having many descriptors, and timers, and has the kernel
/// make the table of descriptors now, before anybody counts.
fn allow_many() -> Result<()> {
    let most = raise(Resource::RLIMIT_NOFILE)?;
    // Each POSIX timer keeps a signal queued for it.
    raise(Resource::RLIMIT_SIGPENDING)?;
    let last = i32::try_from(most - 1)?;
    // SAFETY: takes and returns integers; nothing else in this process uses that descriptor.
    let result = unsafe { libc::dup2(0, last) };
    ensure!(result == last, "dup2: {}", std::io::Error::last_os_error());
    // SAFETY: the descriptor made above, which nobody else knows.
    let result = unsafe { libc::close(last) };
    ensure!(result == 0, "close: {}", std::io::Error::last_os_error());
    Ok(())
}

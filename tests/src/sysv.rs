//! System V message queues: the kernel keeps one object for every message, of a size the sender
//! chooses, for as long as nobody receives it, even when the sender has ended.

use std::fs;
use std::io;

use anyhow::{Context as _, Result, ensure};

/// Bytes of `struct msg_msg` before the text of a message.
const HEADER: usize = 48;

/// Longest text that stays in one object.
const LONGEST: usize = 4096 - HEADER;

/// A message as `msgsnd(2)` takes it.
#[derive(Debug)]
#[repr(C)]
struct Message {
    kind: libc::c_long,
    text: [u8; LONGEST],
}

/// Length of the text that makes a message fill an object of `size_class` bytes.
pub fn text_for(size_class: usize) -> Result<usize> {
    ensure!(
        size_class > HEADER && size_class - HEADER <= LONGEST,
        "no message fills an object of {size_class} bytes"
    );
    Ok(size_class - HEADER)
}

/// Makes a private queue.
pub fn create() -> Result<i32> {
    // SAFETY: takes and returns integers.
    let id = unsafe { libc::msgget(libc::IPC_PRIVATE, 0o600) };
    check(id).context("msgget")
}

/// Removes a queue and the messages in it. One that is already gone is fine.
pub fn remove(id: i32) -> Result<()> {
    // SAFETY: IPC_RMID ignores its third argument.
    let result = unsafe { libc::msgctl(id, libc::IPC_RMID, std::ptr::null_mut()) };
    match check(result) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EIDRM)) => Ok(()),
        other => other.map(|_| ()).with_context(|| format!("msgctl(IPC_RMID) of queue {id}")),
    }
}

/// Messages waiting in a queue.
pub fn waiting(id: i32) -> Result<u64> {
    // SAFETY: an all-zero `msqid_ds` is a valid value of that plain C struct.
    let mut state: libc::msqid_ds = unsafe { std::mem::zeroed() };
    // SAFETY: IPC_STAT writes one `msqid_ds` to the pointer, which is valid for that.
    let result = unsafe { libc::msgctl(id, libc::IPC_STAT, &raw mut state) };
    check(result).with_context(|| format!("msgctl(IPC_STAT) of queue {id}"))?;
    Ok(state.msg_qnum)
}

/// Queues that together hold a given number of messages of one length.
#[derive(Debug)]
pub struct Queues {
    ids: Vec<i32>,
    per_queue: usize,
    text: usize,
    message: Box<Message>,
}

impl Queues {
    /// Makes as many queues as `messages` messages of `size_class` need. On failure the ones made
    /// so far are removed.
    pub fn for_messages(messages: usize, size_class: usize) -> Result<Self> {
        let per_queue = messages_per_queue(size_class)?;
        let mut queues = Self::over(Vec::new(), size_class)?;
        queues.per_queue = per_queue;
        for _ in 0..messages.div_ceil(per_queue) {
            match create() {
                Ok(id) => queues.ids.push(id),
                Err(error) => {
                    queues.remove_all()?;
                    return Err(error);
                }
            }
        }
        Ok(queues)
    }

    /// Queues somebody else made.
    pub fn over(ids: Vec<i32>, size_class: usize) -> Result<Self> {
        let text = text_for(size_class)?;
        let message = Box::new(Message { kind: 1, text: [0x6b; LONGEST] });
        Ok(Self { ids, per_queue: 0, text, message })
    }

    /// Their ids.
    pub fn ids(&self) -> &[i32] {
        &self.ids
    }

    /// Sends the message number `index` of those there is room for.
    pub fn send(&self, index: usize) -> Result<()> {
        let id =
            self.ids.get(index / self.per_queue.max(1)).context("no queue for this message")?;
        // SAFETY: the pointer is to a `long` followed by at least `text` bytes.
        let result = unsafe {
            libc::msgsnd(*id, (&raw const *self.message).cast(), self.text, libc::IPC_NOWAIT)
        };
        check(result).with_context(|| format!("msgsnd to queue {id}"))?;
        Ok(())
    }

    /// Sends one by a call that is handed the queue, the message and the length of its text, and returns
    /// what the kernel does.
    pub fn send_by(
        &self,
        index: usize,
        call: impl FnOnce(i32, *const libc::c_void, usize) -> i64,
    ) -> Result<()> {
        let id =
            self.ids.get(index / self.per_queue.max(1)).context("no queue for this message")?;
        let result = call(*id, (&raw const *self.message).cast(), self.text);
        if result < 0 {
            let error = io::Error::from_raw_os_error(i32::try_from(-result)?);
            return Err(error).with_context(|| format!("msgsnd to queue {id}"));
        }
        Ok(())
    }

    /// Receives one message of the queue that holds message number `index`; false when empty.
    pub fn receive(&mut self, index: usize) -> Result<bool> {
        let id = *self.ids.get(index / self.per_queue.max(1)).context("no such queue")?;
        self.receive_from(id)
    }

    /// Receives all there is in all of them, and says how many that was.
    pub fn drain(&mut self) -> Result<usize> {
        let mut received = 0;
        for id in self.ids.clone() {
            while self.receive_from(id)? {
                received += 1;
            }
        }
        Ok(received)
    }

    /// Removes all of them with what they hold.
    pub fn remove_all(&mut self) -> Result<()> {
        for id in self.ids.drain(..) {
            remove(id)?;
        }
        Ok(())
    }

    fn receive_from(&mut self, id: i32) -> Result<bool> {
        // SAFETY: the pointer is to a `long` followed by `LONGEST` writable bytes.
        let length = unsafe {
            libc::msgrcv(id, (&raw mut *self.message).cast(), LONGEST, 0, libc::IPC_NOWAIT)
        };
        if length >= 0 {
            return Ok(true);
        }
        match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ENOMSG) => Ok(false),
            error => Err(error).with_context(|| format!("msgrcv from queue {id}")),
        }
    }
}

/// Messages of `size_class` that one queue may hold.
pub fn messages_per_queue(size_class: usize) -> Result<usize> {
    let text = text_for(size_class)?;
    let messages = queue_bytes()? / text;
    ensure!(messages > 0, "kernel.msgmnb is too small for one message of {text} bytes");
    Ok(messages)
}

/// Where the kernel has the limit that [`queue_bytes`] reads.
pub const QUEUE_BYTES: &str = "/proc/sys/kernel/msgmnb";

/// Bytes of text a queue made from now on may hold.
pub fn queue_bytes() -> Result<usize> {
    let text = fs::read_to_string(QUEUE_BYTES).context(QUEUE_BYTES)?;
    text.trim().parse().with_context(|| format!("{QUEUE_BYTES}: {text:?}"))
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

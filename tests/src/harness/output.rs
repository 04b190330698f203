//! Words for whoever runs the tests, and for whoever reads why one failed.

use std::io::{Read, Write as _};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;

/// Says something even where the test runner captures what tests print.
pub fn shout(line: &str) {
    // The runner replaces what `eprintln!` writes to, not standard error itself.
    drop(writeln!(std::io::stderr().lock(), "{line}"));
}

/// Reads a pipe to its end in a thread of its own.
pub(super) fn collect(mut pipe: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read before an error is still worth showing.
        drop(pipe.read_to_end(&mut bytes));
        bytes
    })
}

/// Reads lines in a thread of its own; the channel closes at the end of the pipe.
pub(super) fn lines(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        use std::io::BufRead as _;
        let mut pipe = std::io::BufReader::new(pipe);
        let mut line = Vec::new();
        while pipe.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            let text = String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned();
            if sender.send(text).is_err() {
                return;
            }
            line.clear();
        }
    });
    receiver
}

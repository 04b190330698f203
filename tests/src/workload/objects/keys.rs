//! Keys, which a kernel thread frees some time after nobody has them any more.

use std::ffi::CString;

use anyhow::{Context as _, Result};

use super::{Objects, check};

/// `keyctl(2)` operation that takes a key off a keyring.
const KEYCTL_UNLINK: libc::c_long = 9;
/// The keyring of this process (`include/uapi/linux/keyctl.h`).
const PROCESS_KEYRING: libc::c_long = -2;

/// Keys of the type `user`, whose text of 200 bytes lies, after 24 of the kernel's own, in an object
/// of the 256 class.
pub(super) struct Keys {
    prefix: String,
    made: Vec<libc::c_long>,
    number: usize,
}

impl Keys {
    /// Keys whose names begin so: a name used twice is one key.
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned(), made: Vec::new(), number: 0 }
    }
}

impl Objects for Keys {
    fn make(&mut self) -> Result<()> {
        let name = CString::new(format!("{}-{}", self.prefix, self.number))?;
        self.number += 1;
        let text = [b'k'; 200];
        // SAFETY: strings that end in NUL, and a live buffer with its length, are only read.
        let key = unsafe {
            libc::syscall(
                libc::SYS_add_key,
                c"user".as_ptr(),
                name.as_ptr(),
                text.as_ptr(),
                text.len(),
                PROCESS_KEYRING,
            )
        };
        self.made.push(check(key).context("add_key")?);
        Ok(())
    }

    fn destroy(&mut self) -> Result<usize> {
        let made = self.made.len();
        for key in self.made.drain(..) {
            // SAFETY: takes and returns integers.
            let result =
                unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_UNLINK, key, PROCESS_KEYRING) };
            check(result).context("keyctl(KEYCTL_UNLINK)")?;
        }
        Ok(made)
    }
}

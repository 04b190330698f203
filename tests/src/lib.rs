//! Ground-truth tests of kleak: processes that leave an exactly known number of kernel objects
//! behind, and the means to run the tool beside them and read what it says.
//!
//! - [`workload`] is the other side, run as the binary `kleak-workload`.
//! - [`harness`] starts both, keeps them in step by the lines they print, and cleans up.

pub mod harness;
pub mod sysv;
pub mod workload;

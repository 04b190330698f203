//! What crosses the boundary between kleak's BPF programs and its user side: the records that
//! live in BPF maps, and the settings that are fixed when the programs are loaded.
//!
//! Every type is `repr(C)` with no implicit padding (the verifier refuses to copy uninitialised
//! bytes into a map, and so would the truth), and its size is asserted here.
#![no_std]

mod record;
mod settings;
mod stack;
mod state;
mod table;

pub use record::*;
pub use settings::*;
pub use stack::*;
pub use state::*;
pub use table::*;

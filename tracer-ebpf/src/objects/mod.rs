//! The outstanding objects, by address.
//!
//! An address has one owner at a time, so that whoever enters or removes an object is alone with it;
//! others are at work in the same places at the same time.

#[cfg(not(feature = "table"))]
mod hash;
#[cfg(feature = "table")]
mod table;

use kleak_common::Object;

#[cfg(not(feature = "table"))]
pub(crate) use hash::{enter, find, remove};
#[cfg(feature = "table")]
pub(crate) use table::{enter, find, remove};

/// What became of an object that was to be entered.
pub(crate) enum Entered {
    /// It is in.
    New,
    /// There is one of that address, which is left as it is.
    Held(*mut Object),
    /// There is no room.
    Full,
    /// The map was in use by what this interrupts.
    #[cfg_attr(feature = "table", expect(dead_code, reason = "only a hash has locks"))]
    Busy,
}

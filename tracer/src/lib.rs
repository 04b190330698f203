//! kleak: names the process, service or pod that owns growing kernel memory.
//!
//! A fact flows one way: kernel event, BPF map, [`snapshot`], [`resolve`], [`analyse`],
//! [`report`] and [`export`]. Only [`probe`] knows aya; everything after the snapshot is pure and
//! tested without root.

pub mod analyse;
pub mod cgroups;
pub mod cli;
pub mod diff;
pub mod doctor;
pub mod export;
pub mod host;
pub mod judge;
pub mod probe;
pub mod progress;
pub mod recording;
pub mod report;
pub mod resolve;
pub mod snapshot;
pub mod trace;

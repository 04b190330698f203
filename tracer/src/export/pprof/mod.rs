//! A pprof profile, for `go tool pprof`, Grafana Pyroscope and Parca.
//!
//! Stacks hold functions alone, and begin past the allocator, so that `-top` names who called it. Owner and
//! slab cache are labels: `-tags` lists them, `-tagfocus` selects by them, and `-tagroot` and `-tagleaf` make
//! frames of them.
//!
//! pprof adds up whatever samples have a value of the type that is shown. So memory of each of several books
//! has types of its own: nothing adds pages to the slab memory that is made of them.

mod build;
mod proto;
mod tables;
#[cfg(test)]
mod tests;

use std::io::{self, Write as _};

use flate2::{Compression, GzBuilder};
use prost::Message as _;

use super::{Exhibit, Exporter};

/// The pprof format as an [`Exporter`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Pprof;

impl Exporter for Pprof {
    /// Writes a gzip'd `Profile`, the same bytes for the same findings.
    fn write(&self, what: &Exhibit<'_>, w: &mut dyn io::Write) -> io::Result<()> {
        let profile = build::profile(what);
        let mut gzip = GzBuilder::new().write(w, Compression::default());
        gzip.write_all(&profile.encode_to_vec())?;
        gzip.finish().map(drop)
    }
}

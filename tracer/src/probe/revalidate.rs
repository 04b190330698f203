//! Asking the kernel whether objects that look outstanding are still there. A free that went unseen
//! leaves an entry; once its page has gone back to the page allocator, the page's own record says that
//! the object cannot be where it was.

use std::time::{Duration, Instant};

use aya::{
    Ebpf,
    programs::{RawTracePoint, RawTracePointRunOptions, TestRun as _},
};
use hashbrown::HashMap;
use kleak_common::{Site, kind, lies_in};

use super::{Error, Probe, read, sys};

/// Objects younger than this are left alone: what was handed to RCU may wait so long.
const SETTLED_NS: u64 = 6_000_000_000;
/// Objects asked about at a time, at most.
const SUSPECTS: usize = 65_536;
/// How long asking may take.
const PATIENCE: Duration = Duration::from_millis(250);

/// An object, and the slab cache that its page has to be of.
struct Suspect {
    address: u64,
    born_ns: u64,
    site: u64,
    slab: u64,
}

impl Probe {
    /// Takes objects out whose page is of their slab cache no more, and remembers with their sites how
    /// many. Those of pages that still are may be freed all the same: nobody can tell.
    ///
    /// Errors: a map cannot be read.
    pub fn revalidate(&mut self) -> Result<(), Error> {
        if !self.knows_caches() {
            return Ok(());
        }
        let suspects = self.suspects()?;
        let end = Instant::now() + PATIENCE;
        let mut found = 0_u64;
        for suspect in &suspects {
            if Instant::now() > end {
                break;
            }
            if ask(&self.ebpf, suspect) == Some(lies_in::NO) {
                *self.found_freed.entry(suspect.site).or_insert(0) += self.scale(kind::CACHE);
                found += 1;
            }
        }
        tracing::debug!(asked = suspects.len(), found, "objects asked about, and found freed");
        Ok(())
    }

    fn suspects(&self) -> Result<Vec<Suspect>, Error> {
        let mut slabs: HashMap<u64, u64> = HashMap::new();
        sys::walk(self.fd("SITES")?, 8, size_of::<Site>(), |key, site| {
            if let (Some(key), Some(site)) = (sys::record::<u64>(key), sys::record::<Site>(site))
                && site.slab != 0
            {
                slabs.insert(key, site.slab);
            }
        })
        .map_err(|error| read::map_error("SITES", &error))?;
        let before = read::now_ns().saturating_sub(SETTLED_NS);
        let mut suspects = Vec::new();
        self.objects.each(&self.ebpf, |address, object| {
            let Some(&slab) = slabs.get(&object.site) else { return };
            if object.born_ns < before
                && self.follows(address, kind::CACHE)
                && suspects.len() < SUSPECTS
            {
                let (born_ns, site) = (object.born_ns, object.site);
                suspects.push(Suspect { address, born_ns, site, slab });
            }
        })?;
        Ok(suspects)
    }
}

/// One of [`lies_in`]; `None` when the kernel does not let a program be run so.
fn ask(ebpf: &Ebpf, suspect: &Suspect) -> Option<u32> {
    let program: &RawTracePoint = ebpf.program("revalidate")?.try_into().ok()?;
    let mut options = RawTracePointRunOptions::new();
    options.args[0] = suspect.address;
    options.args[1] = suspect.slab;
    options.args[2] = suspect.site;
    options.args[3] = suspect.born_ns;
    program.test_run(options).ok().map(|result| result.return_value)
}

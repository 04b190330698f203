//! Slab caches: which there are, and which are wanted.

use aya::{
    maps::HashMap as BpfHashMap,
    programs::{RawTracePoint, RawTracePointRunOptions, TestRun as _},
};
use hashbrown::HashMap;
use kleak_common::{Cache, learn};

use super::{
    Error, Probe,
    read::{cache_name, map_error, missing},
    sys,
};

/// Caches on the kernel's list that are looked at, at most; a kernel has some 250 to 450.
pub(super) const MOST: usize = 1_000;

impl Probe {
    /// Enters every slab cache there is, before counting starts: only so are frees of older objects
    /// counted from the first on. Those that `wanted` does not name are not counted. Where the list cannot
    /// be read, caches are entered as they are met, and such frees are not known.
    ///
    /// Errors: the map cannot be read or written.
    pub fn learn_caches(&mut self, wanted: impl Fn(&str) -> bool) -> Result<(), Error> {
        let Some(list) = self.slab_caches else { return Ok(()) };
        self.caches_known = (0..MOST).find_map(|_| match self.learn_cache(list) {
            Some(learn::MORE) => None,
            answer => Some(answer == Some(learn::DONE)),
        }) == Some(true);
        for (address, cache) in self.read_caches()? {
            if !wanted(&cache_name(&cache)) {
                self.forget_older(address)?;
            }
        }
        tracing::debug!(all = self.caches_known, "slab caches entered");
        Ok(())
    }

    /// One of [`learn`]; `None` when the kernel does not let a program be run so.
    fn learn_cache(&self, list: u64) -> Option<u32> {
        let program: &RawTracePoint = self.ebpf.program("learn_cache")?.try_into().ok()?;
        let mut options = RawTracePointRunOptions::new();
        options.args[0] = list;
        program.test_run(options).ok().map(|result| result.return_value)
    }

    fn forget_older(&mut self, cache: u64) -> Result<(), Error> {
        let map = self.ebpf.map_mut("OLDER").ok_or_else(|| missing("OLDER"))?;
        let mut older: aya::maps::PerCpuHashMap<_, u64, u64> =
            aya::maps::PerCpuHashMap::try_from(map).map_err(|error| map_error("OLDER", &error))?;
        // One that is gone is what was wanted.
        drop(older.remove(&cache));
        Ok(())
    }

    /// Calls `decide` for each slab cache not decided on yet, by name, and tells the kernel side.
    ///
    /// Errors: the map cannot be read or written.
    pub fn decide_caches(&mut self, decide: impl Fn(&str) -> bool) -> Result<(), Error> {
        use kleak_common::cache_state::{REJECTED, SELECTED, UNDECIDED};
        if !self.caches {
            return Ok(());
        }
        for (address, mut cache) in self.read_caches()? {
            if cache.state != UNDECIDED {
                continue;
            }
            cache.state = if decide(&cache_name(&cache)) { SELECTED } else { REJECTED };
            let map = self.ebpf.map_mut("CACHES").ok_or_else(|| missing("CACHES"))?;
            let mut map: BpfHashMap<_, u64, Cache> =
                BpfHashMap::try_from(map).map_err(|error| map_error("CACHES", &error))?;
            map.insert(address, cache, 0).map_err(|error| map_error("CACHES", &error))?;
        }
        Ok(())
    }

    pub(super) fn read_caches(&self) -> Result<HashMap<u64, Cache>, Error> {
        let mut caches = HashMap::new();
        sys::walk(self.fd("CACHES")?, 8, size_of::<Cache>(), |key, value| {
            if let (Some(key), Some(cache)) = (sys::record(key), sys::record(value)) {
                caches.insert(key, cache);
            }
        })
        .map_err(|error| map_error("CACHES", &error))?;
        Ok(caches)
    }
}

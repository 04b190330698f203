//! The files that findings are exported to, all open before the first is needed.

use std::path::PathBuf;

use super::{
    Exhibit, Format,
    output::{Output, OutputError, Undelivered},
};

/// Files to be written when there is something to write.
#[derive(Debug, Default)]
pub struct Files(Vec<(Format, Output)>);

impl Files {
    /// Opens them: nothing changes before [`Files::write`].
    ///
    /// Errors: one of them cannot be written.
    pub fn open(wanted: &[(Format, PathBuf)]) -> Result<Self, OutputError> {
        let open = |(format, path): &(Format, PathBuf)| Ok((*format, Output::create(path)?));
        wanted.iter().map(open).collect::<Result<_, _>>().map(Self)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Writes them all and puts them in place; that one fails costs none but that.
    ///
    /// Errors: the first that failed.
    pub fn write(self, what: &Exhibit<'_>) -> Result<(), Undelivered> {
        let write = |(format, output): (Format, Output)| {
            output.deliver(format.name(), |output| format.exporter().write(what, output))
        };
        // All of them are tried before one counts.
        let results: Vec<_> = self.0.into_iter().map(write).collect();
        results.into_iter().collect()
    }
}

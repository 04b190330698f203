//! The files that findings are exported to, all open before the first is needed.

use std::{io, path::PathBuf};

use super::{
    Exhibit, Format,
    output::{Output, OutputError},
};

/// Why an export failed.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// Its format could not be written.
    #[error("writing {}: {source}", format.name())]
    Write {
        /// Which.
        format: Format,
        /// Why.
        source: io::Error,
    },
    /// It could not be put in place.
    #[error(transparent)]
    Output(#[from] OutputError),
}

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

    /// Writes them all and puts them in place; a reader that has gone had what it wanted.
    ///
    /// Errors: the first that failed. Those before it are in place, those after it as they were.
    pub fn write(self, what: &Exhibit<'_>) -> Result<(), ExportError> {
        for (format, mut output) in self.0 {
            match format.exporter().write(what, &mut output) {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => continue,
                Err(source) => return Err(ExportError::Write { format, source }),
                Ok(()) => (),
            }
            match output.finish() {
                Err(error) if error.is_broken_pipe() => (),
                other => other?,
            }
        }
        Ok(())
    }
}

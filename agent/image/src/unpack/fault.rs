//! Why a layer cannot be unpacked, before it is known what the layer is called.

use std::io;

use crate::Error;

/// A fault of an archive or of the disk below it; [`Fault::named`] makes it an [`Error`].
#[derive(Debug)]
pub(crate) enum Fault {
    /// The archive is malformed or hostile.
    Corrupt(String),
    /// The archive uses what we do not have.
    Unsupported(String),
    /// A limit is reached.
    TooLarge { what: String, limit: u64, unit: &'static str },
    /// A system call or the source of the bytes failed.
    Io { operation: String, source: io::Error },
}

impl Fault {
    /// The error, with the name of the layer in it.
    pub(crate) fn named(self, object: &str) -> Error {
        match self {
            Self::Corrupt(reason) => Error::corrupt(object, reason),
            Self::Unsupported(reason) => Error::unsupported(object, reason),
            Self::TooLarge { what, limit, unit } => {
                Error::TooLarge { object: format!("{object}: {what}"), limit, unit }
            }
            Self::Io { operation, source } => Error::io(format!("{object}: {operation}"), source),
        }
    }

    /// A failed system call on an entry.
    pub(crate) fn call(call: &str, path: &[u8], error: impl Into<io::Error>) -> Self {
        Self::Io { operation: format!("{call} {}", show(path)), source: error.into() }
    }

    /// A failed read from the archive. Decoders report malformed input as `InvalidData` or `InvalidInput`.
    pub(crate) fn read(source: io::Error) -> Self {
        if let Some(TooMuch(limit)) = source.get_ref().and_then(|inner| inner.downcast_ref()) {
            return Self::TooLarge { what: "decompressed archive".into(), limit: *limit, unit: "bytes" };
        }
        match source.kind() {
            io::ErrorKind::UnexpectedEof => Self::Corrupt("the archive ends in the middle".into()),
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::Other
                if source.raw_os_error().is_none() =>
            {
                Self::Corrupt(format!("cannot be decompressed: {source}"))
            }
            _ => Self::Io { operation: "read the archive".into(), source },
        }
    }
}

/// A stream had more bytes than this; travels through the decoders inside an [`io::Error`].
#[derive(Debug, thiserror::Error)]
#[error("more than {0} bytes")]
pub(crate) struct TooMuch(pub u64);

/// A path of an archive, fit for a message: escaped and cut.
pub(crate) fn show(path: &[u8]) -> String {
    const LONGEST: usize = 200;
    let cut = &path[..path.len().min(LONGEST)];
    let dots = if path.len() > LONGEST { "..." } else { "" };
    format!("\"{}{dots}\"", cut.escape_ascii())
}

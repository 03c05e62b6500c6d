//! The one error of the native core: which operation failed, on what, and the kernel's errno.

use std::io;

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// A failed operation. `Display` reads like `write 100000 to /proa/x/cpu.max: Invalid argument`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error("{operation} {path}: {}", reason(source))]
    Os {
        /// What was tried: `mount overlay at`, `write 100000 to`.
        operation: String,
        /// The path or name it was tried on.
        path: String,
        source: io::Error,
    },
    /// Bad input, found before any call: malformed archive, unknown syscall name, bad address.
    #[error("{0}")]
    Invalid(String),
}

impl Error {
    /// An [`Error::Os`] from anything that turns into an `io::Error`.
    pub fn os(operation: impl Into<String>, path: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Os { operation: operation.into(), path: path.into(), source: source.into() }
    }

    /// The errno, 0 where no call failed.
    #[must_use]
    pub fn errno(&self) -> i32 {
        match self {
            Self::Os { source, .. } => source.raw_os_error().unwrap_or(0),
            Self::Invalid(_) => 0,
        }
    }
}

/// The kernel's word alone: `Invalid argument`, without the number that the standard library adds.
fn reason(source: &io::Error) -> String {
    let text = source.to_string();
    text.split_once(" (os error ").map_or(text.as_str(), |(word, _)| word).to_string()
}

#[cfg(test)]
mod tests {
    use super::Error;

    #[test]
    fn an_error_reads_as_documented() {
        let error = Error::os("write 100000 to", "/proa/x/cpu.max", rustix::io::Errno::INVAL);
        assert_eq!(error.to_string(), "write 100000 to /proa/x/cpu.max: Invalid argument");
        assert_eq!(error.errno(), libc::EINVAL);
    }
}

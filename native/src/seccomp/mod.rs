//! seccomp: Docker's JSON profiles compiled to classic BPF.
//!
//! A profile is resolved for one host and one set of capabilities (profile.rs) and compiled (compile.rs) into a
//! program that finds a call's fate by binary search over ranges of call numbers. Nothing is loaded here: the
//! child does that, with bytes that were compiled when the container was created.
//!
//! Sources: seccomp(2), the kernel's userspace-api/seccomp_filter.rst; for the format moby's profiles/seccomp
//! and the OCI runtime specification, config-linux.md.

mod assemble;
mod compile;
mod profile;
mod syscalls;
#[cfg(test)]
mod tests;

use crate::error::{Error, Result};

/// The built-in profile, as Docker's JSON: Docker's published default, its lists restricted to the
/// architectures proa runs on. It differs where the published one leaves a way to `AF_ALG`: `socketcall` of
/// 32-bit programs does not open sockets.
const DEFAULT_PROFILE: &str = include_str!("default.json");

/// A native architecture, each with the 32-bit ones that its kernel runs as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    X86_64,
    Aarch64,
}

impl Architecture {
    /// By the kernel's or Go's name; empty: this host's.
    pub fn named(name: &str) -> Result<Self> {
        let name = if name.is_empty() { std::env::consts::ARCH } else { name };
        match name {
            "x86_64" | "amd64" => Ok(Self::X86_64),
            "aarch64" | "arm64" => Ok(Self::Aarch64),
            other => Err(Error::Invalid(format!("no seccomp support for architecture {other:?}"))),
        }
    }
}

/// Compile a Docker JSON profile (`None`: the built-in default) to a classic BPF program, eight bytes an
/// instruction, in host byte order.
///
/// `capabilities` is the container's bounding set; it and this host's kernel decide the conditional rules.
pub fn compile(profile: Option<&[u8]>, capabilities: u64, architecture: &str) -> Result<Vec<u8>> {
    let text = profile.unwrap_or(DEFAULT_PROFILE.as_bytes());
    let conditions = profile::Conditions {
        capabilities,
        kernel: profile::host_kernel(),
        architecture: Architecture::named(architecture)?,
    };
    let filter = profile::resolve(text, &conditions)?;
    let program = compile::program(&filter)?;
    Ok(program.iter().flat_map(|instruction| instruction.to_bytes()).collect())
}

//! Capabilities: their names and bits, and which of them this host has to give.
//!
//! Source: capabilities(7), the kernel's uapi/linux/capability.h.

use std::fs;

use crate::error::{Error, Result};

/// Names by bit, without `CAP_`. The kernel has added none since 5.9.
pub const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The bit of a capability, named with or without `CAP_`, in any case.
#[must_use]
pub fn capability_bit(name: &str) -> Option<u32> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    CAPABILITIES.iter().position(|known| *known == bare).map(|bit| bit as u32)
}

/// The names in a mask, with `CAP_`, by bit.
#[must_use]
pub fn capability_names(mask: u64) -> Vec<String> {
    let set = |bit: &usize| mask >> bit & 1 == 1;
    (0..CAPABILITIES.len()).filter(set).map(|bit| format!("CAP_{}", CAPABILITIES[bit])).collect()
}

/// What this process may hand on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostCapabilities {
    pub permitted: u64,
    pub effective: u64,
    /// Nothing outside of it can ever be gained.
    pub bounding: u64,
}

/// The masks of the calling thread.
pub fn host_capabilities() -> Result<HostCapabilities> {
    let path = "/proc/thread-self/status";
    let text = fs::read_to_string(path).map_err(|e| Error::os("read", path, e))?;
    parse_status(&text).ok_or_else(|| Error::Invalid(format!("no capability masks in {path}")))
}

fn parse_status(text: &str) -> Option<HostCapabilities> {
    let mask = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        u64::from_str_radix(line.trim(), 16).ok()
    };
    Some(HostCapabilities {
        permitted: mask("CapPrm:")?,
        effective: mask("CapEff:")?,
        bounding: mask("CapBnd:")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_bits_agree() {
        assert_eq!(capability_bit("CAP_SYS_ADMIN"), Some(21));
        assert_eq!(capability_bit("net_raw"), Some(13));
        assert_eq!(capability_bit("CAP_CHECKPOINT_RESTORE"), Some(40));
        assert_eq!(capability_bit("CAP_NOSUCH"), None);
        assert_eq!(capability_names(1 | 1 << 40), ["CAP_CHOWN", "CAP_CHECKPOINT_RESTORE"]);
        for (bit, name) in CAPABILITIES.iter().enumerate() {
            assert_eq!(capability_bit(name), Some(bit as u32));
        }
    }

    #[test]
    fn masks_are_read_from_proc() {
        let text =
            "Name:\tx\nCapInh:\t0000000000000000\nCapPrm:\t000001ffffffffff\nCapEff:\t0000000000000001\n\
            CapBnd:\t00000000a80425fb\nCapAmb:\t0\n";
        let want = HostCapabilities { permitted: 0x1ff_ffff_ffff, effective: 1, bounding: 0xa804_25fb };
        assert_eq!(parse_status(text), Some(want));
        assert!(host_capabilities().is_ok());
    }
}

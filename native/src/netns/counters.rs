//! Counters of the interfaces that a process sees, read from /proc/PID/net/dev.

use crate::error::{Error, Result};

/// Counters of one interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InterfaceCounters {
    pub interface: String,
    pub rx_bytes: u64,
    pub rx_packets: u64,
    pub rx_errors: u64,
    pub rx_dropped: u64,
    pub tx_bytes: u64,
    pub tx_packets: u64,
    pub tx_errors: u64,
    pub tx_dropped: u64,
}

/// Counters of the interfaces that a process sees, `lo` left out.
pub fn counters(pid: i32) -> Result<Vec<InterfaceCounters>> {
    let path = format!("/proc/{pid}/net/dev");
    let text = std::fs::read_to_string(&path).map_err(|e| Error::os("read", &path, e))?;
    Ok(parse_net_dev(&text))
}

pub(super) fn parse_net_dev(text: &str) -> Vec<InterfaceCounters> {
    let line = |line: &str| {
        let (name, rest) = line.split_once(':')?;
        let n: Vec<u64> = rest.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        if n.len() < 12 || name.trim() == "lo" {
            return None;
        }
        Some(InterfaceCounters {
            interface: name.trim().to_string(),
            rx_bytes: n[0],
            rx_packets: n[1],
            rx_errors: n[2],
            rx_dropped: n[3],
            tx_bytes: n[8],
            tx_packets: n[9],
            tx_errors: n[10],
            tx_dropped: n[11],
        })
    };
    text.lines().skip(2).filter_map(line).collect()
}

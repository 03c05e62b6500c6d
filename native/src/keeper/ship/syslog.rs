//! Syslog: one datagram, or one line of a stream, for each log line.
//!
//! Source: RFC 3164, RFC 5424; Docker's `daemon/logger/syslog` and srslog's formatters, whose times are local ones
//! and whose messages all end in a newline.

use serde::{Deserialize, Serialize};

use super::Entry;
use crate::keeper::json_line::{format_time_fixed, Stream};
use crate::sys::clock::utc_offset;

/// Severities: err and info.
const ERROR: u8 = 3;
const INFO: u8 = 6;
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Syslog {
    /// 0 to 23.
    pub facility: u8,
    pub layout: Layout,
    pub hostname: String,
    pub tag: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// RFC 3164 without the host's name, as local syslogs expect it.
    Unix,
    Rfc3164,
    Rfc5424,
    /// RFC 5424 with microseconds.
    Rfc5424micro,
}

impl Syslog {
    /// An empty line is no message.
    pub fn encode(&self, entry: &Entry<'_>) -> Vec<Vec<u8>> {
        if entry.text.is_empty() {
            return Vec::new();
        }
        let offset = utc_offset((entry.time_ns / 1_000_000_000) as i64);
        let mut message = self.head(entry, offset).into_bytes();
        message.extend_from_slice(entry.text);
        message.push(b'\n');
        vec![message]
    }

    fn head(&self, entry: &Entry<'_>, offset: i64) -> String {
        let severity = if entry.stream == Stream::Stderr { ERROR } else { INFO };
        let priority = self.facility << 3 | severity;
        let local = entry.time_ns.saturating_add_signed(offset * 1_000_000_000);
        let fixed = format_time_fixed(local);
        let (host, tag, pid) = (&self.hostname, &self.tag, std::process::id());
        match self.layout {
            Layout::Unix => format!("<{priority}>{} {tag}[{pid}]: ", stamp(&fixed)),
            Layout::Rfc3164 => format!("<{priority}>{} {host} {tag}[{pid}]: ", stamp(&fixed)),
            Layout::Rfc5424 => {
                format!("<{priority}>1 {}{} {host} {tag} {pid} {tag} - ", &fixed[..19], zone(offset))
            }
            Layout::Rfc5424micro => {
                format!("<{priority}>1 {}{} {host} {tag} {pid} {tag} - ", &fixed[..26], zone(offset))
            }
        }
    }
}

/// `Jan  2 03:04:05` of an RFC 3339 time.
fn stamp(fixed: &str) -> String {
    let number = |from: usize, to: usize| fixed[from..to].parse::<usize>().unwrap_or(1);
    format!("{} {:2} {}", MONTHS[(number(5, 7) - 1) % 12], number(8, 10), &fixed[11..19])
}

fn zone(offset: i64) -> String {
    if offset == 0 {
        return "Z".to_owned();
    }
    let (sign, minutes) = (if offset < 0 { '-' } else { '+' }, offset.abs() / 60);
    format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME_NS: u64 = 1_767_323_045_600_000_000;

    fn head(layout: Layout, stream: Stream, offset: i64) -> String {
        let syslog = Syslog { facility: 3, layout, hostname: "host".into(), tag: "web".into() };
        let entry = Entry { text: b"x", stream, time_ns: TIME_NS, piece: None };
        syslog.head(&entry, offset).replace(&std::process::id().to_string(), "PID")
    }

    #[test]
    fn every_layout_is_dockers() {
        for (layout, text) in [
            (Layout::Unix, "<30>Jan  2 03:04:05 web[PID]: "),
            (Layout::Rfc3164, "<30>Jan  2 03:04:05 host web[PID]: "),
            (Layout::Rfc5424, "<30>1 2026-01-02T03:04:05Z host web PID web - "),
            (Layout::Rfc5424micro, "<30>1 2026-01-02T03:04:05.600000Z host web PID web - "),
        ] {
            assert_eq!(head(layout, Stream::Stdout, 0), text);
        }
    }

    #[test]
    fn stderr_is_an_error_and_times_are_local() {
        assert_eq!(
            head(Layout::Rfc5424, Stream::Stderr, -12_600),
            "<27>1 2026-01-01T23:34:05-03:30 host web PID web - "
        );
        assert_eq!(head(Layout::Unix, Stream::Stdout, 7200), "<30>Jan  2 05:04:05 web[PID]: ");
    }

    #[test]
    fn bytes_go_as_they_are_and_empty_lines_not_at_all() {
        let syslog = Syslog { facility: 0, layout: Layout::Unix, hostname: String::new(), tag: "t".into() };
        let encode = |text: &[u8]| {
            let entry = Entry { text, stream: Stream::Stdout, time_ns: TIME_NS, piece: None };
            syslog.encode(&entry)
        };
        assert!(encode(b"\xff\x00z")[0].ends_with(b": \xff\x00z\n"));
        assert!(encode(b"").is_empty());
    }
}

//! One line of a json-file log: `{"log":"text\n","stream":"stdout","time":"2026-01-02T03:04:05.6Z"}`.
//!
//! The format is Docker's jsonfilelog to the byte: its escapes (`<`, `>`, `&`, U+2028, U+2029 and
//! control characters as `\u00xx`, invalid UTF-8 as `\ufffd`), its order of fields, and Go's
//! `RFC3339Nano`, which drops trailing zeros of the fraction. No I/O here.

use serde::Deserialize;
use std::borrow::Cow;

/// Which stream a line came from; a tty counts as stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    /// The word in the log and the index of its pipe.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }

    /// The first byte of Docker's 8-byte stream header.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Stdout => 1,
            Self::Stderr => 2,
        }
    }

    /// 0 for stdout, 1 for stderr.
    #[must_use]
    pub const fn index(self) -> usize {
        self.number() as usize - 1
    }
}

/// Docker's stream header of a frame of `length` bytes.
#[must_use]
pub fn frame_header(stream: Stream, length: usize) -> [u8; 8] {
    let length = (length as u32).to_be_bytes();
    [stream.number(), 0, 0, 0, length[0], length[1], length[2], length[3]]
}

/// Append the JSON line of one log entry; `newline` when the entry ended with one.
pub fn write_line(out: &mut Vec<u8>, text: &[u8], newline: bool, stream: Stream, time: &str) {
    out.extend_from_slice(b"{\"log\":\"");
    escape(out, text);
    if newline {
        out.extend_from_slice(b"\\n");
    }
    out.extend_from_slice(b"\",\"stream\":\"");
    out.extend_from_slice(stream.name().as_bytes());
    out.extend_from_slice(b"\",\"time\":\"");
    out.extend_from_slice(time.as_bytes());
    out.extend_from_slice(b"\"}\n");
}

/// Append `text` with the escapes of Docker's `ffjsonWriteJSONBytesAsString`.
pub fn escape(out: &mut Vec<u8>, mut text: &[u8]) {
    loop {
        match std::str::from_utf8(text) {
            Ok(valid) => return escape_str(out, valid),
            Err(error) => {
                let (valid, rest) = text.split_at(error.valid_up_to());
                // The split is where the check stopped, so this cannot fail.
                escape_str(out, std::str::from_utf8(valid).unwrap_or_default());
                // Go's decoder steps over one byte at a time.
                out.extend_from_slice(b"\\ufffd");
                text = &rest[1..];
            }
        }
    }
}

fn escape_str(out: &mut Vec<u8>, text: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let bytes = text.as_bytes();
    let mut start = 0;
    let mut at = 0;
    while at < bytes.len() {
        let byte = bytes[at];
        let length = if byte == 0xe2 && matches!(bytes[at..], [_, 0x80, 0xa8 | 0xa9, ..]) {
            3
        } else if byte < 0x20 || matches!(byte, b'\\' | b'"' | b'<' | b'>' | b'&') {
            1
        } else {
            at += 1;
            continue;
        };
        out.extend_from_slice(&bytes[start..at]);
        match (length, byte) {
            (3, _) => out.extend_from_slice(if bytes[at + 2] == 0xa8 { b"\\u2028" } else { b"\\u2029" }),
            (_, b'\\' | b'"') => out.extend_from_slice(&[b'\\', byte]),
            (_, b'\n') => out.extend_from_slice(b"\\n"),
            (_, b'\r') => out.extend_from_slice(b"\\r"),
            _ => {
                let (high, low) = (HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]);
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', high, low]);
            }
        }
        at += length;
        start = at;
    }
    out.extend_from_slice(&bytes[start..]);
}

/// A decoded line.
#[derive(Debug, Deserialize)]
pub struct Line<'a> {
    #[serde(borrow, default)]
    pub log: Cow<'a, str>,
    #[serde(borrow, default)]
    stream: Cow<'a, str>,
    #[serde(borrow, default)]
    time: Cow<'a, str>,
}

impl<'a> Line<'a> {
    /// Decode one line; `None` for a damaged one.
    #[must_use]
    pub fn decode(line: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(line).ok()
    }

    #[must_use]
    pub fn stream(&self) -> Stream {
        if self.stream == "stderr" {
            Stream::Stderr
        } else {
            Stream::Stdout
        }
    }

    /// Unix nanoseconds; 0 where the time cannot be read.
    #[must_use]
    pub fn time_ns(&self) -> u64 {
        parse_time(&self.time).unwrap_or(0)
    }
}

/// Go's `time.RFC3339Nano` in UTC: no trailing zeros.
#[must_use]
pub fn format_time(unix_ns: u64) -> String {
    let fixed = format_time_fixed(unix_ns);
    let body = fixed.trim_end_matches('Z').trim_end_matches('0').trim_end_matches('.');
    if unix_ns % 1_000_000_000 == 0 {
        // The seconds' own zeros stay.
        return format!("{}Z", &fixed[..19]);
    }
    format!("{body}Z")
}

/// RFC 3339 with nine digits, as `docker logs --timestamps` prints it.
#[must_use]
pub fn format_time_fixed(unix_ns: u64) -> String {
    let seconds = unix_ns / 1_000_000_000;
    let (year, month, day) = civil_from_days((seconds / 86_400) as i64);
    let of_day = seconds % 86_400;
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:09}Z",
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60,
        unix_ns % 1_000_000_000
    )
}

/// Unix nanoseconds of an RFC 3339 time in UTC.
fn parse_time(text: &str) -> Option<u64> {
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<u64>().ok();
    let days = days_from_civil(number(0, 4)? as i64, number(5, 7)? as i64, number(8, 10)? as i64);
    let seconds = days * 86_400 + (number(11, 13)? * 3600 + number(14, 16)? * 60 + number(17, 19)?) as i64;
    let digits = text.get(19..)?.strip_suffix('Z')?;
    let nanos = match digits.strip_prefix('.') {
        None => 0,
        Some(digits) => format!("{digits:0<9}").get(..9)?.parse::<u64>().ok()?,
    };
    Some(u64::try_from(seconds).ok()? * 1_000_000_000 + nanos)
}

/// Days since 1970-01-01 to (year, month, day). Source: Hinnant, "chrono-compatible low-level date algorithms".
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let of_era = z.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// The reverse of [`civil_from_days`].
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &[u8]) -> String {
        let mut out = Vec::new();
        write_line(&mut out, text, true, Stream::Stdout, "T");
        String::from_utf8(out).unwrap_or_default()
    }

    fn log_of(text: &[u8]) -> String {
        let line = line(text);
        line["{\"log\":\"".len()..line.len() - "\\n\",\"stream\":\"stdout\",\"time\":\"T\"}\n".len()]
            .to_owned()
    }

    #[test]
    fn fields_come_in_dockers_order() {
        assert_eq!(line(b"hello"), "{\"log\":\"hello\\n\",\"stream\":\"stdout\",\"time\":\"T\"}\n");
    }

    #[test]
    fn escapes_are_gos() {
        assert_eq!(log_of(b"a\"b\\c"), "a\\\"b\\\\c");
        assert_eq!(log_of(b"<a>&\t\r\x1b\x00\x7f"), "\\u003ca\\u003e\\u0026\\u0009\\r\\u001b\\u0000\x7f");
        assert_eq!(log_of("ä€\u{2028}\u{2029}x".as_bytes()), "ä€\\u2028\\u2029x");
    }

    #[test]
    fn each_invalid_byte_becomes_a_replacement() {
        assert_eq!(log_of(b"a\xff\xc3b\xe2\x82"), "a\\ufffd\\ufffdb\\ufffd\\ufffd");
    }

    #[test]
    fn times_are_rfc3339_nano_and_parse_back() {
        for (ns, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400_000_000_000, "2000-02-29T00:00:00Z"),
            (1_767_323_045_600_000_000, "2026-01-02T03:04:05.6Z"),
            (1_767_323_040_000_000_001, "2026-01-02T03:04:00.000000001Z"),
        ] {
            assert_eq!(format_time(ns), text);
            assert_eq!(parse_time(text), Some(ns));
            assert_eq!(parse_time(&format_time_fixed(ns)), Some(ns));
        }
        assert_eq!(format_time_fixed(1_767_323_045_600_000_000), "2026-01-02T03:04:05.600000000Z");
        assert_eq!(parse_time("nonsense"), None);
    }

    #[test]
    fn a_line_reads_back() {
        let mut out = Vec::new();
        write_line(&mut out, b"<\"x\">", true, Stream::Stderr, "2026-01-02T03:04:05Z");
        let line = Line::decode(&out).map(|line| (line.log.to_string(), line.stream(), line.time_ns()));
        assert_eq!(line, Some(("<\"x\">\n".to_owned(), Stream::Stderr, 1_767_323_045_000_000_000)));
        assert!(Line::decode(b"{\"log\":").is_none());
    }
}

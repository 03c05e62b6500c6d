//! Fluentd's forward protocol: one message `[tag, time, record, option]` in `MessagePack` for each log line.
//!
//! Source: the Fluentd Forward Protocol Specification v1, "Message Modes"; Docker's `daemon/logger/fluentd`.

use serde::{Deserialize, Serialize};

use super::{hex, random_bytes, Entry};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Fluentd {
    pub tag: String,
    /// The same in every record.
    pub record: Vec<(String, String)>,
    /// Times as `EventTime`, with nanoseconds.
    pub sub_second: bool,
    /// Each message has an id, which the server answers.
    #[serde(default)]
    pub acknowledged: bool,
}

/// Digits of a message's id, the last bytes of it.
pub const ID: usize = 24;

impl Fluentd {
    pub fn encode(&self, entry: &Entry<'_>) -> Vec<u8> {
        let mut out = Vec::with_capacity(256 + entry.text.len());
        out.push(0x94);
        string(&mut out, self.tag.as_bytes());
        self.time(&mut out, entry.time_ns);
        let of_piece = if entry.piece.is_some() { 4 } else { 0 };
        map(&mut out, self.record.len() + 2 + of_piece);
        let mut pair = |key: &str, value: &[u8]| {
            string(&mut out, key.as_bytes());
            string(&mut out, value);
        };
        for (key, value) in &self.record {
            pair(key, value.as_bytes());
        }
        pair("source", entry.stream.name().as_bytes());
        pair("log", entry.text);
        if let Some(piece) = entry.piece {
            pair("partial_message", b"true");
            pair("partial_id", piece.id.as_bytes());
            pair("partial_ordinal", piece.ordinal.to_string().as_bytes());
            pair("partial_last", piece.last.to_string().as_bytes());
        }
        if self.acknowledged {
            map(&mut out, 1);
            string(&mut out, b"chunk");
            string(&mut out, hex(&random_bytes::<{ ID / 2 }>()).as_bytes());
        } else {
            map(&mut out, 0);
        }
        out
    }

    /// Seconds as an integer, or seconds and nanoseconds as the extension type 0.
    fn time(&self, out: &mut Vec<u8>, time_ns: u64) {
        let (seconds, nanos) = ((time_ns / 1_000_000_000) as u32, (time_ns % 1_000_000_000) as u32);
        if self.sub_second {
            out.extend_from_slice(&[0xd7, 0]);
            out.extend_from_slice(&seconds.to_be_bytes());
            out.extend_from_slice(&nanos.to_be_bytes());
        } else {
            out.push(0xce);
            out.extend_from_slice(&seconds.to_be_bytes());
        }
    }
}

fn string(out: &mut Vec<u8>, text: &[u8]) {
    match text.len() {
        length @ 0..=31 => out.push(0xa0 | length as u8),
        length @ 32..=0xff => out.extend_from_slice(&[0xd9, length as u8]),
        length @ 0x100..=0xffff => {
            out.push(0xda);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            out.push(0xdb);
            out.extend_from_slice(&(length as u32).to_be_bytes());
        }
    }
    out.extend_from_slice(text);
}

fn map(out: &mut Vec<u8>, length: usize) {
    if length <= 15 {
        out.push(0x80 | length as u8);
    } else {
        out.push(0xde);
        out.extend_from_slice(&(length as u16).to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::Piece;
    use super::*;
    use crate::keeper::json_line::Stream;

    type Message = (String, u32, BTreeMap<String, String>, BTreeMap<String, String>);

    fn fluentd(records: usize, sub_second: bool) -> Fluentd {
        let record = (0..records).map(|number| (format!("key{number}"), "v".repeat(number * 100))).collect();
        Fluentd { tag: "docker.web".into(), record, sub_second, acknowledged: false }
    }

    fn entry<'a>(text: &'a [u8], piece: Option<&'a Piece>) -> Entry<'a> {
        Entry { text, stream: Stream::Stderr, time_ns: 1_767_323_045_600_000_000, piece }
    }

    #[test]
    fn a_message_reads_back() {
        let text = "x".repeat(16 * 1024);
        let bytes = fluentd(20, false).encode(&entry(text.as_bytes(), None));
        let (tag, time, record, option): Message = rmp_serde::from_slice(&bytes).expect("a message");
        assert_eq!((tag.as_str(), time, option.len()), ("docker.web", 1_767_323_045, 0));
        assert_eq!((record["log"].as_str(), record["source"].as_str()), (text.as_str(), "stderr"));
        assert_eq!((record.len(), record["key19"].len()), (22, 1900));
    }

    #[test]
    fn pieces_are_named() {
        let piece = Piece { id: "ab".into(), ordinal: 3, last: true, time_ns: 0 };
        let bytes = fluentd(1, false).encode(&entry(b"x", Some(&piece)));
        let (_, _, record, _): Message = rmp_serde::from_slice(&bytes).expect("a message");
        let of = |key: &str| record[&format!("partial_{key}")].clone();
        assert_eq!([of("message"), of("id"), of("ordinal"), of("last")], ["true", "ab", "3", "true"]);
    }

    #[test]
    fn an_id_to_be_answered_is_the_last_of_a_message() {
        let bytes = Fluentd { acknowledged: true, ..fluentd(1, false) }.encode(&entry(b"x", None));
        let (_, _, _, option): Message = rmp_serde::from_slice(&bytes).expect("a message");
        assert_eq!(option["chunk"].as_bytes(), &bytes[bytes.len() - ID..]);
    }

    #[test]
    fn times_with_fractions_are_event_times() {
        let bytes = fluentd(0, true).encode(&entry(b"x", None));
        let at = 1 + 1 + "docker.web".len();
        assert_eq!(bytes[at..at + 2], [0xd7, 0]);
        assert_eq!(bytes[at + 2..at + 6], 1_767_323_045_u32.to_be_bytes());
        assert_eq!(bytes[at + 6..at + 10], 600_000_000_u32.to_be_bytes());
    }
}

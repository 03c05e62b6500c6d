//! The journal's native protocol: one datagram of fields for each log line.
//!
//! Source: systemd's `docs/JOURNAL_NATIVE_PROTOCOL.md`; Docker's `daemon/logger/journald/journald.go`.

use serde::{Deserialize, Serialize};

use super::Entry;
use crate::keeper::json_line::{format_time, Stream};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Journald {
    /// The same for every line; names are the journal's already.
    pub fields: Vec<(String, String)>,
}

impl Journald {
    /// `ordinal` counts the lines of this process.
    pub fn encode(&self, entry: &Entry<'_>, ordinal: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(512 + entry.text.len());
        field(&mut out, "PRIORITY", if entry.stream == Stream::Stderr { b"3" } else { b"6" });
        field(&mut out, "MESSAGE", entry.text);
        for (name, value) in &self.fields {
            field(&mut out, name, value.as_bytes());
        }
        field(&mut out, "SYSLOG_TIMESTAMP", format_time(entry.time_ns).as_bytes());
        field(&mut out, "CONTAINER_LOG_ORDINAL", ordinal.to_string().as_bytes());
        if let Some(piece) = entry.piece {
            field(&mut out, "CONTAINER_PARTIAL_ID", piece.id.as_bytes());
            field(&mut out, "CONTAINER_PARTIAL_ORDINAL", piece.ordinal.to_string().as_bytes());
            field(&mut out, "CONTAINER_PARTIAL_LAST", piece.last.to_string().as_bytes());
            if !piece.last {
                field(&mut out, "CONTAINER_PARTIAL_MESSAGE", b"true");
            }
        }
        out
    }
}

/// `NAME=value`, or with its length where the value has lines.
fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    if value.contains(&b'\n') {
        out.push(b'\n');
        out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        out.push(b'=');
    }
    out.extend_from_slice(value);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::super::Piece;
    use super::*;

    fn encode(entry: &Entry<'_>) -> Vec<u8> {
        let fields =
            vec![("CONTAINER_NAME".to_owned(), "web".to_owned()), ("X".to_owned(), "a\nb".to_owned())];
        Journald { fields }.encode(entry, 7)
    }

    #[test]
    fn fields_are_plain_or_have_their_length() {
        let entry = Entry { text: b"\xff=x", stream: Stream::Stderr, time_ns: 0, piece: None };
        let expected = [
            b"PRIORITY=3\nMESSAGE=\xff=x\nCONTAINER_NAME=web\nX\n\x03\0\0\0\0\0\0\0a\nb\n".as_slice(),
            b"SYSLOG_TIMESTAMP=1970-01-01T00:00:00Z\nCONTAINER_LOG_ORDINAL=7\n",
        ];
        assert_eq!(encode(&entry), expected.concat());
    }

    #[test]
    fn pieces_are_marked_all_but_the_last_as_partial() {
        let piece = |last| Piece { id: "ab".into(), ordinal: 2, last, time_ns: 0 };
        for last in [false, true] {
            let (text, stream, time_ns) = (b"x".as_slice(), Stream::Stdout, 0);
            let bytes = encode(&Entry { text, stream, time_ns, piece: Some(&piece(last)) });
            let text = String::from_utf8_lossy(&bytes).into_owned();
            assert!(text.contains("PRIORITY=6\n"));
            assert!(text.contains("CONTAINER_PARTIAL_ID=ab\nCONTAINER_PARTIAL_ORDINAL=2\n"));
            assert!(text.contains(&format!("CONTAINER_PARTIAL_LAST={last}\n")));
            assert_eq!(text.contains("CONTAINER_PARTIAL_MESSAGE=true\n"), !last);
        }
    }
}

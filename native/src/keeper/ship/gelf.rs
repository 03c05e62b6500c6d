//! GELF 1.1: one JSON object for each log line, compressed and in chunks by UDP, with a zero byte after it by TCP.
//!
//! Source: Graylog's GELF specification; Docker's `daemon/logger/gelf` and go-gelf, down to the size of a chunk.

use std::cell::RefCell;

use flate2::{Compress, Compression, FlushCompress, Status};
use serde::{Deserialize, Serialize};

use super::{random_bytes, Entry};
use crate::keeper::json_line::{escape, Stream};

/// Bytes of a datagram.
const CHUNK: usize = 1420;
/// Of them, the head of a chunk: magic, id, number, count.
const HEAD: usize = 12;
const MAGIC: [u8; 2] = [0x1e, 0x0f];
const MOST_CHUNKS: usize = 128;
/// Deflate's largest.
const WINDOW_BITS: u8 = 15;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Gelf {
    pub hostname: String,
    /// The members that are the same in every message, as JSON without its braces.
    pub extra: String,
    pub packing: Packing,
}

/// How a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Packing {
    /// By TCP: plain, ended by a zero byte.
    Stream,
    Plain,
    /// `level` is 0 to 9.
    Gzip {
        level: u32,
    },
    Zlib {
        level: u32,
    },
}

impl Gelf {
    /// An empty line is no message; `None` for one of too many chunks.
    pub fn encode(&self, entry: &Entry<'_>) -> Option<Vec<Vec<u8>>> {
        if entry.text.is_empty() {
            return Some(Vec::new());
        }
        let mut json = self.json(entry);
        match self.packing {
            Packing::Stream => {
                json.push(0);
                Some(vec![json])
            }
            Packing::Plain => chunks(json),
            Packing::Gzip { level } => {
                let make = || Compress::new_gzip(Compression::new(level), WINDOW_BITS);
                compressed(self.packing, make, &json).and_then(chunks)
            }
            Packing::Zlib { level } => {
                let make = || Compress::new(Compression::new(level), true);
                compressed(self.packing, make, &json).and_then(chunks)
            }
        }
    }

    fn json(&self, entry: &Entry<'_>) -> Vec<u8> {
        let mut out = b"{\"version\":\"1.1\",\"host\":\"".to_vec();
        escape(&mut out, self.hostname.as_bytes());
        out.extend_from_slice(b"\",\"short_message\":\"");
        escape(&mut out, entry.text);
        let level = if entry.stream == Stream::Stderr { 3 } else { 6 };
        let milliseconds = entry.time_ns / 1_000_000;
        // Exact: a time of this age in milliseconds has fewer than 53 bits.
        #[allow(clippy::cast_precision_loss)]
        let seconds = milliseconds as f64 / 1000.0;
        out.extend_from_slice(format!("\",\"timestamp\":{seconds},\"level\":{level},").as_bytes());
        out.extend_from_slice(self.extra.as_bytes());
        out.push(b'}');
        out
    }
}

thread_local! {
    /// The compressor that was used last: making one costs more than a message does, and one each for all
    /// containers would be much memory.
    static COMPRESSOR: RefCell<Option<(Packing, Compress)>> = const { RefCell::new(None) };
}

fn compressed(packing: Packing, make: impl FnOnce() -> Compress, message: &[u8]) -> Option<Vec<u8>> {
    COMPRESSOR.with_borrow_mut(|kept| {
        if !matches!(kept, Some((of, _)) if *of == packing) {
            *kept = Some((packing, make()));
        }
        let (_, compress) = kept.as_mut()?;
        compress.reset();
        // What cannot be compressed grows by its blocks' heads and the format's own.
        let mut out = Vec::with_capacity(message.len() + message.len() / 64 + 64);
        let status = compress.compress_vec(message, &mut out, FlushCompress::Finish);
        matches!(status, Ok(Status::StreamEnd)).then_some(out)
    })
}

fn chunks(message: Vec<u8>) -> Option<Vec<Vec<u8>>> {
    // As go-gelf counts: what fills its chunks to the last byte has one more, which is empty.
    let count = message.len() / (CHUNK - HEAD) + 1;
    if count == 1 {
        return Some(vec![message]);
    }
    if count > MOST_CHUNKS {
        return None;
    }
    let id: [u8; 8] = random_bytes();
    let chunk = |number: usize| {
        let part = message.get(number * (CHUNK - HEAD)..).unwrap_or_default();
        let mut chunk = Vec::with_capacity(CHUNK);
        chunk.extend_from_slice(&MAGIC);
        chunk.extend_from_slice(&id);
        chunk.extend_from_slice(&[number as u8, count as u8]);
        chunk.extend_from_slice(&part[..part.len().min(CHUNK - HEAD)]);
        chunk
    };
    Some((0..count).map(chunk).collect())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn encode(packing: Packing, text: &[u8]) -> Option<Vec<Vec<u8>>> {
        let gelf = Gelf { hostname: "host".into(), extra: "\"_tag\":\"web\"".into(), packing };
        gelf.encode(&Entry { text, stream: Stream::Stderr, time_ns: 1_767_323_045_678_999_999, piece: None })
    }

    #[test]
    fn a_message_is_dockers_and_ends_in_zero_by_tcp() {
        let expected = concat!(
            r#"{"version":"1.1","host":"host","short_message":"a\"\ufffd","timestamp":1767323045.678,"#,
            r#""level":3,"_tag":"web"}"#,
            "\0"
        );
        assert_eq!(encode(Packing::Stream, b"a\"\xff"), Some(vec![expected.as_bytes().to_vec()]));
        assert_eq!(encode(Packing::Plain, b""), Some(vec![]));
    }

    #[test]
    fn compressed_ones_read_back() {
        let plain = encode(Packing::Plain, b"hello").unwrap_or_default().concat();
        let gzip = encode(Packing::Gzip { level: 1 }, b"hello").unwrap_or_default().concat();
        let zlib = encode(Packing::Zlib { level: 9 }, b"hello").unwrap_or_default().concat();
        let mut read = Vec::new();
        flate2::read::GzDecoder::new(&*gzip).read_to_end(&mut read).expect("gzip");
        assert_eq!(read, plain);
        let noise: Vec<u8> =
            (0..4096).flat_map(|_| random_bytes::<2>()).map(|byte| 0x20 | byte & 0x5f).collect();
        for level in [0, 9] {
            let message = encode(Packing::Gzip { level }, &noise).unwrap_or_default();
            let packed: Vec<u8> = message.iter().flat_map(|chunk| chunk[HEAD..].to_vec()).collect();
            read.clear();
            flate2::read::GzDecoder::new(&*packed).read_to_end(&mut read).expect("gzip");
            assert!(read.len() > noise.len());
        }
        read.clear();
        flate2::read::ZlibDecoder::new(&*zlib).read_to_end(&mut read).expect("zlib");
        assert_eq!(read, plain);
    }

    #[test]
    fn long_ones_come_in_chunks_and_too_long_ones_not_at_all() {
        let text = vec![b'x'; 16 * 1024];
        let packets = encode(Packing::Plain, &text).unwrap_or_default();
        assert!(packets.iter().all(|packet| packet.len() <= CHUNK && packet[..2] == MAGIC));
        assert!(packets.iter().enumerate().all(|(number, packet)| {
            packet[2..10] == packets[0][2..10] && packet[10..12] == [number as u8, packets.len() as u8]
        }));
        let joined: Vec<u8> = packets.iter().flat_map(|packet| packet[HEAD..].to_vec()).collect();
        assert!(joined.ends_with(b"\"_tag\":\"web\"}"));
        assert!(encode(Packing::Plain, &vec![b'x'; MOST_CHUNKS * CHUNK]).is_none());
    }
}

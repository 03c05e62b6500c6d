//! fsutil's packets on the wire: protobuf, as far as they are used here.
//!
//! Source: tonistiigi/fsutil types/wire.proto, stat.proto; <https://protobuf.dev/programming-guides/encoding/>.

use crate::error::{Error, Result};

const STAT: u64 = 0;
const REQUEST: u64 = 1;
const DATA: u64 = 2;
const FINISHED: u64 = 3;
const FAILED: u64 = 4;

const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const BYTES: u64 = 2;
const FIXED32: u64 = 5;

/// One packet of the client's.
#[derive(Debug, PartialEq)]
pub enum Packet<'a> {
    /// A `Stat`, as it came; `None` when everything was told.
    Stat(Option<&'a [u8]>),
    /// Of the file with this number; empty at its end.
    Data(u32, &'a [u8]),
    /// The client's own failure.
    Failed(&'a [u8]),
    /// Nothing that a receiver does anything about.
    Other,
}

/// What is told of one file.
#[derive(Debug, Default)]
pub struct Stat<'a> {
    pub path: &'a [u8],
    /// Go's bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: i64,
    /// Nanoseconds since 1970.
    pub modified: i64,
    pub link: &'a [u8],
    pub major: i64,
    pub minor: i64,
    pub attributes: Vec<(&'a [u8], &'a [u8])>,
}

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message, in their order.
struct Fields<'a>(&'a [u8]);

fn malformed() -> Error {
    Error::Invalid("malformed message".into())
}

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Result<u64> {
        let mut value = 0;
        for (place, byte) in self.0.iter().enumerate().take(10) {
            value |= u64::from(byte & 0x7f) << (7 * place);
            if byte & 0x80 == 0 {
                self.0 = &self.0[place + 1..];
                return Ok(value);
            }
        }
        Err(malformed())
    }

    fn bytes(&mut self, count: u64) -> Result<&'a [u8]> {
        let count = usize::try_from(count).map_err(|_| malformed())?;
        let (taken, rest) = self.0.split_at_checked(count).ok_or_else(malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    /// (its number, what it has); `None` at the end.
    fn next(&mut self) -> Result<Option<(u64, Value<'a>)>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let value = match tag & 7 {
            VARINT => Value::Number(self.varint()?),
            FIXED64 => Value::Bytes(self.bytes(8)?),
            BYTES => {
                let count = self.varint()?;
                Value::Bytes(self.bytes(count)?)
            }
            FIXED32 => Value::Bytes(self.bytes(4)?),
            _ => return Err(malformed()),
        };
        Ok(Some((tag >> 3, value)))
    }
}

impl<'a> Packet<'a> {
    pub fn parse(message: &'a [u8]) -> Result<Self> {
        let (mut kind, mut stat, mut number, mut data) = (STAT, None, 0, &b""[..]);
        let mut fields = Fields(message);
        while let Some(field) = fields.next()? {
            match field {
                (1, Value::Number(value)) => kind = value,
                (2, Value::Bytes(value)) => stat = Some(value),
                (3, Value::Number(value)) => number = value as u32,
                (4, Value::Bytes(value)) => data = value,
                _ => {}
            }
        }
        Ok(match kind {
            STAT => Self::Stat(stat),
            DATA => Self::Data(number, data),
            FAILED => Self::Failed(data),
            _ => Self::Other,
        })
    }
}

impl<'a> Stat<'a> {
    pub fn parse(message: &'a [u8]) -> Result<Self> {
        let mut stat = Self::default();
        let mut fields = Fields(message);
        while let Some(field) = fields.next()? {
            match field {
                (1, Value::Bytes(value)) => stat.path = value,
                (2, Value::Number(value)) => stat.mode = value as u32,
                (3, Value::Number(value)) => stat.uid = value as u32,
                (4, Value::Number(value)) => stat.gid = value as u32,
                (5, Value::Number(value)) => stat.size = value as i64,
                (6, Value::Number(value)) => stat.modified = value as i64,
                (7, Value::Bytes(value)) => stat.link = value,
                (8, Value::Number(value)) => stat.major = value as i64,
                (9, Value::Number(value)) => stat.minor = value as i64,
                (10, Value::Bytes(value)) => stat.attributes.push(attribute(value)?),
                _ => {}
            }
        }
        Ok(stat)
    }
}

/// An entry of a map.
fn attribute(message: &[u8]) -> Result<(&[u8], &[u8])> {
    let mut found = (&b""[..], &b""[..]);
    let mut fields = Fields(message);
    while let Some(field) = fields.next()? {
        match field {
            (1, Value::Bytes(value)) => found.0 = value,
            (2, Value::Bytes(value)) => found.1 = value,
            _ => {}
        }
    }
    Ok(found)
}

/// Ask for a file, as a message of gRPC.
pub fn request(answer: &mut Vec<u8>, number: u32) {
    let start = answer.len();
    answer.extend([0, 0, 0, 0, 0, 1 << 3, REQUEST as u8]);
    if number != 0 {
        answer.push(3 << 3);
        let mut rest = number;
        while rest >= 0x80 {
            answer.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        answer.push(rest as u8);
    }
    let size = (answer.len() - start - 5) as u32;
    answer[start + 1..start + 5].copy_from_slice(&size.to_be_bytes());
}

/// Nothing more is wanted.
pub fn finished(answer: &mut Vec<u8>) {
    answer.extend([0, 0, 0, 0, 2, 1 << 3, FINISHED as u8]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_told_apart() {
        assert_eq!(Packet::parse(b"").expect("a packet"), Packet::Stat(None));
        assert_eq!(Packet::parse(b"\x12\x03\x0a\x01a").expect("a packet"), Packet::Stat(Some(b"\x0a\x01a")));
        assert_eq!(
            Packet::parse(b"\x08\x02\x18\x81\x01\x22\x02hi").expect("a packet"),
            Packet::Data(129, b"hi")
        );
        assert_eq!(Packet::parse(b"\x08\x04\x22\x02no").expect("a packet"), Packet::Failed(b"no"));
        assert_eq!(Packet::parse(b"\x08\x03").expect("a packet"), Packet::Other);
    }

    #[test]
    fn what_is_cut_short_or_wrong_is_refused() {
        for message in [&b"\x12"[..], b"\x12\x05a", b"\x08\xff", b"\x0b", b"\x09abc", &[0x80; 11]] {
            assert!(Packet::parse(message).is_err(), "{message:?}");
            assert!(Stat::parse(message).is_err(), "{message:?}");
        }
    }

    #[test]
    fn a_stat_with_negative_numbers_and_attributes() {
        let message = b"\x0a\x01a\x30\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x52\x06\x0a\x01k\x12\x01v";
        let stat = Stat::parse(message).expect("a stat");
        assert_eq!((stat.path, stat.modified), (&b"a"[..], -1));
        assert_eq!(stat.attributes, [(&b"k"[..], &b"v"[..])]);
    }

    #[test]
    fn requests_are_messages_of_grpc() {
        let mut answer = vec![];
        request(&mut answer, 0);
        request(&mut answer, 300);
        finished(&mut answer);
        assert_eq!(answer, b"\0\0\0\0\x02\x08\x01\0\0\0\0\x05\x08\x01\x18\xac\x02\0\0\0\0\x02\x08\x03");
    }
}

//! HTTP/2's frames, taken off what has come many at a time: a build context is some frames for each of its files.
//!
//! Source: RFC 9113, section 4.1.

use crate::error::{Error, Result};

const HEAD: usize = 9;
const DATA: u8 = 0;
const END_STREAM: u8 = 1;

/// One frame, or the frames of data of one stream that came one after the other.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// The whole frames at the beginning of `buffer`, and how many bytes they are. Data with padding stands alone.
pub fn split(buffer: &[u8], largest: usize) -> Result<(Vec<Frame>, usize)> {
    let mut frames: Vec<Frame> = vec![];
    let mut rest = buffer;
    while let Some((head, body)) = rest.split_at_checked(HEAD) {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        if length > largest {
            return Err(Error::Invalid("a frame is too large".into()));
        }
        let Some((payload, after)) = body.split_at_checked(length) else { break };
        let (kind, flags) = (head[3], head[4]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & (u32::MAX >> 1);
        match frames.last_mut() {
            Some(last)
                if (kind, last.kind, last.flags, last.stream) == (DATA, DATA, 0, stream)
                    && flags & !END_STREAM == 0 =>
            {
                last.payload.extend(payload);
                last.flags = flags;
            }
            _ => frames.push(Frame { kind, flags, stream, payload: payload.to_vec() }),
        }
        rest = after;
    }
    Ok((frames, buffer.len() - rest.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 0, payload.len() as u8, kind, flags, 0x80, 0, 0, stream];
        bytes.extend(payload);
        bytes
    }

    fn told(frames: &[Frame]) -> Vec<(u8, u8, u32, &[u8])> {
        frames.iter().map(|each| (each.kind, each.flags, each.stream, &each.payload[..])).collect()
    }

    #[test]
    fn data_of_one_stream_comes_together() {
        let all = [
            frame(0, 0, 1, b"a"),
            frame(0, 0, 1, b"b"),
            frame(0, 0, 3, b"c"),
            frame(0, 0, 1, b"d"),
            frame(0, 1, 1, b"e"),
            frame(0, 0, 1, b"past its end"),
            frame(0, 8, 1, b"\0padded"),
            frame(1, 0, 1, b"headers"),
            frame(1, 0, 1, b"headers"),
        ]
        .concat();
        let (frames, taken) = split(&all, 100).expect("frames");
        let expected: [(u8, u8, u32, &[u8]); 7] = [
            (0, 0, 1, b"ab"),
            (0, 0, 3, b"c"),
            (0, 1, 1, b"de"),
            (0, 0, 1, b"past its end"),
            (0, 8, 1, b"\0padded"),
            (1, 0, 1, b"headers"),
            (1, 0, 1, b"headers"),
        ];
        assert_eq!((&told(&frames)[..], taken), (&expected[..], all.len()));
    }

    #[test]
    fn what_is_not_whole_stays() {
        let whole = frame(0, 0, 1, b"abc");
        for end in 0..whole.len() {
            assert_eq!(split(&whole[..end], 100).expect("none"), (vec![], 0));
        }
        assert!(split(&whole[..9], 2).is_err());
    }
}

//! Maps of sparse files: GNU's old header form and PAX forms 0.0, 0.1 and 1.0.
//!
//! Source: GNU tar manual, "Storing Sparse Files" and its appendix "Sparse Formats".

use super::stream::{truncated, Stream};
use super::tar::{decimal, malformed, number, BLOCK};
use crate::error::Result;

/// A run of stored bytes: where it belongs, how long it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    pub offset: u64,
    pub length: u64,
}

/// `GNU.sparse.*` records, as they came.
#[derive(Debug, Default)]
pub struct Pax {
    pub name: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub major: Option<u32>,
    /// Offsets and lengths by turns (0.0: record after record, 0.1: one list).
    pub numbers: Vec<u64>,
}

impl Pax {
    /// Take one record; `None` where its value is bad.
    pub fn record(&mut self, name: &[u8], value: &[u8], maximum: usize) -> Option<()> {
        match name {
            b"name" if !value.is_empty() && !value.contains(&0) => self.name = Some(value.to_vec()),
            b"major" => self.major = Some(decimal(value)?),
            b"size" | b"realsize" => self.size = Some(decimal(value)?),
            b"offset" | b"numbytes" => self.numbers.push(decimal(value)?),
            b"map" if value.is_empty() => self.numbers.clear(),
            b"map" => self.numbers = value.split(|byte| *byte == b',').map(decimal).collect::<Option<_>>()?,
            b"minor" | b"numblocks" => {
                decimal::<u64>(value)?;
            }
            _ => return None,
        }
        (self.numbers.len() <= 2 * maximum).then_some(())
    }
}

/// Offsets and lengths by turns.
pub fn pairs(numbers: &[u64], maximum: usize) -> Result<Vec<Extent>> {
    if numbers.len() % 2 != 0 || numbers.len() > 2 * maximum {
        return Err(malformed("bad sparse map"));
    }
    Ok(numbers.chunks_exact(2).map(|pair| Extent { offset: pair[0], length: pair[1] }).collect())
}

/// Form 1.0: decimal lines before the content, padded to a block. Returns the bytes taken as well.
pub fn leading_map(stream: &mut Stream, stored: u64, maximum: usize) -> Result<(Vec<Extent>, u64)> {
    let mut taken = 0;
    let mut block = [0; BLOCK];
    let mut position = BLOCK;
    let mut line = || -> Result<u64> {
        let mut value: Option<u64> = None;
        loop {
            if position == BLOCK {
                taken += BLOCK as u64;
                if taken > stored {
                    return Err(malformed("bad sparse map"));
                }
                if !stream.read_exact(&mut block)? {
                    return Err(truncated());
                }
                position = 0;
            }
            let byte = block[position];
            position += 1;
            value = match (byte, value) {
                (b'\n', Some(value)) => return Ok(value),
                (b'0'..=b'9', value) => value
                    .unwrap_or(0)
                    .checked_mul(10)
                    .and_then(|value| value.checked_add(u64::from(byte - b'0'))),
                _ => None,
            };
            if value.is_none() {
                return Err(malformed("bad sparse map"));
            }
        }
    };
    let count = line()?;
    if count > maximum as u64 {
        return Err(malformed(format_args!("sparse map of {count} extents")));
    }
    let mut extents = Vec::new();
    for _ in 0..count {
        extents.push(Extent { offset: line()?, length: line()? });
    }
    Ok((extents, taken))
}

/// The map that `leading_map` reads.
pub fn map(extents: &[Extent]) -> Vec<u8> {
    let mut map = format!("{}\n", extents.len()).into_bytes();
    for extent in extents {
        map.extend_from_slice(format!("{}\n{}\n", extent.offset, extent.length).as_bytes());
    }
    map.resize(map.len().next_multiple_of(BLOCK), 0);
    map
}

/// GNU's old form: four extents in the header, 21 in each block that follows. Returns the file's size first.
pub fn old_gnu(stream: &mut Stream, header: &[u8; BLOCK], maximum: usize) -> Result<(u64, Vec<Extent>)> {
    let mut extents = Vec::new();
    extents_of(&header[386..482], &mut extents)?;
    let mut more = header[482] != 0;
    let mut block = [0; BLOCK];
    while more {
        if !stream.read_exact(&mut block)? {
            return Err(truncated());
        }
        extents_of(&block[..504], &mut extents)?;
        more = block[504] != 0;
        if extents.len() > maximum {
            return Err(malformed("sparse map is too long"));
        }
    }
    Ok((unsigned(&header[483..495])?, extents))
}

/// Extents of 24 bytes each, up to the first unused one.
fn extents_of(fields: &[u8], extents: &mut Vec<Extent>) -> Result<()> {
    for field in fields.chunks_exact(24) {
        if field[0] == 0 && field[12] == 0 {
            break;
        }
        extents.push(Extent { offset: unsigned(&field[..12])?, length: unsigned(&field[12..])? });
    }
    Ok(())
}

fn unsigned(field: &[u8]) -> Result<u64> {
    number(field).and_then(|value| u64::try_from(value).ok()).ok_or_else(|| malformed("bad sparse map"))
}

/// Extents ascend, do not overlap, end within the file and hold exactly the stored bytes.
pub fn validate(size: u64, extents: &[Extent], stored: u64) -> Result<()> {
    let mut end = 0;
    let mut total = 0_u64;
    for extent in extents {
        let next = extent.offset.checked_add(extent.length);
        match next {
            Some(next) if extent.offset >= end && next <= size => end = next,
            _ => return Err(malformed("bad sparse map")),
        }
        total += extent.length;
    }
    if total == stored && i64::try_from(size).is_ok() {
        Ok(())
    } else {
        Err(malformed("sparse map does not match the content"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(offset: u64, length: u64) -> Extent {
        Extent { offset, length }
    }

    #[test]
    fn a_map_ascends_and_matches_the_content() {
        assert!(validate(10, &[extent(0, 2), extent(4, 6)], 8).is_ok());
        assert!(validate(10, &[extent(0, 2), extent(10, 0)], 2).is_ok());
        for (size, extents, stored) in [
            (10, vec![extent(4, 2), extent(0, 2)], 4),
            (10, vec![extent(0, 4), extent(2, 2)], 6),
            (10, vec![extent(8, 4)], 4),
            (10, vec![extent(0, 4)], 5),
            (10, vec![extent(u64::MAX, 2)], 2),
            (u64::MAX, vec![], 0),
        ] {
            assert!(validate(size, &extents, stored).is_err(), "{size} {extents:?} {stored}");
        }
    }

    #[test]
    fn pax_numbers_come_in_pairs() {
        let mut pax = Pax::default();
        pax.record(b"map", b"0,1,4096,2", 8).expect("well formed");
        assert_eq!(pairs(&pax.numbers, 8).expect("pairs"), [extent(0, 1), extent(4096, 2)]);
        assert!(pax.record(b"map", b"0,,1", 8).is_none());
        assert!(pax.record(b"map", b"0,1,2,3,4,5", 2).is_none());
        assert!(pairs(&[1], 8).is_err());
    }
}

//! Reads tar: ustar, GNU and PAX headers, one entry at a time, nothing of a file's content in memory.
//!
//! Own code rather than the `tar` crate's, because the caps of [`Limits`] must hold before memory is
//! taken, and because PAX sparse files are part of the format. It must not touch the file system.
//!
//! Source: POSIX.1-2017 pax, "ustar Interchange Format" and "pax Extended Header"; GNU tar manual,
//! "Basic Tar Format" and "Storing Sparse Files". Where they leave room it follows Go's archive/tar,
//! which wrote most layers there are.

use super::limits::Limits;
use super::sparse::{self, Extent};
use super::stream::{truncated, Stream};
use crate::error::{Error, Result};

pub const BLOCK: usize = 512;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
    Hardlink,
    Symlink,
    CharDevice,
    BlockDevice,
    Fifo,
}

/// One header, with everything that extended headers said about it.
#[derive(Debug, Clone)]
pub struct Entry {
    pub kind: Kind,
    /// As the archive has it: not yet cleaned.
    pub path: Vec<u8>,
    pub link: Vec<u8>,
    /// Permission and set-id bits only.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Bytes of content that follow in the archive (after a sparse map).
    pub stored: u64,
    /// Seconds and nanoseconds since 1970.
    pub mtime: (i64, u32),
    /// Major and minor.
    pub device: (u32, u32),
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub sparse: Option<Sparse>,
}

/// Where the stored bytes of a sparse file belong; the rest are holes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sparse {
    pub size: u64,
    pub extents: Vec<Extent>,
}

pub(super) fn malformed(what: impl std::fmt::Display) -> Error {
    Error::Invalid(format!("malformed archive: {what}"))
}

/// Reads entries off a stream. The caller takes the `stored` bytes of an entry (or skips them) and then
/// calls [`Reader::next`], which passes over the padding.
#[derive(Debug)]
pub struct Reader<'s> {
    pub stream: &'s mut Stream,
    limits: Limits,
    padding: u64,
    pub entries: u64,
}

impl<'s> Reader<'s> {
    pub fn new(stream: &'s mut Stream, limits: &Limits) -> Self {
        Self { stream, limits: *limits, padding: 0, entries: 0 }
    }

    /// The next entry; `None` at the end of the archive.
    pub fn next(&mut self) -> Result<Option<Entry>> {
        let mut extended = Extended::default();
        loop {
            self.stream.skip(self.padding)?;
            self.padding = 0;
            let Some(header) = self.header()? else {
                return if extended.seen { Err(truncated()) } else { Ok(None) };
            };
            self.entries += 1;
            if self.entries > self.limits.entries {
                return Err(malformed(format_args!("more than {} entries", self.limits.entries)));
            }
            match header.typeflag() {
                b'x' | b'X' => {
                    let records = self.special(&header)?;
                    extended.hold(records.len(), &self.limits)?;
                    extended.records(&records, &self.limits)?;
                }
                b'g' => drop(self.special(&header)?),
                b'L' => extended.long_path = Some(until_nul(&self.special(&header)?).to_vec()),
                b'K' => extended.long_link = Some(until_nul(&self.special(&header)?).to_vec()),
                _ => return self.entry(&header, extended).map(Some),
            }
            extended.seen = true;
        }
    }

    /// One header block; `None` at two zero blocks or where the file ends without them (as Go takes it).
    fn header(&mut self) -> Result<Option<Header>> {
        let mut block = [0; BLOCK];
        if !self.stream.read_exact(&mut block)? {
            return Ok(None);
        }
        if block == [0; BLOCK] {
            if !self.stream.read_exact(&mut block)? || block == [0; BLOCK] {
                return Ok(None);
            }
            return Err(malformed("a lone zero block"));
        }
        let header = Header(block);
        header.verify()?;
        Ok(Some(header))
    }

    /// The content of an extended header, capped.
    fn special(&mut self, header: &Header) -> Result<Vec<u8>> {
        let size = header.number(124..136, "size")?;
        let size = u64::try_from(size).map_err(|_| malformed("negative size"))?;
        if size > self.limits.header {
            return Err(malformed(format_args!("extended header of {size} bytes")));
        }
        let mut content = vec![0; size as usize];
        if size > 0 && !self.stream.read_exact(&mut content)? {
            return Err(truncated());
        }
        self.padding = padding(size);
        Ok(content)
    }

    fn entry(&mut self, header: &Header, extended: Extended) -> Result<Entry> {
        let path = extended.long_path.or(extended.path).unwrap_or_else(|| header.path());
        let link = extended.long_link.or(extended.link).unwrap_or_else(|| header.bytes(157..257).to_vec());
        if path.len() >= self.limits.path || link.len() >= self.limits.path {
            return Err(malformed("a path of 4096 bytes or more"));
        }
        let kind = kind(header.typeflag(), &path)?;
        let device = match kind {
            Kind::CharDevice | Kind::BlockDevice => {
                (header.small(329..337, "device major")?, header.small(337..345, "device minor")?)
            }
            _ => (0, 0),
        };
        let mut entry = Entry {
            kind,
            path,
            link,
            mode: (header.number(100..108, "mode")? as u32) & 0o7777,
            uid: extended.uid.map_or_else(|| header.small(108..116, "uid"), Ok)?,
            gid: extended.gid.map_or_else(|| header.small(116..124, "gid"), Ok)?,
            stored: 0,
            mtime: extended
                .mtime
                .map_or_else(|| header.number(136..148, "mtime").map(|mtime| (mtime, 0)), Ok)?,
            device,
            xattrs: extended.xattrs,
            sparse: None,
        };
        if kind == Kind::File {
            let size = extended.size.map_or_else(|| header.number(124..136, "size"), Ok)?;
            entry.stored = u64::try_from(size).map_err(|_| malformed("negative size"))?;
            self.padding = padding(entry.stored);
            self.sparse(header, &mut entry, &extended.sparse)?;
        }
        Ok(entry)
    }

    /// Resolve the four ways to say that a file has holes; takes a map that precedes the content.
    fn sparse(&mut self, header: &Header, entry: &mut Entry, pax: &sparse::Pax) -> Result<()> {
        if let Some(name) = &pax.name {
            entry.path.clone_from(name);
        }
        let maximum = self.limits.extents;
        let (size, extents) = if header.typeflag() == b'S' {
            let (size, extents) = sparse::old_gnu(self.stream, &header.0, maximum)?;
            (size, extents)
        } else if pax.major == Some(1) {
            let (extents, taken) = sparse::leading_map(self.stream, entry.stored, maximum)?;
            entry.stored -= taken;
            (pax.size.ok_or_else(|| malformed("sparse file without a size"))?, extents)
        } else if let Some(size) = pax.size {
            (size, sparse::pairs(&pax.numbers, maximum)?)
        } else {
            return Ok(());
        };
        sparse::validate(size, &extents, entry.stored)?;
        entry.sparse = Some(Sparse { size, extents });
        Ok(())
    }
}

/// Bytes from the end of `size` bytes of content to the next block.
pub(super) fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}

fn kind(typeflag: u8, path: &[u8]) -> Result<Kind> {
    Ok(match typeflag {
        // Before POSIX a directory was a file whose name ends in a slash.
        0 if path.ends_with(b"/") => Kind::Directory,
        0 | b'0' | b'7' | b'S' => Kind::File,
        b'1' => Kind::Hardlink,
        b'2' => Kind::Symlink,
        b'3' => Kind::CharDevice,
        b'4' => Kind::BlockDevice,
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        other => return Err(malformed(format_args!("entry of unknown type {:?}", char::from(other)))),
    })
}

pub(super) fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// One 512-byte header block.
struct Header([u8; BLOCK]);

impl Header {
    fn typeflag(&self) -> u8 {
        self.0[156]
    }

    /// A NUL-terminated field.
    fn bytes(&self, range: std::ops::Range<usize>) -> &[u8] {
        until_nul(&self.0[range])
    }

    /// The sum of all bytes, the checksum field taken as spaces; some old writers summed signed bytes.
    fn verify(&self) -> Result<()> {
        let told = number(&self.0[148..156]);
        let rest = || self.0[..148].iter().chain(&self.0[156..]);
        let blank = 8 * i64::from(b' ');
        let unsigned = || rest().map(|byte| u32::from(*byte)).sum::<u32>();
        let signed = || rest().map(|byte| i32::from(*byte as i8)).sum::<i32>();
        if told == Some(i64::from(unsigned()) + blank) || told == Some(i64::from(signed()) + blank) {
            Ok(())
        } else {
            Err(malformed("bad header checksum, not a tar archive"))
        }
    }

    fn path(&self) -> Vec<u8> {
        let name = self.bytes(0..100);
        let prefix = match &self.0[257..263] {
            b"ustar\0" if &self.0[508..512] == b"tar\0" => self.bytes(345..476),
            b"ustar\0" => self.bytes(345..500),
            _ => &[],
        };
        if prefix.is_empty() {
            return name.to_vec();
        }
        [prefix, b"/", name].concat()
    }

    /// Octal text, or GNU's base-256 with the top bit set.
    fn number(&self, range: std::ops::Range<usize>, what: &str) -> Result<i64> {
        number(&self.0[range]).ok_or_else(|| malformed(format_args!("bad {what}")))
    }

    /// A 32-bit id; 2^32-1 means "leave as it is" to the kernel and is no id.
    fn small(&self, range: std::ops::Range<usize>, what: &str) -> Result<u32> {
        let number = self.number(range, what)?;
        u32::try_from(number)
            .ok()
            .filter(|number| *number != u32::MAX)
            .ok_or_else(|| malformed(format_args!("{what} {number} is out of range")))
    }
}

/// A numeric header field; `None` where it is neither octal nor a base-256 number of 63 bits.
pub(super) fn number(field: &[u8]) -> Option<i64> {
    if field.first()? & 0x80 != 0 {
        let negative = field[0] & 0x40 != 0;
        let mut value: i64 = if negative { -1 } else { 0 };
        for (index, byte) in field.iter().enumerate() {
            let byte = if index == 0 { (byte & 0x7f) | if negative { 0x80 } else { 0 } } else { *byte };
            let shifted = value.checked_mul(256)?;
            value = shifted | i64::from(byte);
        }
        return Some(value);
    }
    let blank = |byte: &u8| *byte == b' ' || *byte == 0;
    let start = field.iter().position(|byte| !blank(byte)).unwrap_or(field.len());
    let digits = field[start..].split(blank).next().unwrap_or_default();
    digits.iter().try_fold(0_i64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}

/// What extended headers said of the entry that follows them.
#[derive(Debug, Default)]
struct Extended {
    seen: bool,
    /// Bytes of the PAX record blocks so far: an entry may have any number of them.
    held: u64,
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    long_path: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    size: Option<i64>,
    uid: Option<u32>,
    gid: Option<u32>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sparse: sparse::Pax,
}

impl Extended {
    /// Account for a record block; all blocks of one entry together are no larger than one may be.
    fn hold(&mut self, bytes: usize, limits: &Limits) -> Result<()> {
        self.held += bytes as u64;
        if self.held > limits.header {
            return Err(malformed(format_args!("extended headers of more than {} bytes", limits.header)));
        }
        Ok(())
    }

    /// PAX records: `LENGTH KEY=VALUE\n`, the length counting itself.
    fn records(&mut self, mut rest: &[u8], limits: &Limits) -> Result<()> {
        let bad = || malformed("bad PAX record");
        while !rest.is_empty() && rest[0] != 0 {
            let space = rest.iter().take(20).position(|byte| *byte == b' ').ok_or_else(bad)?;
            let length: usize = decimal(&rest[..space]).ok_or_else(bad)?;
            if length < space + 2 || length > rest.len() || rest[length - 1] != b'\n' {
                return Err(bad());
            }
            let record = &rest[space + 1..length - 1];
            let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(bad)?;
            self.record(&record[..equals], &record[equals + 1..], limits)?;
            rest = &rest[length..];
        }
        Ok(())
    }

    fn record(&mut self, key: &[u8], value: &[u8], limits: &Limits) -> Result<()> {
        let bad = || malformed(format_args!("bad PAX value of {}", String::from_utf8_lossy(key)));
        let text = |value: &[u8]| -> Result<Option<Vec<u8>>> {
            if value.contains(&0) {
                return Err(bad());
            }
            Ok((!value.is_empty()).then(|| value.to_vec()))
        };
        match key {
            b"path" => self.path = text(value)?,
            b"linkpath" => self.link = text(value)?,
            b"size" => self.size = optional(value, decimal).ok_or_else(bad)?,
            b"uid" => self.uid = optional(value, id).ok_or_else(bad)?,
            b"gid" => self.gid = optional(value, id).ok_or_else(bad)?,
            b"mtime" => self.mtime = optional(value, time).ok_or_else(bad)?,
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    if name.is_empty() || name.len() > 255 || name.contains(&0) || value.len() > limits.xattr
                    {
                        return Err(bad());
                    }
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                } else if let Some(name) = key.strip_prefix(b"GNU.sparse.") {
                    self.sparse.record(name, value, limits.extents).ok_or_else(bad)?;
                }
            }
        }
        Ok(())
    }
}

/// An empty PAX value takes back the record, else it must parse.
#[allow(clippy::option_option)]
fn optional<T>(value: &[u8], parse: impl Fn(&[u8]) -> Option<T>) -> Option<Option<T>> {
    if value.is_empty() {
        Some(None)
    } else {
        parse(value).map(Some)
    }
}

/// Digits only: no sign, no spaces.
pub(super) fn decimal<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn id(text: &[u8]) -> Option<u32> {
    decimal(text).filter(|id| *id != u32::MAX)
}

/// `[-]SECONDS[.FRACTION]`, past nanoseconds cut off.
fn time(text: &[u8]) -> Option<(i64, u32)> {
    let (negative, text) = text.strip_prefix(b"-").map_or((false, text), |rest| (true, rest));
    let (whole, fraction) = match text.iter().position(|byte| *byte == b'.') {
        Some(dot) => (&text[..dot], &text[dot + 1..]),
        None => (text, &[][..]),
    };
    let seconds: i64 = decimal(whole)?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = |index: usize| u32::from(fraction.get(index).map_or(0, |digit| digit - b'0'));
    let nanoseconds = (0..9).fold(0, |value, index| value * 10 + digits(index));
    Some(match (negative, nanoseconds) {
        (false, _) => (seconds, nanoseconds),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanoseconds),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_base_256() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"   644 \0"), Some(0o644));
        assert_eq!(number(b"\0\0\0\0\0\0\0\0"), Some(0));
        assert_eq!(number(b"0000648\0"), None);
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0]), Some(8 << 30));
        assert_eq!(number(&[0xff; 12]), Some(-1));
        assert_eq!(number(&[0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), None);
    }

    #[test]
    fn times_are_exact_to_the_nanosecond() {
        assert_eq!(time(b"1350244992.023960108"), Some((1_350_244_992, 23_960_108)));
        assert_eq!(time(b"1350244992"), Some((1_350_244_992, 0)));
        assert_eq!(time(b"1.5"), Some((1, 500_000_000)));
        assert_eq!(time(b"-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time(b"1.1234567899"), Some((1, 123_456_789)));
        assert_eq!(time(b"1e3"), None);
        assert_eq!(time(b""), None);
    }

    #[test]
    fn a_record_must_be_as_long_as_it_says() {
        let mut extended = Extended::default();
        extended.records(b"12 path=abc\n", &Limits::DEFAULT).expect("well formed");
        assert_eq!(extended.path.as_deref(), Some(&b"abc"[..]));
        for bad in [&b"13 path=abc\n"[..], b"2 \n", b"12 pathxabc\n", b"99999999999999999999 a=b\n", b"x"] {
            assert!(extended.records(bad, &Limits::DEFAULT).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_id_that_means_no_change_is_refused() {
        assert_eq!(id(b"4294967294"), Some(u32::MAX - 1));
        assert_eq!(id(b"4294967295"), None);
        assert_eq!(id(b"4294967296"), None);
        assert_eq!(id(b"-1"), None);
    }
}

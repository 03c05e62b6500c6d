//! tar headers to write: plain ustar where that can say it all, with a PAX header before it where it cannot: long or
//! non-ASCII names, sizes of 8 GiB and more, large ids, nanoseconds, xattrs.
//!
//! Source: as `tar`.

use rustix::fs::Stat;

use super::tar::{padding, BLOCK};

/// A header to write.
#[derive(Debug, Default)]
pub struct Header {
    pub path: Vec<u8>,
    pub link: Vec<u8>,
    pub typeflag: u8,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    pub mtime: (i64, u32),
    pub device: (u32, u32),
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// The size of a sparse file, whose map (see [`super::sparse::map`]) and data are the `size` bytes of content.
    pub sparse: Option<u64>,
}

impl Header {
    pub fn new(path: &[u8], stat: &Stat) -> Self {
        Self {
            path: path.to_vec(),
            typeflag: b'0',
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: (stat.st_mtime, stat.st_mtime_nsec as u32),
            ..Self::default()
        }
    }

    /// The PAX records that say what the block cannot; empty where it can.
    fn records(&self) -> Vec<u8> {
        let mut records = Vec::new();
        let mut record = |key: &[u8], value: &[u8]| {
            // LENGTH KEY=VALUE\n, the length counting its own digits.
            let rest = key.len() + value.len() + 3;
            let mut length = rest + decimal_digits(rest);
            if decimal_digits(length) != decimal_digits(rest) {
                length = rest + decimal_digits(length);
            }
            records.extend_from_slice(length.to_string().as_bytes());
            records.push(b' ');
            records.extend_from_slice(key);
            records.push(b'=');
            records.extend_from_slice(value);
            records.push(b'\n');
        };
        if self.mtime.1 != 0 || self.mtime.0 < 0 {
            record(b"mtime", time(self.mtime).as_bytes());
        }
        if let Some(size) = self.sparse {
            record(b"GNU.sparse.major", b"1");
            record(b"GNU.sparse.minor", b"0");
            record(b"GNU.sparse.name", &self.path);
            record(b"GNU.sparse.realsize", size.to_string().as_bytes());
        } else if self.path.len() > 100 || !self.path.is_ascii() {
            record(b"path", &self.path);
        }
        if self.link.len() > 100 || !self.link.is_ascii() {
            record(b"linkpath", &self.link);
        }
        for (key, value, width) in
            [(&b"size"[..], self.size, 11), (b"uid", self.uid.into(), 7), (b"gid", self.gid.into(), 7)]
        {
            if value >= 1 << (3 * width) {
                record(key, value.to_string().as_bytes());
            }
        }
        for (name, value) in &self.xattrs {
            record(&[b"SCHILY.xattr.", name.as_slice()].concat(), value);
        }
        records
    }

    /// What the archive has of it: the block, before it the PAX records if there are any.
    pub fn parts(&self) -> Vec<Vec<u8>> {
        let records = self.records();
        if records.is_empty() {
            return vec![self.block().to_vec()];
        }
        let extended = Self {
            path: b"PaxHeaders.0/entry".to_vec(),
            typeflag: b'x',
            mode: 0o644,
            size: records.len() as u64,
            ..Self::default()
        };
        let end = vec![0; padding(extended.size) as usize];
        vec![extended.block().to_vec(), records, end, self.block().to_vec()]
    }

    fn block(&self) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        let mut text = |offset: usize, width: usize, value: &[u8]| {
            let length = value.len().min(width);
            block[offset..offset + length].copy_from_slice(&value[..length]);
        };
        // What does not know sparse files must not take the map for content.
        text(0, 100, if self.sparse.is_some() { b"GNUSparseFile.0/sparse" } else { &self.path });
        text(100, 8, &octal(self.mode.into(), 7));
        text(108, 8, &octal(self.uid.into(), 7));
        text(116, 8, &octal(self.gid.into(), 7));
        text(124, 12, &octal(self.size, 11));
        text(136, 12, &octal(u64::try_from(self.mtime.0).unwrap_or(0), 11));
        text(148, 8, b"        ");
        text(156, 1, &[if self.typeflag == 0 { b'0' } else { self.typeflag }]);
        text(157, 100, &self.link);
        text(257, 8, b"ustar\x0000");
        text(329, 8, &octal(self.device.0.into(), 7));
        text(337, 8, &octal(self.device.1.into(), 7));
        let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
        block[148..154].copy_from_slice(&octal(sum, 6));
        block[154] = 0;
        block
    }
}

/// `width` octal digits; what does not fit is 0 there and said in a PAX record.
fn octal(value: u64, width: usize) -> Vec<u8> {
    let value = if value >= 1 << (3 * width) { 0 } else { value };
    format!("{value:0width$o}").into_bytes()
}

fn decimal_digits(value: usize) -> usize {
    value.checked_ilog10().map_or(1, |log| log as usize + 1)
}

fn time((seconds, nanoseconds): (i64, u32)) -> String {
    if seconds < 0 && nanoseconds != 0 {
        return format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanoseconds);
    }
    format!("{seconds}.{nanoseconds:09}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_its_own_digits() {
        let header = Header { path: vec![b'x'; 101], ..Header::default() };
        assert!(header.records().starts_with(b"111 path=xxx"));
        // 99 bytes without the length: three digits are needed for 102, not two.
        let header = Header { xattrs: vec![(b"user.a".to_vec(), vec![b'v'; 77])], ..Header::default() };
        let records = header.records();
        let told: usize = String::from_utf8_lossy(&records[..3]).trim().parse().expect("a number");
        assert_eq!(told, records.len());
    }

    #[test]
    fn times_before_1970_read_back() {
        assert_eq!(time((-2, 750_000_000)), "-1.250000000");
        assert_eq!(time((-1, 0)), "-1.000000000");
        assert_eq!(time((1, 5)), "1.000000005");
    }
}

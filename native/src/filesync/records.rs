//! What a kept tree has: each `Stat` as the client told it, by path.
//!
//! A file that was changed within a clock tick of being asked for may have changed again without its time telling; it
//! is not recorded, and asked for again the next time.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write;
use std::ops::Range;
use std::path::Path;

use super::packet::Stat;
use crate::error::{Error, Result};

/// Of one tree; the bytes are lengths and messages, one after the other.
#[derive(Debug, Default)]
pub struct Records {
    bytes: Vec<u8>,
}

impl Records {
    /// What was recorded at `path`, which has nothing any more: `None` where there is nothing whole.
    pub fn take(path: &Path) -> Option<Self> {
        let bytes = fs::read(path).ok()?;
        fs::remove_file(path).ok()?;
        Some(Self { bytes })
    }

    /// Write them where `take` finds them.
    pub fn write(&self, path: &Path) -> Result<()> {
        File::create(path)
            .and_then(|mut file| file.write_all(&self.bytes))
            .map_err(|error| Error::os("write", path.display().to_string(), error))
    }

    /// One more: where it is.
    pub fn add(&mut self, message: &[u8]) -> Range<usize> {
        self.bytes.extend((message.len() as u32).to_le_bytes());
        let start = self.bytes.len();
        self.bytes.extend(message);
        start..self.bytes.len()
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn get(&self, place: &Range<usize>) -> &[u8] {
        &self.bytes[place.clone()]
    }

    /// Where each is, by path.
    pub fn by_path(&self) -> Result<HashMap<Vec<u8>, Range<usize>>> {
        let mut found = HashMap::new();
        let mut start = 0;
        while let Some(length) = self.bytes.get(start..start + 4) {
            let length = u32::from_le_bytes([length[0], length[1], length[2], length[3]]) as usize;
            let place = start + 4..start + 4 + length;
            start = place.end;
            let Some(message) = self.bytes.get(place.clone()) else { break };
            found.insert(Stat::parse(message)?.path.to_vec(), place);
        }
        Ok(found)
    }
}

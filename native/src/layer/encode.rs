//! tar bytes on their way out: counted, hashed, compressed, hashed again.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::thread::Scope;

use sha2::{Digest as _, Sha256};

use super::gzip;
use super::sink::Sink;
use super::source::{Decoder, Input, Source};
use super::stream::{digest_text, Digests, CHUNK};
use crate::error::{Error, Result};

/// How a packed layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PackCompression {
    None,
    Gzip,
    Zstd,
}

/// zstd's own default: as small as gzip's best at many times its speed.
const ZSTD_LEVEL: i32 = 3;

/// The whole way of an archive's bytes.
pub struct Output<'scope> {
    hash: Sha256,
    size: u64,
    encoder: Encoder<'scope>,
}

impl<'scope> Output<'scope> {
    /// To `fd`; what compresses runs on threads of `scope`. Without a level it is the compression's own.
    pub fn new<'env>(
        scope: &'scope Scope<'scope, 'env>,
        fd: &'env OwnedFd,
        compression: PackCompression,
        level: Option<i32>,
    ) -> Result<Self> {
        let sink = Sink::new(fd);
        let encoder = match compression {
            PackCompression::None => Encoder::None(sink),
            PackCompression::Gzip => Encoder::Gzip(gzip::Writer::new(scope, sink, level)?),
            PackCompression::Zstd => {
                let failed = |error| Error::os("start zstd for", "layer", error);
                let mut encoder =
                    zstd::stream::write::Encoder::new(sink, level.unwrap_or(ZSTD_LEVEL)).map_err(failed)?;
                // Even for one: with workers the frame does not depend on how many there are.
                let workers = std::thread::available_parallelism().map_or(1, |count| count.get() as u32);
                encoder.multithread(workers).map_err(failed)?;
                Encoder::Zstd(encoder)
            }
        };
        Ok(Self { hash: Sha256::new(), size: 0, encoder })
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.size += bytes.len() as u64;
        self.hash.update(bytes);
        match &mut self.encoder {
            Encoder::None(sink) => sink.put(bytes),
            Encoder::Gzip(writer) => writer.write(bytes),
            Encoder::Zstd(encoder) => {
                encoder.write_all(bytes).map_err(|error| encoder.get_mut().failure(error))
            }
        }
    }

    pub fn finish(self) -> Result<Digests> {
        let sink = match self.encoder {
            Encoder::None(sink) => sink,
            Encoder::Gzip(writer) => writer.finish()?,
            Encoder::Zstd(encoder) => {
                encoder.try_finish().map_err(|(mut encoder, error)| encoder.get_mut().failure(error))?
            }
        };
        let (digest, compressed_size) = sink.finish()?;
        Ok(Digests { digest, diff_id: digest_text(self.hash), compressed_size, size: self.size })
    }
}

/// A layer in whatever compression, read from `source` to its end, in another one on `target`: for registries.
pub fn compress_layer(
    source: &impl AsFd,
    target: &OwnedFd,
    compression: PackCompression,
    level: Option<i32>,
) -> Result<Digests> {
    let mut source = Source::new(Input::from(source), None, false);
    let mut decoder = Decoder::new(source.compression()?, &mut source)?;
    std::thread::scope(|scope| {
        let mut output = Output::new(scope, target, compression, level)?;
        let mut buffer = vec![0; CHUNK];
        loop {
            match decoder.fill(&mut buffer)? {
                0 => return output.finish(),
                count => output.write(&buffer[..count])?,
            }
        }
    })
}

enum Encoder<'scope> {
    None(Sink<'scope>),
    Gzip(gzip::Writer<'scope>),
    Zstd(zstd::stream::write::Encoder<'static, Sink<'scope>>),
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, Write};

    use super::*;
    use crate::layer::gzip::{BLOCK, WINDOW};

    fn packed(data: &[u8]) -> (Digests, Vec<u8>) {
        packed_as(data, PackCompression::Gzip, None)
    }

    fn packed_as(data: &[u8], compression: PackCompression, level: Option<i32>) -> (Digests, Vec<u8>) {
        let mut source = tempfile::tempfile().expect("a file");
        source.write_all(data).expect("written");
        source.rewind().expect("rewound");
        let target = tempfile::tempfile().expect("a file");
        let duplicate = OwnedFd::from(target.try_clone().expect("a duplicate"));
        let found = compress_layer(&source, &duplicate, compression, level).expect("packed");
        let (mut target, mut bytes) = (target, Vec::new());
        target.rewind().expect("rewound");
        target.read_to_end(&mut bytes).expect("read");
        (found, bytes)
    }

    #[test]
    fn any_gunzip_gives_the_bytes_back() {
        let noise = |count: usize| (0..count as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8);
        let mut data: Vec<u8> = noise(BLOCK + 7).collect();
        data.resize(data.len() + 3 * BLOCK, b'x');
        data.extend(noise(123));
        for data in [&data[..], &data[..BLOCK], b"short", b""] {
            let (found, bytes) = packed(data);
            let mut plain = Vec::new();
            // Not the multi-member decoder: it is one member.
            flate2::read::GzDecoder::new(&bytes[..]).read_to_end(&mut plain).expect("gzip");
            assert!(plain == data);
            assert_eq!(found.compressed_size, bytes.len() as u64);
            assert_eq!(found.size, data.len() as u64);
            assert_eq!(found.digest, digest_text(Sha256::new_with_prefix(&bytes)));
            assert_eq!(found.diff_id, digest_text(Sha256::new_with_prefix(data)));
        }
    }

    #[test]
    fn what_was_compressed_is_compressed_anew() {
        let data: Vec<u8> =
            (0..BLOCK as u32 / 4).map(|i| (i.wrapping_mul(2_654_435_761) >> 29) as u8).collect();
        let diff_id = digest_text(Sha256::new_with_prefix(&data));
        let (_, gzip) = packed(&data);
        let (found, zstd) = packed_as(&gzip, PackCompression::Zstd, Some(6));
        assert_eq!((found.diff_id.as_str(), zstd.starts_with(b"\x28\xb5\x2f\xfd")), (diff_id.as_str(), true));
        assert_eq!(packed_as(&zstd, PackCompression::None, None).1, data);
        assert_eq!(packed_as(&zstd, PackCompression::Gzip, None).1, gzip);
        assert!(packed_as(&data, PackCompression::Gzip, Some(1)).1.len() > gzip.len());
    }

    #[test]
    fn blocks_know_what_came_before_them() {
        let line: Vec<u8> = (0..WINDOW as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
        let mut data = vec![0; BLOCK - line.len()];
        data.extend_from_slice(&line);
        let alone = packed(&data).1.len();
        data.extend_from_slice(&line[line.len() / 2..]);
        assert!(packed(&data).1.len() < alone + 2000);
    }

    #[test]
    fn a_target_that_cannot_be_written_to_is_the_failure() {
        let source = std::fs::File::open("/dev/zero").expect("zeros");
        let target = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("a full device");
        let error = compress_layer(&source, &target.into(), PackCompression::Gzip, None).expect_err("full");
        assert!(error.to_string().contains("No space left"), "{error}");
    }
}

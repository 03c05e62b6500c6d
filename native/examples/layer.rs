//! Where a layer's time goes: one stage or the whole pass over a blob, with the processor's seconds.
//!
//!     cargo run --release --example layer -- unpack BLOB DIRECTORY
//!     cargo run --release --example layer -- pack DIRECTORY FILE gzip|zstd|none
//!
//! What `perf record -g` is pointed at.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::time::Instant;

use proa_native::layer::{self, Limits, PackCompression};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let begun = Instant::now();
    let text: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let found = match text[..] {
        ["unpack", blob, directory] => {
            let source = File::open(blob).expect("open");
            layer::unpack_layer(&source, directory, true, None, &Limits::DEFAULT)
        }
        ["pack", directory, file, compression] => {
            let target = OwnedFd::from(File::create(file).expect("create"));
            let compression = match compression {
                "gzip" => PackCompression::Gzip,
                "zstd" => PackCompression::Zstd,
                _ => PackCompression::None,
            };
            layer::pack_layer(directory, &target, compression, true)
        }
        _ => panic!("unpack BLOB DIRECTORY | pack DIRECTORY FILE COMPRESSION"),
    }
    .expect("the pass");
    let wall = begun.elapsed().as_secs_f64();
    let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let cpu = std::time::Duration::new(cpu.tv_sec.unsigned_abs(), cpu.tv_nsec as u32).as_secs_f64();
    eprintln!("{wall:.2} s wall, {cpu:.2} s cpu, {} entries, {:?}", found.entries, found.digests);
}

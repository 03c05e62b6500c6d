//! Loop devices: a file as a block device, for images of file systems.
//!
//! Source: <https://man7.org/linux/man-pages/man4/loop.4.html>.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{open, Mode, OFlags};
use rustix::io::{Errno, Result};

use super::{check, syscall};

const LOOP_CTL_GET_FREE: usize = 0x4c82;
const LOOP_CONFIGURE: usize = 0x4c0a;
const LO_FLAGS_READ_ONLY: u32 = 1;
/// The device lets go of its file with its last user: an unmount is all there is to clean up.
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const TRIES: usize = 32;

/// `struct loop_config`.
#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

/// `struct loop_info64`.
#[repr(C)]
struct Info {
    numbers: [u64; 5],
    number: u32,
    encryption: [u32; 2],
    flags: u32,
    names: [u8; 64 + 64 + 32],
    init: [u64; 2],
}

/// A free loop device on `file`: (its descriptor, its path). It is gone once nothing uses it any more.
pub fn attach(file: BorrowedFd<'_>, read_only: bool) -> Result<(OwnedFd, String)> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let control = open("/dev/loop-control", flags, Mode::empty())?;
    for _ in 0..TRIES {
        // SAFETY: no pointers.
        let number = check(unsafe {
            syscall(libc::SYS_ioctl, control.as_raw_fd() as usize, LOOP_CTL_GET_FREE, 0, 0, 0, 0)
        })?;
        let path = format!("/dev/loop{number}");
        let access = if read_only { OFlags::RDONLY } else { OFlags::RDWR };
        let device = open(path.as_str(), access | OFlags::CLOEXEC, Mode::empty())?;
        match configure(&device, file, read_only) {
            // Somebody else was faster.
            Err(Errno::BUSY) => {}
            Err(error) => return Err(error),
            Ok(()) => return Ok((device, path)),
        }
    }
    Err(Errno::BUSY)
}

fn configure(device: &OwnedFd, file: BorrowedFd<'_>, read_only: bool) -> Result<()> {
    let info = Info {
        numbers: [0; 5],
        number: 0,
        encryption: [0; 2],
        flags: LO_FLAGS_AUTOCLEAR | if read_only { LO_FLAGS_READ_ONLY } else { 0 },
        names: [0; 160],
        init: [0; 2],
    };
    let config = Config { fd: file.as_raw_fd() as u32, block_size: 0, info, reserved: [0; 8] };
    // SAFETY: a whole struct loop_config.
    check(unsafe {
        syscall(
            libc::SYS_ioctl,
            device.as_raw_fd() as usize,
            LOOP_CONFIGURE,
            &raw const config as usize,
            0,
            0,
            0,
        )
    })
    .map(drop)
}

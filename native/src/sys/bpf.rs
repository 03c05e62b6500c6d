//! bpf(2), as far as cgroup v2's device control needs it.
//!
//! <https://man7.org/linux/man-pages/man2/bpf.2.html>

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

const PROG_LOAD: u32 = 5;
const PROG_ATTACH: u32 = 8;
const PROG_GET_FD_BY_ID: u32 = 13;
const PROG_QUERY: u32 = 16;

const TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
/// Programs of groups above and below run as well; all must grant.
const ALLOW_MULTI: u32 = 1 << 1;
const REPLACE: u32 = 1 << 2;

/// One eBPF instruction, `struct bpf_insn`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    value: i32,
}

impl Instruction {
    #[must_use]
    pub const fn new(code: u8, target: u8, source: u8, offset: i16, value: i32) -> Self {
        // The two nibbles follow the byte order of bit fields.
        let registers =
            if cfg!(target_endian = "little") { target | source << 4 } else { source | target << 4 };
        Self { code, registers, offset, value }
    }

    #[must_use]
    pub const fn code(self) -> u8 {
        self.code
    }

    #[must_use]
    pub const fn target(self) -> u8 {
        if cfg!(target_endian = "little") {
            self.registers & 15
        } else {
            self.registers >> 4
        }
    }

    #[must_use]
    pub const fn source(self) -> u8 {
        if cfg!(target_endian = "little") {
            self.registers >> 4
        } else {
            self.registers & 15
        }
    }

    #[must_use]
    pub const fn offset(self) -> i16 {
        self.offset
    }

    #[must_use]
    pub const fn value(self) -> i32 {
        self.value
    }
}

/// Head of `union bpf_attr` for `BPF_PROG_LOAD`; fields beyond are zero.
#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
    replaced: u32,
}

#[repr(C)]
#[derive(Default)]
struct Query {
    target: u32,
    kind: u32,
    flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    padding: u32,
}

#[repr(C)]
#[derive(Default)]
struct ById {
    id: u32,
    next: u32,
    flags: u32,
}

/// Call bpf(2) with one of the structs above.
fn call<T>(command: u32, attributes: &mut T) -> Result<i64, Errno> {
    // SAFETY: every caller passes a `repr(C)` head of `union bpf_attr` for its command, of the size told; all
    // pointers in it are to live buffers of the lengths told; the kernel takes missing fields as zero.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), std::mem::size_of::<T>())
    };
    if result < 0 {
        Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL))
    } else {
        Ok(result)
    }
}

/// Own a file descriptor that bpf(2) just returned (close-on-exec by itself).
fn own(fd: i64) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for us; nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

/// Load a program that decides on device accesses.
pub fn load_device_program(code: &[Instruction]) -> Result<OwnedFd, Errno> {
    let mut attributes = Load {
        kind: TYPE_CGROUP_DEVICE,
        count: u32::try_from(code.len()).map_err(|_| Errno::TOOBIG)?,
        instructions: code.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        ..Load::default()
    };
    call(PROG_LOAD, &mut attributes).map(own)
}

/// Attach a device program to a cgroup2 directory, in place of `old` if there is one.
pub fn attach_device_program(
    group: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    old: Option<BorrowedFd<'_>>,
) -> Result<(), Errno> {
    let mut attributes = Attach {
        target: group.as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        kind: ATTACH_CGROUP_DEVICE,
        flags: ALLOW_MULTI | if old.is_some() { REPLACE } else { 0 },
        replaced: old.map_or(0, |fd| fd.as_raw_fd() as u32),
    };
    call(PROG_ATTACH, &mut attributes).map(drop)
}

/// Ids of the device programs attached to this very group, in the order they were.
pub fn device_programs(group: BorrowedFd<'_>) -> Result<Vec<u32>, Errno> {
    let mut ids = vec![0u32; 64];
    let mut attributes = Query {
        target: group.as_raw_fd() as u32,
        kind: ATTACH_CGROUP_DEVICE,
        ids: ids.as_mut_ptr() as u64,
        count: ids.len() as u32,
        ..Query::default()
    };
    call(PROG_QUERY, &mut attributes)?;
    ids.truncate(attributes.count as usize);
    Ok(ids)
}

/// A descriptor of a loaded program.
pub fn program_by_id(id: u32) -> Result<OwnedFd, Errno> {
    call(PROG_GET_FD_BY_ID, &mut ById { id, ..ById::default() }).map(own)
}

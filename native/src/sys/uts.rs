//! Names of the host, and its loopback interface.

use std::os::fd::AsRawFd;

use rustix::io::Result;

use super::{check, check_fd, syscall};

/// <https://man7.org/linux/man-pages/man2/sethostname.2.html>
pub fn set_hostname(name: &[u8]) -> Result<()> {
    // SAFETY: pointer and length are of one slice.
    check(unsafe { syscall(libc::SYS_sethostname, name.as_ptr() as usize, name.len(), 0, 0, 0, 0) }).map(drop)
}

/// <https://man7.org/linux/man-pages/man2/setdomainname.2.html>
pub fn set_domainname(name: &[u8]) -> Result<()> {
    // SAFETY: pointer and length are of one slice.
    check(unsafe { syscall(libc::SYS_setdomainname, name.as_ptr() as usize, name.len(), 0, 0, 0, 0) })
        .map(drop)
}

/// Brings `lo` of the current network namespace up. <https://man7.org/linux/man-pages/man7/netdevice.7.html>
pub fn loopback_up() -> Result<()> {
    #[repr(C)]
    struct InterfaceFlags {
        name: [u8; 16],
        flags: u16,
        rest: [u8; 22],
    }
    let socket_kind = (libc::SOCK_DGRAM | libc::SOCK_CLOEXEC) as usize;
    // SAFETY: no pointers; returns a new descriptor.
    let socket =
        check_fd(unsafe { syscall(libc::SYS_socket, libc::AF_INET as usize, socket_kind, 0, 0, 0, 0) })?;
    let mut request =
        InterfaceFlags { name: [0; 16], flags: (libc::IFF_UP | libc::IFF_RUNNING) as u16, rest: [0; 22] };
    request.name[..2].copy_from_slice(b"lo");
    // SAFETY: SIOCSIFFLAGS reads a struct ifreq, which is 40 bytes.
    check(unsafe {
        syscall(
            libc::SYS_ioctl,
            socket.as_raw_fd() as usize,
            libc::SIOCSIFFLAGS as usize,
            &raw const request as usize,
            0,
            0,
            0,
        )
    })
    .map(drop)
}

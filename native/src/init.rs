//! The built-in init: pid 1 of a container that asked for one, the process being its child.
//!
//! It is a fork of the starting child, confined like the process itself: no program of the host is executed in the
//! container's view (CVE-2019-5736). It reaps, forwards signals and exits as its child did. Having forked, it
//! unmaps all memory but its own code and stack, so that it holds nothing of the keeper's.

#![allow(unsafe_code)]

use std::os::fd::BorrowedFd;

use crate::sys;

/// Address ranges: [start, end).
type Range = (usize, usize);

/// What an init keeps of its memory.
#[derive(Debug, Clone, Copy, Default)]
pub struct Kept {
    /// The object file that holds this code.
    image: Range,
    /// All that is kept, in ascending order.
    ranges: [Range; 3],
    /// End of the highest mapping.
    top: usize,
}

impl Kept {
    /// Reads the caller's memory map: the image around this function, and the top.
    pub fn probe() -> std::io::Result<Self> {
        let maps = std::fs::read_to_string("/proc/self/maps")?;
        let here = run as *const () as usize;
        Self::parse(&maps, here).ok_or_else(|| std::io::Error::from(std::io::ErrorKind::InvalidData))
    }

    fn parse(maps: &str, here: usize) -> Option<Self> {
        let ranges: Vec<(usize, usize, &str)> = maps.lines().filter_map(parse_line).collect();
        let path = ranges.iter().find(|(start, end, _)| (*start..*end).contains(&here))?.2;
        let mut image = (usize::MAX, 0);
        for (start, end, _) in ranges.iter().filter(|(_, _, of)| *of == path) {
            image = (image.0.min(*start), image.1.max(*end));
        }
        let top = ranges.iter().filter(|(_, _, of)| *of != "[vsyscall]").map(|(_, end, _)| *end).max()?;
        Some(Self { image, ranges: Default::default(), top })
    }

    /// With what differs between clones: the child's stack, and the pages of the thread that clones it.
    #[must_use]
    pub fn with(mut self, stack: Range, thread: Range) -> Self {
        self.ranges = [self.image, stack, thread];
        self.ranges.sort_unstable();
        self
    }
}

fn parse_line(line: &str) -> Option<(usize, usize, &str)> {
    let (range, rest) = line.split_once(' ')?;
    let (start, end) = range.split_once('-')?;
    let path = rest.splitn(5, ' ').nth(4).unwrap_or("").trim_start();
    Some((usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?, path))
}

/// In the process, before execve: its own process group, in the foreground of the terminal if there is one.
pub fn stand_apart(stdin: BorrowedFd<'_>) {
    if rustix::process::setpgid(None, None).is_ok() {
        // Not every stdin is a terminal; SIGTTOU is blocked here.
        let _ = rustix::termios::tcsetpgrp(stdin, rustix::process::getpid());
    }
}

/// Serves as init for the child `pid`. Every signal is blocked already.
pub fn run(pid: i32, kept: &Kept) -> ! {
    // By value: what `kept` points to is unmapped below.
    let ([low, middle, high], top) = (kept.ranges, kept.top);
    sys::set_name(c"proa-init");
    let _ = sys::prctl(libc::PR_SET_DUMPABLE, 0, 0);
    let _ = sys::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0);
    // SAFETY: from here on only this function and the calls of sys.rs run, which live in the image and use
    // the stack; they call nothing in another object. No descriptor is used any more.
    unsafe {
        sys::close_all();
        sys::unmap(0x1000, low.0);
        sys::unmap(low.1, middle.0);
        sys::unmap(middle.1, high.0);
        sys::unmap(high.1, top);
    }
    loop {
        match sys::wait_signal(u64::MAX) {
            Ok(libc::SIGCHLD) => reap(pid),
            Ok(signal) => drop(sys::kill(pid, signal)),
            Err(_) => {}
        }
    }
}

/// Reaps what is dead; exits when the process is among them.
fn reap(pid: i32) {
    while let Ok(Some((reaped, status))) = sys::reap_any() {
        if reaped == pid {
            let signal = status & 0x7f;
            sys::exit(if signal == 0 { (status >> 8) & 0xff } else { 128 + signal });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
00400000-00401000 r--p 00000000 fd:00 1 /usr/bin/python
7f0000000000-7f0000001000 r--p 00000000 fd:00 2 /lib/x.so
7f0000001000-7f0000003000 r-xp 00001000 fd:00 2 /lib/x.so
7f0000003000-7f0000004000 rw-p 00000000 00:00 0 
7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0                          [stack]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
";

    #[test]
    fn finds_the_whole_object_and_the_top() {
        let kept = Kept::parse(MAPS, 0x7f00_0000_1800).expect("inside x.so");
        assert_eq!(kept.image, (0x7f00_0000_0000, 0x7f00_0000_3000));
        assert_eq!(kept.top, 0x7ffc_0002_1000);
    }

    #[test]
    fn what_is_kept_is_in_order() {
        let kept = Kept { image: (30, 40), ..Kept::default() }.with((50, 60), (10, 20));
        assert_eq!(kept.ranges, [(10, 20), (30, 40), (50, 60)]);
    }

    #[test]
    fn an_address_outside_of_every_object_is_refused() {
        assert!(Kept::parse(MAPS, 0x10).is_none());
    }
}

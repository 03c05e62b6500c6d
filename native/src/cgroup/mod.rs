//! Control groups: v1, v2 and hybrids of both, written directly; systemd is never asked.
//!
//! Owns every path below /sys/fs/cgroup that the engine makes. A [`Group`] is one cgroup path in all
//! mounted hierarchies at once; it holds a directory fd of its parent in each and reaches its files
//! relative to them, so that making, filling and removing one costs no path walk.
//!
//! | file         | decision it hides                                              |
//! |--------------|----------------------------------------------------------------|
//! | hierarchy.rs | what is mounted where                                          |
//! | group.rs     | life of one group: make, attach, freeze, kill, remove          |
//! | limits.rs    | which writes a set of limits is, and their order; undo         |
//! | v1.rs v2.rs  | the words of the two interfaces                                |
//! | devices.rs   | device rules as v1 lines or as an eBPF program                 |
//! | oom.rs       | how a kill for want of memory is counted and announced         |
//! | parent.rs    | where groups are made, and the files there                     |
//! | stats.rs     | Docker's sample out of the kernel's files                      |
//!
//! Sources: the kernel's admin-guide/cgroup-v1/*.rst and admin-guide/cgroup-v2.rst.

mod devices;
mod group;
mod hierarchy;
mod limits;
mod oom;
mod parent;
mod stats;
#[cfg(test)]
mod tests;
mod v1;
mod v2;

pub use group::{Directory, Group, FAREWELL};
pub use hierarchy::{favor_dynamic_modifications, Hierarchies, Place, Version};
pub use oom::OomEvents;
pub use stats::{BlkioEntry, CpuStats, MemoryStats, Stats};

//! proa's native core: what happens between a request and the kernel.
//!
//! `process`, `child`, `mount`, `confine`, `seccomp`, `cgroup` and `netns` start and confine
//! containers, `layer` unpacks and packs images, `keeper` supervises, `dns` answers for names,
//! `probes` asks containers how they are. `py` is the only module that knows Python.

#![deny(unsafe_code)]

#[macro_use]
mod report;

mod bare;
pub mod cgroup;
mod child;
pub mod confine;
pub mod copying;
mod dev;
pub mod dns;
mod epoll;
pub mod error;
pub mod filesync;
pub mod http2;
mod idmap;
mod init;
pub mod keeper;
mod launch;
pub mod layer;
mod mount;
pub mod netlink;
pub mod netns;
mod overlay;
pub mod plan;
mod ports;
mod prepare;
pub mod probes;
pub mod process;
#[cfg(feature = "python")]
mod py;
pub mod rootfs;
mod script;
pub mod seccomp;
pub mod sys;
mod timers;
mod tree;
pub mod volume;

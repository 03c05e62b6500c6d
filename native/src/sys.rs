//! Raw system calls that no safe crate offers.

#![allow(unsafe_code)]

pub mod bpf;
pub mod supervise;

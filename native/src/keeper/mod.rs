//! The keeper: one native supervisor per host, parent of every container's init.

mod client;
mod connection;
mod detach_keys;
mod json_line;
mod ledger;
pub mod log_reader;
mod log_writer;
mod poll;
pub mod protocol;
mod stdio;

//! The keeper: one native supervisor per host, parent of every container's init.

mod connection;
mod detach_keys;
mod json_line;
mod ledger;
mod log_writer;
mod poll;
pub mod protocol;

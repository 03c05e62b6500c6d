//! The keeper: one native supervisor per host, parent of every container's init.
//!
//! It starts containers and execs as `process` does it, holds their streams, writes their logs, serves
//! attached clients, reaps, and remembers exits until proad has stored them. One loop on one epoll
//! set, nothing in it that blocks. It decides nothing: policy is proad's, and proad may come and go.
//!
//! | file          | decision it hides                                                |
//! |---------------|------------------------------------------------------------------|
//! | protocol.rs   | the messages                                                     |
//! | connection.rs | packets, descriptors, queues                                     |
//! | boot.rs       | what is set up once                                              |
//! | supervisor.rs | the state and the loop                                           |
//! | requests.rs starts.rs exits.rs | the life of a process, in that order            |
//! | record.rs     | the table of processes                                           |
//! | stdio.rs pipes.rs client.rs detach_keys.rs | streams, and who is attached to them         |
//! | log.rs        | a process's output as lines                                      |
//! | json_line.rs log_writer.rs log_reader.rs | the log's format, its writing and reading |
//! | ship/         | lines on their way to a log server                               |
//! | ledger.rs     | exits that outlive both daemons                                  |
//! | net_pool.rs   | namespaces made ready                                            |
//! | resolver.rs   | what the thread that answers for names is told                   |
//! | janitor.rs    | what is closed on a thread of its own                            |
//! | hand_over.rs  | the state on its way to a newer keeper                           |

mod boot;
mod client;
mod connection;
mod detach_keys;
mod exits;
mod hand_over;
mod janitor;
mod json_line;
mod ledger;
mod log;
pub mod log_reader;
mod log_watch;
mod log_writer;
mod net_pool;
mod networks;
mod pipes;
mod poll;
mod ports;
pub mod protocol;
mod record;
mod requests;
mod resolver;
mod ship;
mod starts;
mod stdio;
mod supervisor;
mod timers;

use std::os::fd::OwnedFd;
use std::path::Path;

use crate::error::Result;
use supervisor::Keeper;

/// Be the keeper of `exec_root` until told to shut down. One byte goes to `ready` when it listens.
///
/// `EADDRINUSE` where another keeper holds the lock. Must be the only thread of its process.
pub fn main(exec_root: &Path, ready: Option<OwnedFd>) -> Result<()> {
    if hand_over::answer_predecessor()? {
        return Ok(());
    }
    boot::set_up_process();
    let mut keeper = if let Some(state) = hand_over::inherited()? {
        Keeper::restore(exec_root, state)?
    } else {
        let lock = boot::take_lock(exec_root)?;
        let listener = boot::set_up(exec_root)?;
        Keeper::new(exec_root, lock, listener)?
    };
    if let Some(ready) = ready {
        // Ignored: whoever started us does not wait for it.
        let _ = rustix::io::write(&ready, b"1");
    }
    keeper.run();
    Ok(())
}

//! Ends: reaping, the last output, the ledger, and what is taken down afterwards.
//!
//! | running  | pidfd readable: wait for the status, read what the pipes hold            |
//! |----------|--------------------------------------------------------------------------|
//! | draining | every output at its end, or [`DRAIN_NS`] later (a fd that lives on in    |
//! |          | another process): finish the log, then ledger, then the event; output    |
//! |          | that is shipped is read in turns, for as long as [`END_NS`] more         |
//! | over     | clients take the rest and close, within [`LINGER_NS`] of their end       |

use std::os::fd::AsFd;

use rustix::process::{kill_process_group, waitid, Pid, Signal, WaitId, WaitIdOptions};

use super::ledger::Entry;
use super::poll::{Flags, Part, Source};
use super::protocol::{Exit, ExitReason, Reply};
use super::record::{Confinement, Ended, Phase, Record, Running, Status};
use super::ship::END_NS;
use super::supervisor::{Cleanup, Ending, Keeper};
use super::timers::{monotonic_ns, realtime_ns, Due};
use crate::sys::supervise::send_signal;

/// How long an ended process's output is waited for when something else holds it open.
const DRAIN_NS: u64 = 100_000_000;
/// How long a client may take to close after it was told the end.
const LINGER_NS: u64 = 5_000_000_000;
/// After a notice of memory trouble, look for a kill this long later, doubled each time.
const LOOK_NS: u64 = 1_000_000;
/// So often.
const LOOKS: u32 = 10;
/// A cgroup that is busy is tried again after this long, doubled each time.
const RETRY_NS: u64 = 5_000_000;
/// Tries after which a cgroup is left behind.
const TRIES: u32 = 12;

impl Keeper {
    /// A process has ended.
    pub(super) fn reap(&mut self, number: u32) {
        let Some(record) = self.table.get_mut(number) else { return };
        let Phase::Running(running) = &mut record.phase else { return };
        let Some(status) = wait(running) else { return };
        self.fresh = self.fresh.filter(|(fresh, _)| *fresh != number);
        let Phase::Running(running) = std::mem::replace(&mut record.phase, Phase::Waiting) else { return };
        let Running { handle, mut exit, started_at_ns, deadline_ns, timed_out, confinement, oom, oom_kills } =
            *running;
        exit.want(&handle.pidfd, None);
        if let Some((events, mut registration)) = oom {
            registration.want(&events, None);
        }
        if let Some(deadline_ns) = deadline_ns {
            self.timers.remove(deadline_ns, Due::Timeout(number));
        }
        let key = record.key.clone();
        let kills = confinement.group.as_ref().map_or(0, crate::cgroup::Group::oom_kills);
        kill_rest(&confinement);
        let drain_until_ns = monotonic_ns() + DRAIN_NS;
        record.phase = Phase::Draining(Box::new(Ended {
            pid: handle.pid as u32,
            started_at_ns,
            finished_at_ns: realtime_ns(),
            status,
            timed_out,
            oom: kills > 0,
            drain_until_ns,
        }));
        let more = record.stdio.drain(realtime_ns(), &mut self.scratch);
        self.timers.add(if more { monotonic_ns() } else { drain_until_ns }, Due::Drain(number));
        if kills > oom_kills {
            let id = record.key.id.clone();
            self.tell(&Reply::Oom { id });
        }
        self.forget_names(&key);
        self.clean_later(confinement);
        self.after_output(number);
    }

    /// An ended process whose output is at its end is done with.
    pub(super) fn after_output(&mut self, number: u32) {
        self.wake_for_log(number);
        let Some(record) = self.table.get(number) else { return };
        if matches!(record.phase, Phase::Draining(_)) && record.stdio.outputs_ended() {
            self.publish(number);
        }
    }

    /// Read on where output is shipped; otherwise, its time is over.
    pub(super) fn drain(&mut self, number: u32) {
        let Some(record) = self.table.get_mut(number) else { return };
        let Phase::Draining(ended) = &record.phase else { return };
        let until_ns = ended.drain_until_ns;
        let more = record.stdio.drain(realtime_ns(), &mut self.scratch);
        let now_ns = monotonic_ns();
        if more && now_ns >= until_ns + END_NS {
            record.stdio.drain_unshipped(realtime_ns(), &mut self.scratch);
        } else if more || now_ns < until_ns {
            // Until then, where it is shipped to may keep up with it.
            let waits = now_ns < until_ns && (!more || record.stdio.log_congested());
            self.timers.add(if waits { until_ns } else { now_ns }, Due::Drain(number));
            return self.after_output(number);
        }
        self.publish(number);
    }

    /// The last byte is in the log: record the exit and tell of it.
    fn publish(&mut self, number: u32) {
        let Some(record) = self.table.get_mut(number) else { return };
        let Phase::Draining(_) = &record.phase else { return };
        record.stdio.finish(realtime_ns(), &mut self.scratch);
        let Phase::Draining(ended) = std::mem::replace(&mut record.phase, Phase::Over) else { return };
        self.timers.remove(ended.drain_until_ns, Due::Drain(number));
        let (code, reason) = ended.verdict();
        let (id, exec_id) = (record.key.id.clone(), record.key.exec_id.clone());
        let exit = Exit { id, exec_id, code, reason, oom: ended.oom, finished_at_ns: ended.finished_at_ns };
        let (pid, started_at_ns) = (ended.pid, ended.started_at_ns);
        self.ledger.append(Entry { exit: exit.clone(), pid, started_at_ns });
        self.tell(&Reply::Exited(exit));
        self.table.retire(number);
        self.timers.add(monotonic_ns() + LINGER_NS, Due::Linger(number));
        self.wake_for_log(number);
        self.after_client(number);
    }

    /// The log may have to be looked after at some time.
    pub(super) fn wake_for_log(&mut self, number: u32) {
        if let Some(due_ns) = self.table.get(number).and_then(|record| record.stdio.due()) {
            self.timers.add(due_ns, Due::Ship(number));
        }
    }

    /// Something has changed on the way that a log takes.
    pub(super) fn on_ship(&mut self, number: u32, flags: Option<Flags>) {
        let Some(record) = self.table.get_mut(number) else { return };
        record.stdio.on_ship(flags);
        self.wake_for_log(number);
        self.after_client(number);
    }

    /// A process that is over, or only waited for, is forgotten with its last client and log line.
    pub(super) fn after_client(&mut self, number: u32) {
        let Some(record) = self.table.get(number) else { return };
        if matches!(record.phase, Phase::Over | Phase::Waiting) && !record.stdio.is_needed() {
            self.table.remove(number);
        }
    }

    /// Clients still taking their output get more time; the others had theirs.
    pub(super) fn drop_lingering(&mut self, number: u32) {
        let Some(record) = self.table.get_mut(number) else { return };
        record.stdio.drop_lingering();
        if record.stdio.is_needed() {
            self.timers.add(monotonic_ns() + LINGER_NS, Due::Linger(number));
        }
        self.after_client(number);
    }

    pub(super) fn time_out(&mut self, number: u32) {
        if let Some(Phase::Running(running)) = self.table.get_mut(number).map(|record| &mut record.phase) {
            running.timed_out = true;
            self.kill(number);
        }
    }

    /// SIGKILL a process: a container with all that is in it, frozen or not; an exec with its process group, which
    /// is what a shell and the commands it waits for are.
    pub(super) fn kill(&mut self, number: u32) {
        match self.table.get(number).map(|record| &record.phase) {
            Some(Phase::Running(running)) => {
                // Ignored: it has ended already.
                let _ = send_signal(running.handle.pidfd.as_fd(), libc::SIGKILL);
                match running.confinement.group.as_ref().map(crate::cgroup::Group::kill) {
                    // Ignored, too. It leads its session, so the group has its number, which is not reaped.
                    None => drop(
                        Pid::from_raw(running.handle.pid).map(|pid| kill_process_group(pid, Signal::KILL)),
                    ),
                    Some(Ok(())) => {}
                    Some(Err(error)) => report!("{error}"),
                }
            }
            Some(Phase::Starting(_)) => self.abandon(number),
            _ => {}
        }
    }

    /// The cgroup is short of memory; whether a process is killed for it shows a little later.
    pub(super) fn on_memory_trouble(&mut self, number: u32) {
        let Some(Phase::Running(running)) = self.table.get(number).map(|record| &record.phase) else {
            return;
        };
        if let Some((events, _)) = &running.oom {
            events.drain();
        }
        self.look_for_kills(number, 0);
    }

    /// Tell of kills that were not told of yet. v1 gives notice before it kills: then look again.
    pub(super) fn look_for_kills(&mut self, number: u32, look: u32) {
        let Some(record) = self.table.get_mut(number) else { return };
        let Phase::Running(running) = &mut record.phase else { return };
        let kills = running.confinement.group.as_ref().map_or(0, crate::cgroup::Group::oom_kills);
        if kills > running.oom_kills {
            running.oom_kills = kills;
            let id = record.key.id.clone();
            self.tell(&Reply::Oom { id });
        } else if look < LOOKS {
            self.timers.add(monotonic_ns() + (LOOK_NS << look), Due::Memory(number, look + 1));
        }
    }

    pub(super) fn watch_memory(&mut self, number: u32) {
        let Some(record) = self.table.get_mut(number) else { return };
        let Phase::Running(running) = &mut record.phase else { return };
        let Some(group) = &running.confinement.group else { return };
        match group.oom_events() {
            Ok(Some(events)) => {
                let mut registration = self.poll.registration(Source::Process(number, Part::Oom));
                registration.want(&events, Some(if events.is_priority() { Flags::PRI } else { Flags::IN }));
                running.oom = Some((events, registration));
            }
            Ok(None) => {}
            Err(error) => report!("{error}"),
        }
    }

    /// Remove a cgroup, or try again later while its last processes go.
    pub(super) fn clean(&mut self, cleanup: Cleanup) {
        match cleanup.group.try_remove() {
            Ok(true) => {}
            Ok(false) if cleanup.tries >= TRIES => {
                report!("cgroup {} does not empty", cleanup.path);
            }
            Err(error) if cleanup.tries >= TRIES => report!("{error}"),
            Ok(false) | Err(_) => {
                let wait_ns = RETRY_NS << cleanup.tries;
                self.timers.add(monotonic_ns() + wait_ns, Due::Cleanup);
                self.cleanups.push(Cleanup { tries: cleanup.tries + 1, ..cleanup });
            }
        }
    }

    /// Carry out a hand-over or a shutdown when no start is under way (and nothing is left, respectively).
    pub(super) fn try_to_end(&mut self) {
        match &self.ending {
            Ending::No | Ending::Now => {}
            Ending::HandOver(..) => self.try_to_hand_over(),
            Ending::Shutdown(asked) => {
                let asked = *asked;
                let live = |record: &Record| match record.phase {
                    Phase::Waiting => false,
                    Phase::Over => record.stdio.is_shipping(),
                    _ => true,
                };
                let live = self.table.iter().any(|(_, record)| live(record));
                if !live && self.deferred.is_empty() && self.cleanups.is_empty() {
                    self.done(asked);
                    self.ending = Ending::Now;
                }
            }
        }
    }
}

impl Ended {
    /// Docker's exit code, and why.
    fn verdict(&self) -> (i32, ExitReason) {
        let code = match self.status {
            Status::Exited(code) => code,
            Status::Signaled(signal) => 128 + signal,
            Status::Lost => return (255, ExitReason::EngineError),
        };
        let killed = code == 128 + libc::SIGKILL;
        let reason = match self.status {
            _ if self.timed_out && killed => ExitReason::Timeout,
            _ if self.oom && killed => ExitReason::Oom,
            Status::Signaled(_) => ExitReason::Signal,
            _ => ExitReason::Exit,
        };
        (code, reason)
    }
}

/// The status of a process that has ended; `None` while it has not.
fn wait(running: &Running) -> Option<Status> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    match waitid(WaitId::PidFd(running.handle.pidfd.as_fd()), options) {
        Ok(None) | Err(rustix::io::Errno::INTR) => None,
        Ok(Some(status)) => Some(match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Status::Exited(code),
            (None, Some(signal)) => Status::Signaled(signal),
            (None, None) => Status::Lost,
        }),
        Err(error) => {
            report!("wait for {}: {error}", running.handle.pid);
            Some(Status::Lost)
        }
    }
}

/// The kernel ends what shares a container's own pid namespace with its init; the rest is ended here.
fn kill_rest(confinement: &Confinement) {
    let Some(group) = confinement.group.as_ref().filter(|_| confinement.shared_pids) else { return };
    if let Err(error) = group.kill() {
        report!("{error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(status: Status, timed_out: bool, oom: bool) -> (i32, ExitReason) {
        let (pid, started_at_ns, finished_at_ns, drain_until_ns) = (1, 0, 0, 0);
        Ended { pid, started_at_ns, finished_at_ns, status, timed_out, oom, drain_until_ns }.verdict()
    }

    #[test]
    fn reasons_are_typed() {
        assert_eq!(verdict(Status::Exited(3), false, false), (3, ExitReason::Exit));
        assert_eq!(verdict(Status::Signaled(15), false, false), (143, ExitReason::Signal));
        assert_eq!(verdict(Status::Signaled(9), false, false), (137, ExitReason::Signal));
        assert_eq!(verdict(Status::Signaled(9), false, true), (137, ExitReason::Oom));
        assert_eq!(verdict(Status::Signaled(9), true, false), (137, ExitReason::Timeout));
        // An init that passes on its child's end; a child that was killed and survived by its parent.
        assert_eq!(verdict(Status::Exited(137), false, true), (137, ExitReason::Oom));
        assert_eq!(verdict(Status::Exited(1), false, true), (1, ExitReason::Exit));
        // Ended by itself just as its time was over.
        assert_eq!(verdict(Status::Exited(0), true, false), (0, ExitReason::Exit));
        assert_eq!(verdict(Status::Lost, false, false), (255, ExitReason::EngineError));
    }
}

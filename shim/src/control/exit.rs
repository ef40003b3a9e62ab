//! The end of children, and of the container.

use std::os::fd::AsFd;
use std::time::Duration;

use holdfast_pod::protocol::{Answer, Event, ExitRecord, START_ERROR_EXIT_CODE, START_ERROR_REASON};
use holdfast_sys::pidfd::{self, Exit};
use holdfast_sys::process;

use super::container::{Container, Stage};
use super::poll::Token;
use super::{Shim, deadline};
use crate::pump::clock::now_ns;
use crate::pump::record;

/// What a log on a stalled disk may take beyond the time for draining.
const DISK_LIMIT: Duration = Duration::from_secs(10);

impl Shim {
    /// Reaps every child that has ended. This is the only place that does.
    pub fn reap(&mut self) {
        while let Some(pid) = process::ended_child() {
            // A child's last words come before its end: it may not be known by its pid yet.
            self.link_speaks();
            self.hear_execs();
            let Ok(Some(exit)) = pidfd::reap_child(pid) else { return };
            self.child_ended(pid, exit);
        }
    }

    fn child_ended(&mut self, pid: i32, exit: Exit) {
        if self.exec_child_ended(pid, exit) {
            return;
        }
        let Some(container) = self.container.as_mut() else { return };
        if container.helper.as_ref().is_some_and(|child| child.pid == pid) {
            container.helper = None;
            if container.foreign.is_some() {
                self.runtime_ended(exit);
            }
        } else if container.hook_runners.iter().any(|child| child.pid == pid) {
            container.hook_runners.retain(|child| child.pid != pid);
        } else if container.hook.as_ref().is_some_and(|child| child.pid == pid) {
            container.hook = None;
            self.hooks_ended();
        } else if container.remover.as_ref().is_some_and(|child| child.pid == pid) {
            container.remover = None;
        } else if container.init.as_ref().is_some_and(|child| child.pid == pid) {
            container.init = None;
            self.init_ended(exit);
        } else {
            // An orphan of the container that came to us, its subreaper; or what a runtime has started just now.
            self.stray_ended(pid, exit);
        }
    }

    /// The container is over.
    pub fn init_ended(&mut self, exit: Exit) {
        let Some(container) = self.container.as_mut() else { return };
        if !container.stage.has_init() {
            return;
        }
        // Before a runtime's delete, which removes the group.
        container.cgroup.read_oom();
        let record = container.exit_record(exit);
        let early = record::encode(&ExitRecord { unfinished: true, ..record.clone() });
        let drain = Duration::from_millis(container.create.drain_ms);
        container.stage = Stage::Draining(record);
        container.deadline = deadline(drain + DISK_LIMIT);
        if let Some(link) = container.link.take() {
            self.poll.remove(&link);
        }
        // Somebody may wait for Start while a signal was faster than execve.
        let asked = container.asked.take();
        let started_at_ns = container.started_at_ns;
        if let Some(pump) = &mut container.pump {
            pump.finish(drain, early);
        }
        if !container.create.own_pid_namespace {
            container.kill_everything();
        }
        if let Some(asked) = asked {
            self.answer(asked, Answer::Started { started_at_ns });
        }
        self.kill_all_execs();
    }

    /// Looks whether what we wait for at the end has come.
    pub fn check_end(&mut self) {
        let Some(container) = self.container.as_ref() else { return };
        // Who runs hooks ends them when nobody waits for them any more.
        let busy = container.has_children() || container.sweep.is_some();
        let undoing = matches!(container.stage, Stage::Undoing(_));
        let ended = matches!(container.stage, Stage::Draining(_)) && self.execs.is_empty();
        if busy || !(undoing || ended) || !self.delete_by_runtime() || !self.poststop_is_over() {
            return;
        }
        if !undoing {
            self.conclude();
        } else if self.files_are_removed() {
            self.finish_undo();
        }
    }

    /// Nothing is left but to wait for the log, and then for the last record. Nothing is forked any more from here on: the
    /// pump may end.
    fn conclude(&mut self) {
        let Some(container) = self.container.as_mut() else { return };
        container.complete_record();
        let Stage::Draining(record) = &container.stage else { return };
        match &mut container.pump {
            Some(pump) if !pump.is_drained() => {}
            Some(pump) if !pump.is_concluding() => pump.conclude(record::encode(record)),
            Some(pump) if !pump.is_finished() => {}
            Some(_) | None => self.finish(),
        }
    }

    /// The news, then our end. The record is on disk by now, or the disk has had its time.
    pub fn finish(&mut self) {
        if self.over {
            return;
        }
        let Some(container) = self.container.as_mut() else { return };
        container.complete_record();
        let Stage::Draining(record) = &container.stage else { return };
        let record = record.clone();
        let unwritten = container.pump.as_ref().and_then(crate::pump::Pump::record_error);
        let shutdown = container.shutdown.take();
        let reopening = std::mem::take(&mut container.reopening);
        self.over = true;
        if let Some(errno) = unwritten {
            self.warn(format!("write the exit record: {}", std::io::Error::from(errno)));
        }
        for (_, asked) in reopening {
            self.answer(
                asked,
                Answer::Failed(super::calls::wrong_phase("reopen log", "the container has ended")),
            );
        }
        self.leave();
        self.tell(Event::Exited(record));
        if let Some(asked) = shutdown {
            self.answer(asked, Answer::Ok);
        }
    }

    /// Waits for news of the container's memory.
    pub fn watch_oom(&mut self) {
        let Some(container) = self.container.as_mut() else { return };
        if let Some(file) = container.cgroup.oom_file() {
            // v1's file tells of no changes; there it is read at the end.
            let _ = self.poll.add_change(file.as_fd(), Token::Oom);
        }
    }

    /// Reads the count and tells of an increase.
    pub fn look_for_oom(&mut self) {
        let Some(container) = self.container.as_mut() else { return };
        let before = container.cgroup.oom_kills();
        container.cgroup.read_oom();
        if container.cgroup.oom_kills() > before {
            self.tell(Event::OomKilled);
        }
    }
}

impl Container {
    /// Updates the fields of the exit record that can change until the end: OOM kills and dropped log lines.
    fn complete_record(&mut self) {
        self.cgroup.read_oom();
        let Stage::Draining(record) = &mut self.stage else { return };
        record.oom_killed = self.cgroup.oom_kills() > 0;
        record.log_lines_dropped = self.pump.as_ref().map_or(0, crate::pump::Pump::dropped);
    }

    fn exit_record(&self, exit: Exit) -> ExitRecord {
        let mut record = ExitRecord {
            oom_killed: self.cgroup.oom_kills() > 0,
            exit_code: exit.shell_code(),
            signal: if let Exit::Signal(signal) = exit { signal } else { 0 },
            started_at_ns: self.started_at_ns,
            finished_at_ns: now_ns(),
            ..ExitRecord::default()
        };
        if let Some(error) = &self.start_error {
            record.exit_code = START_ERROR_EXIT_CODE;
            record.signal = 0;
            START_ERROR_REASON.clone_into(&mut record.reason);
            record.message = error.to_string();
        }
        record
    }
}

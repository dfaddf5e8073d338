//! A pool of reusable threads. A job goes to one claimed thread: an idle one, or a new one if none is idle, so a job
//! never waits for another job to end. A thread that stays idle ends. All are joined.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;

use crate::threads;

type Job = Box<dyn FnOnce() + Send>;

enum PoolCommand {
    Do(Job),
    End,
}

/// A set of threads that grows and shrinks.
#[derive(Clone, Default)]
pub struct ThreadPool(Arc<Mutex<PoolState>>);

#[derive(Default)]
struct PoolState {
    /// Idle threads. The one that became idle last is claimed first, so that the others can end.
    idle: Vec<IdleThread>,
    handles: BTreeMap<u64, JoinHandle<()>>,
    /// Threads that have announced their end; joining them takes no time.
    ended: Vec<u64>,
    next: u64,
    closed: bool,
}

struct IdleThread {
    id: u64,
    commands: Sender<PoolCommand>,
}

/// A thread that waits for a job. Dropping this makes it idle again.
pub struct ClaimedThread {
    thread: Option<IdleThread>,
    workers: ThreadPool,
}

/// An idle thread ends after this time, which is longer than the pause between two bursts of short connections.
const IDLE: Duration = Duration::from_secs(10);
/// Stack size of a thread: the deepest path (formatting the log line of an error) needs less than a quarter of it.
const STACK: usize = 128 * 1024;

impl ThreadPool {
    /// Takes an idle thread or starts one.
    ///
    /// # Errors
    /// When the system cannot start another thread, or the program is ending.
    pub fn claim(&self) -> io::Result<ClaimedThread> {
        let mut state = self.0.lock();
        if state.closed {
            return Err(io::Error::other("the program is ending"));
        }
        if let Some(thread) = state.idle.pop() {
            return Ok(ClaimedThread { thread: Some(thread), workers: self.clone() });
        }
        for id in std::mem::take(&mut state.ended) {
            if let Some(handle) = state.handles.remove(&id) {
                join(handle);
            }
        }
        let id = state.next;
        let (commands, inbox) = bounded(1);
        let (own, sender) = (self.clone(), commands.clone());
        let body = move || own.work(id, &sender, &inbox);
        let handle = thread::Builder::new().name("worker".to_owned()).stack_size(STACK).spawn(body)?;
        state.next += 1;
        state.handles.insert(id, handle);
        Ok(ClaimedThread { thread: Some(IdleThread { id, commands }), workers: self.clone() })
    }

    /// Runs `job` on a thread with this name.
    ///
    /// # Errors
    /// As for `claim`; the job is dropped.
    pub fn run(&self, name: String, job: impl FnOnce() + Send + 'static) -> io::Result<()> {
        self.claim()?.run(name, job);
        Ok(())
    }

    /// Waits for all jobs to end and joins every thread. New claims fail.
    pub fn join(&self) {
        let handles = {
            let mut state = self.0.lock();
            state.closed = true;
            for thread in state.idle.drain(..) {
                thread.tell(PoolCommand::End);
            }
            std::mem::take(&mut state.handles)
        };
        handles.into_values().for_each(join);
    }

    /// The main loop of a thread: jobs, and idle times between them.
    fn work(&self, id: u64, sender: &Sender<PoolCommand>, inbox: &Receiver<PoolCommand>) {
        while let PoolCommand::Do(job) = self.next(id, inbox) {
            // The job's own guards have reported the panic; the thread remains usable.
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(job)).ok();
            threads::rename("idle");
            let mut state = self.0.lock();
            if state.closed {
                return;
            }
            state.idle.push(IdleThread { id, commands: sender.clone() });
        }
    }

    /// Waits for the next command. A thread that has been idle for too long stops.
    fn next(&self, id: u64, inbox: &Receiver<PoolCommand>) -> PoolCommand {
        loop {
            // The thread itself holds a sender, so the only possible error is a timeout.
            if let Ok(command) = inbox.recv_timeout(IDLE) {
                return command;
            }
            let mut state = self.0.lock();
            // If it is not in the list, a claimer has taken it and is about to send a job.
            if let Some(at) = state.idle.iter().position(|idle| idle.id == id) {
                state.idle.swap_remove(at);
                state.ended.push(id);
                return PoolCommand::End;
            }
        }
    }
}

impl IdleThread {
    /// The thread waits for one command at a time, so the queue has room for it.
    fn tell(&self, command: PoolCommand) {
        self.commands.send(command).ok();
    }
}

impl ClaimedThread {
    /// Gives the thread its job and its name.
    pub fn run(mut self, name: String, job: impl FnOnce() + Send + 'static) {
        if let Some(thread) = self.thread.take() {
            thread.tell(PoolCommand::Do(Box::new(move || {
                threads::rename(&name);
                job();
            })));
        }
    }
}

impl Drop for ClaimedThread {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            let mut state = self.workers.0.lock();
            if state.closed {
                thread.tell(PoolCommand::End);
            } else {
                state.idle.push(thread);
            }
        }
    }
}

fn join(handle: JoinHandle<()>) {
    // Jobs' panics were caught, so this only waits.
    handle.join().ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_never_waits_for_another_and_threads_are_used_again() {
        let workers = ThreadPool::default();
        let (gate, opened) = bounded::<()>(0);
        let (done, results) = bounded(10);
        for n in 0..3 {
            let (opened, done) = (opened.clone(), done.clone());
            workers
                .run(format!("job-{n}"), move || {
                    opened.recv().ok();
                    done.send(n).ok();
                })
                .unwrap();
        }
        workers
            .run("quick".to_owned(), {
                let done = done.clone();
                move || done.send(9).unwrap()
            })
            .unwrap();
        assert_eq!(results.recv(), Ok(9), "the fourth job ran while three were blocked");
        drop(gate);
        let mut rest: Vec<_> = results.iter().take(3).collect();
        rest.sort_unstable();
        assert_eq!(rest, [0, 1, 2]);
        workers.join();
        assert!(workers.claim().is_err(), "no thread starts after the end");
    }

    #[test]
    fn a_panic_costs_neither_the_thread_nor_the_next_job() {
        let workers = ThreadPool::default();
        workers.run("bad".to_owned(), || panic!("on purpose")).unwrap();
        let (done, results) = bounded(1);
        workers.run("good".to_owned(), move || done.send(()).unwrap()).unwrap();
        assert_eq!(results.recv(), Ok(()));
        workers.join();
    }

    #[test]
    fn a_claim_that_is_not_used_does_not_keep_the_program_from_ending() {
        let workers = ThreadPool::default();
        let unused = workers.claim().unwrap();
        drop(workers.claim().unwrap());
        drop(unused);
        workers.join();
    }
}

//! Child processes. The caller that started a child also collects it. Every other child is collected as soon as it has
//! ended: orphans that are reparented to process 1 of a container (or to a subreaper), and children that a wrapper had
//! started before it became this program. Does not decide when to look: see `process`.

use std::collections::BTreeSet;
use std::io;

use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use parking_lot::Mutex;
use rustix::process::{Pid, WaitId, WaitIdOptions, WaitIdStatus, WaitOptions};

/// Global, because children belong to the whole process.
static CHILDREN: Mutex<Children> = Mutex::new(Children { own: BTreeSet::new(), starting: 0, collects_others: false });

struct Children {
    /// Started by this program and not collected yet.
    own: BTreeSet<i32>,
    /// Number of starts in progress. Their process ids are not known yet, so nothing is collected meanwhile.
    starting: usize,
    /// False in a program that has children of its own and only embeds a proxy.
    collects_others: bool,
}

/// Starts a child. The caller collects it.
///
/// # Errors
/// The error of `spawn`.
pub fn start(spawn: impl FnOnce() -> io::Result<Pid>) -> io::Result<Pid> {
    CHILDREN.lock().starting += 1;
    let started = spawn();
    let mut children = CHILDREN.lock();
    children.starting -= 1;
    if let Ok(child) = &started {
        children.own.insert(child.as_raw_nonzero().get());
    }
    children.collect_others();
    started
}

/// Waits until a child has ended. Its process id is not reused until it is collected.
///
/// # Errors
/// When there is no such child.
pub fn wait(child: Pid) -> io::Result<()> {
    rustix::io::retry_on_intr(|| {
        rustix::process::waitid(WaitId::Pid(child), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)
    })?;
    Ok(())
}

/// Collects a child and returns how it ended. From now on its process id may be reused.
///
/// # Errors
/// When there is no such child.
pub fn collect(child: Pid) -> io::Result<Option<WaitIdStatus>> {
    let status = rustix::io::retry_on_intr(|| rustix::process::waitid(WaitId::Pid(child), WaitIdOptions::EXITED));
    let mut children = CHILDREN.lock();
    children.own.remove(&child.as_raw_nonzero().get());
    children.collect_others();
    Ok(status?)
}

/// From now on, also collects children that this program did not start, beginning with those that have ended already.
pub fn collect_others_from_now_on() {
    let mut children = CHILDREN.lock();
    children.collects_others = true;
    children.collect_others();
}

/// After SIGCHLD: collects children that this program did not start. Does not wait.
pub fn collect_others() {
    CHILDREN.lock().collect_others();
}

impl Children {
    /// waitid(2) reports an ended child of our own before others; the others follow when it has been collected.
    fn collect_others(&self) {
        if !self.collects_others || self.starting > 0 {
            return;
        }
        loop {
            let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
            let ended = match waitid(Id::All, look) {
                Ok(WaitStatus::Exited(child, _) | WaitStatus::Signaled(child, ..)) => Pid::from_raw(child.as_raw()),
                // A child ended by a signal that nix has no name for; nix does not say which child. It is not one of
                // ours if we have none.
                Err(nix::errno::Errno::EINVAL) if self.own.is_empty() => None,
                // No child has ended, or there is none.
                Ok(_) | Err(_) => return,
            };
            if ended.is_some_and(|child| self.own.contains(&child.as_raw_nonzero().get())) {
                return;
            }
            let collected = match ended {
                Some(child) => rustix::process::waitpid(Some(child), WaitOptions::NOHANG),
                None => rustix::process::wait(WaitOptions::NOHANG),
            };
            if collected.is_err() {
                return;
            }
        }
    }
}

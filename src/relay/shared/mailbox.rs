//! The commands of other threads to a relay thread. Sending never blocks. A thread that sleeps is woken; one that works
//! finds the command before it sleeps again.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::event::{EventfdFlags, eventfd};

use crate::core::msg::ClientId;
use crate::relay::report::Job;

/// A command to a relay thread.
#[derive(Debug)]
pub enum WorkerCommand {
    /// Wait for the backend, then relay. Answered by `DialFailed` or `Closed`.
    Serve(Job),
    /// Cancel this dial, unless it has succeeded.
    CancelDial(ClientId),
    /// Close this pair, unless its client has sent something since its backend ended: see `Action::CloseGracefully`.
    CloseGracefully(ClientId),
    /// Reset this client at once: see `Action::Reset`.
    Reset(ClientId),
    /// Reset all clients and end the thread.
    Stop,
}

/// Sends to one relay thread. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Mailbox(Arc<MailboxInner>);

#[derive(Debug)]
struct MailboxInner {
    content: Mutex<MailboxQueue>,
    waker: OwnedFd,
}

#[derive(Debug, Default)]
struct MailboxQueue {
    commands: Vec<WorkerCommand>,
    /// The thread has found nothing here, and waits or is about to.
    asleep: bool,
}

impl Mailbox {
    /// # Errors
    /// When there is no descriptor.
    pub fn new() -> io::Result<Mailbox> {
        let waker = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Mailbox(Arc::new(MailboxInner { content: Mutex::default(), waker })))
    }

    pub fn send(&self, command: WorkerCommand) {
        let asleep = {
            let mut content = self.0.content.lock();
            content.commands.push(command);
            std::mem::take(&mut content.asleep)
        };
        if asleep {
            // Fails when the counter is full: after 2^64 wake-ups.
            rustix::io::write(&self.0.waker, &1_u64.to_ne_bytes()).ok();
        }
    }

    /// Becomes readable, once, for each ring.
    pub fn waker(&self) -> &OwnedFd {
        &self.0.waker
    }

    /// Takes all there is. If that is nothing, the caller may sleep: the next order will ring.
    pub fn collect(&self) -> Vec<WorkerCommand> {
        let mut content = self.0.content.lock();
        content.asleep = content.commands.is_empty();
        std::mem::take(&mut content.commands)
    }
}

//! The commands of other threads to a relay thread. Sending never blocks. A thread that sleeps is woken; one that works
//! finds the command before it sleeps again.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::core::msg::ClientId;
use crate::net::Poller;
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
    /// What the thread waits for besides.
    poller: Poller,
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
        Ok(Mailbox(Arc::new(MailboxInner { content: Mutex::default(), poller: Poller::new()? })))
    }

    pub fn send(&self, command: WorkerCommand) {
        let asleep = {
            let mut content = self.0.content.lock();
            content.commands.push(command);
            std::mem::take(&mut content.asleep)
        };
        if asleep {
            self.0.poller.wake();
        }
    }

    /// Where the thread waits, for its sockets and for the next command.
    pub fn poller(&self) -> &Poller {
        &self.0.poller
    }

    /// Takes all there is. If that is nothing, the caller may sleep: the next command wakes it.
    pub fn collect(&self) -> Vec<WorkerCommand> {
        let mut content = self.0.content.lock();
        content.asleep = content.commands.is_empty();
        std::mem::take(&mut content.commands)
    }
}

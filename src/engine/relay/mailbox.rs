//! What a relay thread is told by others. Never waits; a thread that sleeps is woken, one that works finds it before it
//! sleeps again.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::event::{EventfdFlags, eventfd};

use crate::core::msg::ClientId;
use crate::engine::dial::Attempt;
use crate::engine::inbox::Flow;
use crate::net::Stream;

/// What is to be done.
#[derive(Debug)]
pub enum Order {
    /// Wait for the backend, then relay. Ends in `Refused` or `Closed`.
    Serve { client: ClientId, stream: Stream, attempt: Box<Attempt>, flow: Arc<Flow> },
    /// End this dial, unless it has succeeded.
    CallOff(ClientId),
    /// End this pair, unless its client has sent something since its backend ended: see `Action::Dismiss`.
    Dismiss(ClientId),
    /// End this client at once: see `Action::Cut`.
    Cut(ClientId),
    /// Cut everybody and end.
    Stop,
}

/// The way to one relay thread. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Mailbox(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    content: Mutex<Content>,
    bell: OwnedFd,
}

#[derive(Debug, Default)]
struct Content {
    orders: Vec<Order>,
    /// The thread has found nothing here, and waits or is about to.
    asleep: bool,
}

impl Mailbox {
    /// # Errors
    /// When there is no descriptor.
    pub fn new() -> io::Result<Mailbox> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Mailbox(Arc::new(Inner { content: Mutex::default(), bell })))
    }

    pub fn send(&self, order: Order) {
        let asleep = {
            let mut content = self.0.content.lock();
            content.orders.push(order);
            std::mem::take(&mut content.asleep)
        };
        if asleep {
            // Fails when the counter is full: after 2^64 rings.
            rustix::io::write(&self.0.bell, &1_u64.to_ne_bytes()).ok();
        }
    }

    /// Becomes readable, once, for each ring.
    pub fn bell(&self) -> &OwnedFd {
        &self.0.bell
    }

    /// Takes all there is. If that is nothing, the caller may sleep: the next order will ring.
    pub fn collect(&self) -> Vec<Order> {
        let mut content = self.0.content.lock();
        content.asleep = content.orders.is_empty();
        std::mem::take(&mut content.orders)
    }
}

//! Waiting for sockets: one epoll set for many, with a waker for other threads, and poll(2) for a few. A signal never
//! ends a wait early. Does not know what an event means, and reads no socket.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::retry_on_intr;

/// A set of sockets that one thread waits for. Other threads may change the set meanwhile, and wake the thread.
#[derive(Debug)]
pub struct Poller {
    set: OwnedFd,
    waker: Waker,
}

/// What one wait has found. Its memory is used again by the next one.
pub struct Events(Vec<Event>);

/// Wakes a thread that waits for it in poll(2), or for the [`Poller`] that has it.
#[derive(Debug)]
pub struct Waker(OwnedFd);

/// Descriptors that a [`Poller`] needs: the set and the waker.
pub const DESCRIPTORS_EACH: u64 = 2;
/// The waker's token. Sockets' tokens are less.
const WAKER: u64 = u64::MAX;

impl Poller {
    /// # Errors
    /// When there is no descriptor.
    pub fn new() -> io::Result<Poller> {
        let poller = Poller { set: epoll::create(CreateFlags::CLOEXEC)?, waker: Waker::new()? };
        // Edge-triggered: each wake-up is reported once, so nobody has to reset the waker.
        poller.add(&poller.waker, WAKER, EventFlags::IN | EventFlags::ET)?;
        Ok(poller)
    }

    /// From now on these events of a socket are reported, with its token. A socket that is closed leaves the set.
    ///
    /// # Errors
    /// When the system is short of memory.
    pub fn add(&self, socket: impl AsFd, token: u64, flags: EventFlags) -> io::Result<()> {
        Ok(epoll::add(&self.set, socket, EventData::new_u64(token), flags)?)
    }

    /// Reports other events of a socket than before.
    ///
    /// # Errors
    /// When the socket is not in the set.
    pub fn modify(&self, socket: impl AsFd, token: u64, flags: EventFlags) -> io::Result<()> {
        Ok(epoll::modify(&self.set, socket, EventData::new_u64(token), flags)?)
    }

    /// Reports no more events of a socket, if it is in the set.
    pub fn remove(&self, socket: impl AsFd) {
        // Fails only for a socket that is not in the set.
        epoll::delete(&self.set, socket).ok();
    }

    /// Ends the current wait, or the next one.
    pub fn wake(&self) {
        self.waker.wake();
    }

    /// Waits for an event, a wake-up or the deadline.
    ///
    /// # Errors
    /// Only a defect of this program (a wrong descriptor) makes it fail.
    pub fn wait(&self, events: &mut Events, deadline: Option<Instant>) -> io::Result<()> {
        Ok(retry_on_intr(|| self.collect(events, time_left(deadline).as_ref()))?)
    }

    /// Takes the events that there are, without waiting.
    ///
    /// # Errors
    /// See `wait`.
    pub fn take(&self, events: &mut Events) -> io::Result<()> {
        Ok(retry_on_intr(|| self.collect(events, Some(&Timespec::default())))?)
    }

    fn collect(&self, events: &mut Events, timeout: Option<&Timespec>) -> rustix::io::Result<()> {
        events.0.clear();
        epoll::wait(&self.set, spare_capacity(&mut events.0), timeout)?;
        Ok(())
    }
}

impl Events {
    /// `most`: maximum number of events that one wait takes.
    pub fn new(most: usize) -> Events {
        Events(Vec::with_capacity(most))
    }

    /// The sockets' tokens and events.
    pub fn iter(&self) -> impl Iterator<Item = (u64, EventFlags)> + '_ {
        let events = self.0.iter().map(|event| (event.data.u64(), event.flags));
        events.filter(|(token, _)| *token != WAKER)
    }

    /// Whether the waker was called.
    pub fn has_wake_up(&self) -> bool {
        self.0.iter().any(|event| event.data.u64() == WAKER)
    }
}

impl Waker {
    /// # Errors
    /// When there is no descriptor.
    pub fn new() -> io::Result<Waker> {
        Ok(Waker(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// Makes it readable.
    pub fn wake(&self) {
        // Fails when the counter is full: after 2^64 wake-ups.
        rustix::io::write(&self.0, &1_u64.to_ne_bytes()).ok();
    }

    /// Makes it unreadable until the next wake-up.
    pub fn reset(&self) {
        // Fails when it was not readable.
        rustix::io::read(&self.0, &mut [0; 8]).ok();
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Waits for an event on `fds` until the deadline; returns false on timeout.
///
/// # Errors
/// When the system is short of memory.
pub fn wait_until(fds: &mut [PollFd<'_>], deadline: Instant) -> io::Result<bool> {
    wait_for(fds, Some(deadline))
}

/// Likewise, perhaps without a deadline.
///
/// # Errors
/// When the system is short of memory.
pub fn wait_for(fds: &mut [PollFd<'_>], deadline: Option<Instant>) -> io::Result<bool> {
    Ok(retry_on_intr(|| poll(fds, time_left(deadline).as_ref()))? > 0)
}

/// Which of these events are the case on a socket now; errors and hang-ups are always reported.
pub(super) fn current(socket: impl AsFd, flags: PollFlags) -> PollFlags {
    let mut fds = [PollFd::new(&socket, flags)];
    // An error would be a defect of this program, and does not concern the peer.
    retry_on_intr(|| poll(&mut fds, Some(&Timespec::default()))).map_or(PollFlags::empty(), |_| fds[0].revents())
}

/// A timeout of system calls; `None` waits without limit.
fn time_left(deadline: Option<Instant>) -> Option<Timespec> {
    let left = deadline?.saturating_duration_since(Instant::now());
    Some(Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const TOKEN: u64 = 7;

    fn found(events: &Events) -> (Vec<u64>, bool) {
        (events.iter().map(|(token, _)| token).collect(), events.has_wake_up())
    }

    #[test]
    fn each_wake_up_ends_one_wait_and_is_no_event_of_a_socket() {
        let (poller, mut events) = (Poller::new().unwrap(), Events::new(4));
        for _ in 0..3 {
            poller.wake();
            poller.wait(&mut events, None).unwrap();
            assert_eq!(found(&events), (vec![], true));
            poller.take(&mut events).unwrap();
            assert_eq!(found(&events), (vec![], false));
        }
    }

    #[test]
    fn a_wait_without_events_ends_at_its_deadline() {
        let (poller, mut events) = (Poller::new().unwrap(), Events::new(4));
        let deadline = Instant::now() + Duration::from_millis(5);
        poller.wait(&mut events, Some(deadline)).unwrap();
        assert!(Instant::now() >= deadline);
        assert_eq!(found(&events), (vec![], false));
        assert!(!wait_until(&mut [PollFd::new(&Waker::new().unwrap(), PollFlags::IN)], deadline).unwrap());
    }

    #[test]
    fn a_socket_is_reported_with_its_token_until_it_is_removed() {
        let (poller, mut events, socket) = (Poller::new().unwrap(), Events::new(4), Waker::new().unwrap());
        poller.add(&socket, TOKEN, EventFlags::IN).unwrap();
        socket.wake();
        poller.wait(&mut events, None).unwrap();
        assert_eq!(found(&events), (vec![TOKEN], false));
        assert_eq!(current(&socket, PollFlags::IN), PollFlags::IN);
        socket.reset();
        poller.take(&mut events).unwrap();
        assert_eq!(found(&events), (vec![], false));
        assert_eq!(current(&socket, PollFlags::IN), PollFlags::empty());
        socket.wake();
        poller.modify(&socket, TOKEN + 1, EventFlags::IN).unwrap();
        poller.wait(&mut events, None).unwrap();
        assert_eq!(found(&events), (vec![TOKEN + 1], false));
        poller.remove(&socket);
        poller.take(&mut events).unwrap();
        assert_eq!(found(&events), (vec![], false));
    }
}

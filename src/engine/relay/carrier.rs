//! One relay thread: it waits for what happens on its clients' sockets and gives each client its turn. It is the only
//! one that touches them, so nothing here needs a lock. Whatever one client does, the others get their turn: no call
//! waits, a turn is short, and a defect that panics costs the client on whose behalf it happened.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;

use super::Gear;
use super::alarms::Alarms;
use super::closing::Which;
use super::link::{Fate, Link};
use super::mailbox::{Mailbox, Order};
use super::side::EVENTS;
use super::way::Tools;
use crate::core::msg::{ClientId, Why};
use crate::engine::clients::give_back_memory;
use crate::engine::dispatch::Dispatcher;
use crate::engine::inbox::{Ending, Report};
use crate::net::Stream;

/// What the thread owns.
pub struct Carrier {
    /// Where events come from.
    set: OwnedFd,
    mailbox: Mailbox,
    dispatcher: Dispatcher,
    links: HashMap<ClientId, Link>,
    alarms: Alarms,
    /// Clients whose last turn ended before they were done.
    yielding: VecDeque<ClientId>,
    /// What the dispatcher has not been told yet.
    reports: Vec<Report>,
    tools: Tools,
    /// When what is kept for the next client is looked at; `None` when nothing is.
    tidy_at: Option<Instant>,
    /// See `Settings::net_buffer_size`.
    first_size: Arc<AtomicUsize>,
}

/// Stands for the mailbox among the sockets' tokens, which are below: clients are counted from 0.
const BELL: u64 = u64::MAX;
/// How long a pipe waits for its next use: the pause between two transfers of one client.
const TIDY: Duration = Duration::from_secs(2);
/// Events taken at once. What is told for them is told under one lock, so this bounds how long that waits.
const BATCH: usize = 256;

impl Carrier {
    /// # Errors
    /// When there is no descriptor.
    pub fn new(mailbox: Mailbox, dispatcher: Dispatcher, gear: Gear) -> io::Result<Carrier> {
        let set = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&set, mailbox.bell(), EventData::new_u64(BELL), EventFlags::IN | EventFlags::ET)?;
        Ok(Carrier {
            set,
            mailbox,
            dispatcher,
            links: HashMap::new(),
            alarms: Alarms::default(),
            yielding: VecDeque::new(),
            reports: Vec::new(),
            tools: Tools::new(gear.pipes, gear.idle_timeout, gear.display),
            tidy_at: None,
            first_size: gear.first_size,
        })
    }

    /// Works until it is told to stop; whoever is left then is cut.
    ///
    /// # Errors
    /// Only a defect here can make waiting fail.
    pub fn run(mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(BATCH);
        loop {
            loop {
                let orders = self.mailbox.collect();
                if orders.is_empty() {
                    break;
                }
                for order in orders {
                    match order {
                        // Pairs that are dropped before their end are reset.
                        Order::Stop => return Ok(()),
                        Order::Serve { client, stream, attempt, flow } => {
                            self.links.insert(client, Link::new(stream, attempt, flow));
                            self.attend(client, Link::start);
                        }
                        Order::CallOff(client) => self.attend(client, |link, _| link.call_off()),
                        Order::Dismiss(client) => self.attend(client, |link, desk| link.dismiss(desk)),
                        Order::Cut(client) => self.attend(client, |link, desk| link.cut(desk)),
                    }
                }
                // Which may bring new orders.
                self.dispatcher.tell(&mut self.reports);
            }
            self.wait(&mut events)?;
            self.tools.first_size = self.first_size.load(Ordering::Relaxed);
            for (client, which, events) in events.iter().filter_map(told) {
                self.attend(client, |link, desk| link.stirred(which, events, desk));
            }
            self.fire();
            for _ in 0..self.yielding.len() {
                if let Some(client) = self.yielding.pop_front() {
                    self.attend(client, Link::resume);
                }
            }
            self.dispatcher.tell(&mut self.reports);
        }
    }

    /// The one place that waits: for an event or the next alarm.
    fn wait(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        let left = if self.yielding.is_empty() {
            let links = &self.links;
            let waits = |client, at| links.get(&client).is_some_and(|link| link.waits_for(at));
            let alarm = self.alarms.next(links.len(), waits);
            let next = alarm.into_iter().chain(self.tidy_at).min();
            next.map(|at| at.saturating_duration_since(Instant::now()))
        } else {
            Some(Duration::ZERO)
        };
        let timeout =
            left.map(|left| Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) });
        events.clear();
        match epoll::wait(&self.set, spare_capacity(events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Does what it is time for.
    fn fire(&mut self) {
        let now = Instant::now();
        if self.tidy_at.is_some_and(|at| at <= now) {
            self.tools.pipes.tidy();
            self.tidy_at = None;
        }
        if self.tidy_at.is_none() && self.tools.pipes.are_idle() {
            self.tidy_at = Some(now + TIDY);
        }
        while let Some(client) = self.alarms.due(now) {
            self.attend(client, |link, desk| link.alarm(now, desk));
        }
    }

    /// Lets `act` do something with a client, if it is still here, and does what follows.
    fn attend(&mut self, client: ClientId, act: impl FnOnce(&mut Link, &mut Desk<'_>) -> Fate) {
        let Some(link) = self.links.get_mut(&client) else { return };
        let mut desk = Desk {
            client,
            set: &self.set,
            tools: &mut self.tools,
            alarms: &mut self.alarms,
            reports: &mut self.reports,
        };
        let fate = catch_unwind(AssertUnwindSafe(|| act(link, &mut desk))).unwrap_or(Fate::Over(Ending {
            why: Why::Panicked,
            up: 0,
            down: 0,
            cause: None,
        }));
        let report = match fate {
            Fate::Waits => return,
            Fate::Yields => return self.yielding.push_back(client),
            Fate::Connected(address) => return self.reports.push(Report::Connected(client, address)),
            Fate::Refused { failure, cause } => match self.links.remove(&client).and_then(Link::into_client) {
                Some(stream) => Report::Refused { client, stream, failure, cause },
                // Cannot be, and must not keep a client for ever if it is.
                None => Report::Closed(client, Ending { why: Why::Panicked, up: 0, down: 0, cause: Some(cause) }),
            },
            Fate::Over(ending) => {
                // The sockets are closed before anybody is told so.
                self.links.remove(&client);
                give_back_memory(&mut self.links);
                Report::Closed(client, ending)
            }
        };
        self.reports.push(report);
    }
}

/// What a link may use of its thread's.
pub struct Desk<'a> {
    pub client: ClientId,
    set: &'a OwnedFd,
    pub tools: &'a mut Tools,
    alarms: &'a mut Alarms,
    reports: &'a mut Vec<Report>,
}

impl Desk<'_> {
    /// From now on the link is told what happens on this socket.
    ///
    /// # Errors
    /// When the system has no room for one more.
    pub fn watch(&self, stream: &Stream, which: Which) -> io::Result<()> {
        Ok(epoll::add(self.set, stream, EventData::new_u64(token(self.client, which)), EVENTS)?)
    }

    /// Whether a switchover needs to wait for the link has changed.
    pub fn tell_dismissible(&mut self, dismissible: bool) {
        let report = if dismissible { Report::Dismissible(self.client) } else { Report::Resumed(self.client) };
        self.reports.push(report);
    }

    /// The link will be told when this time has come.
    pub fn wake_at(&mut self, at: Instant) {
        self.alarms.set(at, self.client);
    }
}

/// What an event is about; `None` for the bell.
fn told(event: &Event) -> Option<(ClientId, Which, EventFlags)> {
    let token = event.data.u64();
    let which = if token & 1 == 0 { Which::Client } else { Which::Backend };
    (token != BELL).then_some((ClientId(token >> 1), which, event.flags))
}

fn token(client: ClientId, which: Which) -> u64 {
    match which {
        Which::Client => client.0 << 1,
        Which::Backend => client.0 << 1 | 1,
    }
}

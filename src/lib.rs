//! cbpx moves all clients of a TCP service from one server to another without one of them noticing.
//!
//! ```text
//!                         control: telnet, nc, cbpx ctl, console
//!                                      | commands     ^ answers, streamed
//!                                      v              |
//!                                 [ coordinator ]  timers, answers --> script-1  (promote the standby)
//!                                      | events     ^ decisions
//!                                      v            |
//!   clients --> listen-cbpx ----> [ dispatcher: core::State behind one lock ] <---- watch (held clients)
//!                 accepted             | dials      ^ connected, ended
//!                                      v            |
//!            client-1, backend-1, client-2, ...: a pair of threads for each of the first clients
//!            relay-0, relay-1, ...: one thread per processor, shared by all who come beyond
//!                                      |                  |
//!                             upstream "active"   upstream "standby"
//! ```
//!
//! On `switch` the gate shuts: clients that arrive are held (a socket, no thread). Dials under way are cancelled and
//! those clients held too. When the last assigned client has left, the script runs; when it exits with 0 the service
//! moves. Whatever the outcome, the gate opens and the held clients are served in order of arrival.
//!
//! # Promises
//!
//! Each has tests that can fail.
//!
//! 1. A byte that was read is written, in order, or the other side sees the connection fail. Half-close is passed on as
//!    half-close, a reset as a reset, after what had arrived before it. An end that the proxy itself decides on is a
//!    reset as well: a truncated stream never looks complete. (A Unix socket knows no reset; its peer sees an end.)
//! 2. While the gate is shut no client is dialled. The active upstream changes only when nobody is assigned.
//! 3. A held client is served, or closed with a reason in the log. Held clients are released in arrival order: whoever
//!    can be served goes before all who came later. (One that must wait for a particular backend, because that one is
//!    at its limit and the others have refused it, lets the others pass.) One that has hung up never reaches a backend.
//! 4. Each `switch` is answered exactly once, with the outcome and the timings. Any failure ends on the old upstream,
//!    gate open.
//! 5. No error of one client, backend, control session, log file or script ends or blocks another. Running out of
//!    descriptors, threads or memory refuses the newest client and nothing else.
//! 6. Control listens on loopback or a Unix socket unless told otherwise.
//! 7. The program stops when told to, and every thread it started is joined. (Some may be left behind when the system
//!    itself hangs: those of the logs and the dump in a write, the resolver's in a look-up. The console's is never
//!    joined: it owns nothing.)
//!
//! # Modules, in reading order
//!
//! | module | what it knows | imports |
//! |---|---|---|
//! | [`endpoint`] | where to listen or connect, and the addresses of names | nothing |
//! | `rate_limit` | one log line a second for what comes in thousands | nothing |
//! | `threads` | names of threads; a pool of threads that are used again | nothing |
//! | [`config`] | the one model of what is to be run: services, upstreams, groups, backends | endpoint |
//! | `settings` | the values that may change while it runs; command line and `set` share the rows | config |
//! | [`core`] | every decision, as one pure machine: events in, actions out; no socket, clock, thread or log. Its `pool` knows who may be given whom | config, endpoint |
//! | `net` | streams, listeners and the accept loop, over TCP and Unix sockets alike | endpoint, rate_limit, threads |
//! | `relay` | carries an assigned client, from its dial to its end | core, endpoint, engine, net, observe, rate_limit, threads |
//! | [`engine`] | every effect on behalf of a service: dispatcher (the core behind its lock), held clients, coordinator, script, probes | children, config, core, dialects, endpoint, net, observe, relay, threads |
//! | `observe` | counters, the log, the access log, the dump; fed by the core's notes | config, core, dialects, endpoint, threads |
//! | [`control`] | sessions and console; the table of commands | config, core, dialects, endpoint, engine, net, observe, settings, threads |
//! | [`dialects`] | one folder for each command line: its arguments, its log format, its control commands | cli, config, control, core, endpoint, engine, observe, rate_limit, settings |
//! | [`cli`] | from argv to an invocation: which dialect, `ctl`, `demo` | config, control, demo, dialects, endpoint, net, observe |
//! | [`process`] | bind, start, signals, limits, leave the terminal, run, stop | children, config, control, core, dialects, endpoint, engine, net, observe, relay, threads |
//! | [`demo`] | the main job on built-in servers | config, endpoint, process, settings, threads |
//! | `children` |  | nothing |
//!
//! Imports point one way: a room imports those of its row and no others, and of `core` only its messages
//! (`core::msg`), but for `engine`. A test (`tests/it/tidy.rs`) reads the `use` lines.
//!
//! # Where this differs from the first design, and why
//!
//! - There are two ways to carry a client, behind one interface: see [`engine`]'s `relay`. The first clients
//!   (`Settings::thread_pairs`) have a pair of blocking threads each, as the design has it. Whoever comes beyond, or
//!   finds no thread, shares a few relay threads, one per processor, that wait for events: among hundreds of busy
//!   clients the pairs spend half of the CPU on changing threads, and running out of threads must not refuse anybody.
//! - The core sits behind a lock, and whoever has an event bwake-ups it; there is no trip to the coordinator and back
//!   for each client. (The design left this to measurement.) The coordinator keeps what concerns the service as a
//!   whole.
//! - Dials under way when a switch begins are cancelled rather than waited for: no byte of those clients has been sent,
//!   and a dead backend would keep the drain from completing for the whole connect timeout.
//! - For the same reason a dial does not outlive the news that its backend is dead, as long as another could take the
//!   client: the first dial or probe that finds out speaks for all.
//! - A connect is begun where it is decided, under the lock: so connects begin in the order in which clients were
//!   released, whatever the scheduler does with the threads.
//! - At most `max_dials` dials are under way at once, and no more clients are accepted than there are descriptors to
//!   serve: who has been held must not be refused on release for want of a descriptor.
//! - A script that is killed (time limit, `abort`) is waited for: the gate opens when its process has ended and nobody
//!   holds its output any more, or three seconds later. So a guard the script leaves behind can put things back
//!   (un-fence the old primary) before the first client arrives there.
//! - A backend that has failed is not excluded but tried last, whatever the policy. So a wrong suspicion costs nobody
//!   anything, and no policy needs a rule of its own for when all have failed.
//! - Held clients are watched by a thread `watch` with one epoll set instead of one poll over all of them: the cost of
//!   a hang-up does not grow with the number held. A client that closed without having sent a byte counts as gone; one
//!   that sent a request and then closed its sending side is waiting for the answer.
//! - A client that is to send something before it counts as arrived waits in a first-bytes thread: one thread, one
//!   epoll set, like the watch. The core does not know of it, and it takes its part of the room.
//! - A process may run several services. Each has a core, threads and a coordinator of its own; they share the room
//!   for clients, the logs and the signals, and the process ends with the last of them.
//! - Nothing forks. A program that is to leave the terminal starts itself once more and waits until that one is up; so
//!   threads may run before it leaves, every message reaches whoever typed the command, and no unsafe code is needed.

#![forbid(unsafe_code)]
// The documentation is for readers of the code: it may point at what is not public.
#![allow(rustdoc::private_intra_doc_links)]

mod children;
pub mod cli;
pub mod config;
pub mod control;
pub mod core;
pub mod demo;
pub mod dialects;
pub mod endpoint;
pub mod engine;
mod net;
mod observe;
pub mod process;
mod rate_limit;
mod relay;
mod settings;
mod threads;

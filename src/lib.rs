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
//!            relay-0, relay-1, ...: one thread per processor, shared by all clients beyond these
//!                                      |                  |
//!                             upstream "active"   upstream "standby"
//! ```
//!
//! On `switch` the gate shuts: new clients are held (a socket, no thread), and connection attempts to backends are
//! cancelled and their clients held too. When the last assigned client has left, the script runs. If it exits with 0,
//! the service moves to the other upstream. Whatever the outcome, the gate opens and the held clients are served in
//! order of arrival.
//!
//! # Words
//!
//! | word | meaning |
//! |---|---|
//! | endpoint | where to listen or connect: a host and port, or the path of a Unix socket |
//! | backend | an endpoint that clients are connected to, with its limit, health and counters |
//! | group | backends that share clients under one policy |
//! | upstream | an ordered list of groups, tried in turn; exactly one upstream of a service is *active* |
//! | service | listeners, upstreams and limits |
//! | switchover | moves a service to another upstream: hold, drain, run the script, move, release |
//! | gate | open: held clients may be assigned; shut: as long as a switchover runs |
//! | held client | accepted and not assigned, because the gate is shut or a limit is reached |
//! | assigned client | has been given a backend; counted from here, not from the moment it is connected |
//! | dial | one attempt to connect an assigned client to its backend |
//! | relay | carries the bytes of an assigned client, from its dial to its end |
//! | dialect | one of the five command lines, with its configuration file, log format and control commands |
//!
//! # Promises
//!
//! Each has tests that can fail.
//!
//! 1. A byte that was read is written, in order, or the other side sees the connection fail. Half-close is passed on as
//!    half-close, a reset as a reset, after what had arrived before it. An end that the proxy itself decides on is a
//!    reset as well: a truncated stream never looks complete. (Unix sockets have no reset; the peer sees an end.)
//! 2. While the gate is shut no client is dialled. The active upstream changes only when nobody is assigned.
//! 3. A held client is served, or closed with a reason in the log. Held clients are released in order of arrival: a
//!    client that can be served is served before all that arrived later. (A client whose only remaining backend is at
//!    its limit, because the others have refused it, lets later clients pass.) A client that has hung up never reaches
//!    a backend.
//! 4. Each `switch` is answered exactly once, with the outcome and the timings. Any failure ends on the old upstream,
//!    gate open.
//! 5. No error of one client, backend, control session, log file or script ends or blocks another. When descriptors,
//!    threads or memory run out, the newest client is rejected, and nothing else is affected.
//! 6. Control listens on loopback or a Unix socket unless told otherwise.
//! 7. The program stops when told to, and joins every thread it started. (The exceptions are threads that are blocked
//!    in the system: those of the logs and the dump in a write, the resolver's in a look-up. The console's thread is
//!    never joined, because it owns nothing.)
//!
//! # Modules, in reading order
//!
//! Imports point one way: each module imports the modules in its row and no others, and they stand above it in the
//! table. Of `core` only the messages (`core::msg`) may be imported, except by `engine`. No dialect is named above
//! `dialects`. A test (`tests/it/tidy.rs`) compares this table with the `use` lines.
//!
//! | module | what it knows | imports |
//! |---|---|---|
//! | [`endpoint`] | where to listen or connect, and the addresses of names | nothing |
//! | [`config`] | the one model of what is to be run: services, upstreams, groups, backends | endpoint |
//! | `settings` | the values that may change at run time; the command line and `set` share its rows | config |
//! | [`core`] | every decision, as one pure state machine: events in, actions out; no socket, clock, thread or log. Its `pool` chooses the backend of a client | config, endpoint |
//! | `children` | which child processes this program started; collects all others | nothing |
//! | `memory` | returns the memory of large tables to the system | nothing |
//! | `rate_limit` | limits a frequent log line to one per second | nothing |
//! | `threads` | the names of threads; a pool of threads that are reused | nothing |
//! | `net` | streams, listeners and the accept loop, over TCP and Unix sockets alike; waiting: poller, waker, deadlines | endpoint, rate_limit, threads |
//! | `observe` | counters, the log, the access log, the dump; all fed by what the core notes | config, core, endpoint, threads |
//! | `relay` | carries an assigned client, from its dial to its end | core, endpoint, memory, net, observe, rate_limit, threads |
//! | [`engine`] | every effect on behalf of a service: dispatcher (the core behind its lock), held clients, coordinator, script, probes | children, config, core, endpoint, memory, net, observe, relay, threads |
//! | [`control`] | control sessions and the console; the table of commands | config, core, endpoint, engine, net, observe, settings, threads |
//! | [`dialects`] | one folder for each dialect: its command line, its log format, its control commands | config, control, core, endpoint, engine, observe, rate_limit, settings |
//! | [`cli`] | from argv to an invocation: which dialect, `ctl` or `demo` | config, control, dialects, endpoint, net, observe |
//! | [`process`] | binds, starts and stops everything; signals, limits, background, pid file | children, config, control, core, dialects, endpoint, engine, net, observe, relay, threads |
//! | [`demo`] | switchovers under load on built-in servers | cli, config, endpoint, process, settings, threads |
//! | `main` | one command line in, one exit status out | cli, demo, dialects, process |
//!
//! `config` knows no dialect, and `observe`, `engine` and `control` do not know which one was used: [`process`] hands
//! them the log format and the control commands.
//!
//! # Where this differs from the first design, and why
//!
//! - There are two ways to carry an assigned client, behind one interface; see `relay`. The first clients
//!   (`Settings::thread_pairs`) have a pair of blocking threads each, as the design has it. Clients beyond that number,
//!   and clients for which no thread is available, share a few relay threads, one per processor, that wait for events.
//!   The reason: with hundreds of busy clients, pairs spend half of the CPU on thread switches, and a lack of threads
//!   must not cause rejections.
//! - The core is behind a lock, and the thread that has an event takes the lock. So a client's events need no trip to
//!   the coordinator and back. The coordinator handles what concerns the service as a whole. (The design left this to
//!   measurement. For clients with threads of their own, reports through the coordinator's channel give the same number
//!   of connections per second, within 5 %, and cost a tenth more CPU for each PostgreSQL connection.)
//! - When a switchover begins, pending dials are cancelled. No byte of those clients has been sent, so they can be
//!   held, and a dead backend cannot delay the drain for the whole connect timeout.
//! - For the same reason a dial is cancelled when its backend turns out to be dead and another could take the client:
//!   one failed dial or probe is enough for all.
//! - A connect is started where it is decided, under the lock. So connects start in the order in which clients were
//!   released, however the scheduler runs the threads.
//! - At most `max_dials` dials are pending at once, and no more clients are accepted than there are descriptors for: a
//!   client that has been held must not be rejected on release because descriptors have run out.
//! - After a script is killed (time limit, `abort`), the gate stays shut until its process has ended and no process
//!   holds its output any more, but for three seconds at most. So a guard that the script leaves behind can undo its
//!   work (un-fence the old primary) before the first client arrives there.
//! - A backend that has failed is not excluded but tried last, whatever the policy. So no client is rejected because a
//!   backend was wrongly taken for dead, and no policy needs a rule for the case that all backends have failed.
//! - Held clients are watched by one thread, `watch`, with one epoll set, not by a poll over all of them: the cost of
//!   one hang-up does not grow with the number of held clients. A client that closed without having sent a byte counts
//!   as gone; one that sent a request and then closed its sending side is waiting for the answer.
//! - If a client must send something before it counts as arrived, it waits in the thread `first-bytes`, which has one
//!   epoll set like the watch. The core does not know of these clients; they count towards the total capacity only.
//! - A process may run several services. Each has its own core, relay threads and coordinator. They share the total
//!   capacity, the logs and the signals, and the process ends with the last of them.
//! - The process does not fork. To leave the terminal, the program starts itself a second time and waits until that
//!   process is ready. So the first process may have threads, every message reaches the terminal, and no unsafe code is
//!   needed.

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
mod memory;
mod net;
mod observe;
pub mod process;
mod rate_limit;
mod relay;
mod settings;
mod threads;

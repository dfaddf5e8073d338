//! Streams, listeners and the accept loop, over TCP and Unix sockets alike, with the socket options this program needs;
//! what error numbers mean to it; how threads wait for sockets and deadlines.

pub mod acceptor;
mod deadlines;
pub mod errno;
mod listener;
mod own;
mod poller;
mod queue;
mod stream;

pub use self::deadlines::Deadlines;
pub use self::listener::{ListenOptions, Listener};
pub use self::own::Own;
pub use self::poller::{DESCRIPTORS_EACH, Events, Poller, Waker, wait_for, wait_until};
pub use self::stream::{Stream, StreamOptions, can_be_source, has_way_to};
use self::stream::{plain_address, socket_address, tune};

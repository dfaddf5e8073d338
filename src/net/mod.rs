//! Streams, listeners and the accept loop, over TCP and Unix sockets alike, with the socket options this program needs;
//! and what error numbers mean to it.

pub mod acceptor;
pub mod errno;
mod listener;
mod own;
mod queue;
mod stream;

pub use self::listener::{ListenOptions, Listener};
pub use self::own::Own;
pub use self::stream::{Stream, StreamOptions, can_be_source, has_way_to, wait_for, wait_until};
use self::stream::{plain_address, socket_address, tune};

//! Clients in shared threads: each of a few threads carries many clients and waits for all of them with one epoll set.
//! No call waits for one client, so none delays another.

pub mod connection;
pub mod deadlines;
pub mod mailbox;
pub mod worker;

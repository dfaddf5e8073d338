//! The program from outside: real sockets, real processes, real clients.

mod backend;
mod proxy;
mod support;

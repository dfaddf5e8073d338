//! `cbpx fallback`, and a link named tcp_fallback: each client goes to the first server of a list that takes
//! connections. PostgreSQL behind it: see `postgres`.

mod command_line;
mod defects;
mod failover;
mod log_lines;
mod profile;
pub mod program;
mod signals;
mod system_logger;

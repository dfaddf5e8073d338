//! What operators see: counters for `stats`, and the logs. Based on the core's notes; decides nothing, and never makes
//! a client wait.

pub mod access;
pub mod dump;
pub mod event_log;
pub mod lines;
pub mod log;
pub mod log_format;
pub mod script;
pub mod stats;
pub mod words;

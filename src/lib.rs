#![forbid(unsafe_code)]
pub mod config;
pub mod core;
pub mod endpoint;

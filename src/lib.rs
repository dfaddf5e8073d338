#![forbid(unsafe_code)]

pub mod cli;
pub mod config;
pub mod control;
pub mod core;
pub mod demo;
pub mod endpoint;
pub mod engine;
mod listen;
pub mod net;
mod observe;
pub mod serve;
mod settings;
mod signals;
mod threads;

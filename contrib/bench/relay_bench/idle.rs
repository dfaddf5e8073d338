//! Memory of clients that are connected and silent.
//!
//! A fresh process of the proxy serves one client, which is the zero. Then N clients connect, make one trip and wait.
//! The figure is the growth of the process's resident memory (the `Pss` of /proc/PID/smaps_rollup, which for a process
//! without children is what RSS grows by) divided by N: both directions of a client. User stacks and buffers are in it;
//! what the kernel keeps for threads and sockets is not.

use std::io;
use std::thread;
use std::time::Duration;

use crate::load::{Errors, Sample, open};
use crate::peers::Proxy;

/// Time for the work on the last client to finish.
const SETTLE: Duration = Duration::from_millis(300);

/// The rate is KiB per client.
pub fn measure(proxy: &Proxy, clients: usize) -> io::Result<Sample> {
    let first = open(proxy.port, 1)?;
    thread::sleep(SETTLE);
    let before = proxy.memory()?;
    let streams = open(proxy.port, clients)?;
    thread::sleep(SETTLE);
    let after = proxy.memory()?;
    drop((first, streams));
    let grown = after.saturating_sub(before) as f64 / clients as f64 / 1024.0;
    Ok(Sample { rate: grown, work: 0, cpu: Duration::ZERO, errors: Errors::default() })
}

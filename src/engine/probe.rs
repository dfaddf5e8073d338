//! Probes: a connection to a backend is made and closed again, on a thread of its own, within the connect timeout. Tells
//! whether somebody takes connections there, and nothing more: no byte is sent. Ends at once when the service ends.

use std::io::{self, PipeReader, PipeWriter};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use super::inbox::{Message, Outlet};
use super::workers::Workers;
use crate::core::msg::BackendId;
use crate::endpoint::Address;
use crate::net::{Stream, wait_until};

/// The probes under way. Dropping it ends them.
#[derive(Debug, Default)]
pub struct Probes {
    /// Made for the first probe. Each probe holds the reading side, which becomes readable when the other is dropped.
    service: Option<(Arc<PipeReader>, PipeWriter)>,
}

impl Probes {
    /// Begins one; it ends in `Message::Probed`.
    pub fn begin(
        &mut self,
        backend: BackendId,
        addresses: Arc<[Address]>,
        timeout: Duration,
        workers: &Workers,
        outlet: &Outlet,
    ) {
        let started = self.service_end().and_then(|ended| {
            let report = Report { backend, outlet: outlet.clone() };
            workers.run(format!("probe-{}", backend.0), move || {
                report.send(reach(&addresses, Instant::now() + timeout, &ended));
            })
        });
        if let Err(cause) = started {
            outlet.send(Message::Probed(backend, Err(cause)));
        }
    }

    fn service_end(&mut self) -> io::Result<Arc<PipeReader>> {
        if let Some((ended, _)) = &self.service {
            return Ok(Arc::clone(ended));
        }
        let (ended, running) = io::pipe()?;
        let (ended, _) = self.service.insert((Arc::new(ended), running));
        Ok(Arc::clone(ended))
    }
}

/// Who has to be told. Dropped without a word, the probe's thread has panicked.
struct Report {
    backend: BackendId,
    outlet: Outlet,
}

impl Report {
    fn send(self, result: io::Result<()>) {
        self.outlet.send(Message::Probed(self.backend, result));
        std::mem::forget(self);
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        self.outlet.send(Message::Probed(self.backend, Err(io::Error::other("the probe panicked"))));
    }
}

/// The addresses in turn: the time that is left is shared by those that are left.
fn reach(addresses: &[Address], deadline: Instant, ended: &PipeReader) -> io::Result<()> {
    let mut last = Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    for (number, address) in addresses.iter().enumerate() {
        let now = Instant::now();
        let share = deadline.saturating_duration_since(now) / (addresses.len() - number) as u32;
        last = connect(address, now + share, ended);
        if last.is_ok() {
            break;
        }
    }
    last
}

fn connect(address: &Address, deadline: Instant, ended: &PipeReader) -> io::Result<()> {
    let stream = Stream::begin_connect(address)?;
    let mut fds = [PollFd::new(&stream, PollFlags::OUT), PollFd::new(ended, PollFlags::IN)];
    if !wait_until(&mut fds, deadline)? {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer within the connect timeout"));
    }
    if !fds[1].revents().is_empty() {
        return Err(io::Error::other("the service ended"));
    }
    match stream.connection_error()? {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

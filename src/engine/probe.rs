//! Probes: each connects to a backend and closes the connection again, on a thread of its own, within the connect
//! timeout. A probe shows that the backend accepts connections and nothing more: it sends no byte. Probes end at once
//! when the service ends.

use std::io::{self, PipeReader, PipeWriter};
use std::sync::Arc;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags};

use super::dispatcher::Dispatcher;
use super::messages::Report;
use crate::core::msg::BackendId;
use crate::net::wait_until;
use crate::relay::dial::{Dial, DialProgress, Wakeup};
use crate::threads::pool::ThreadPool;

/// The running probes. Dropping it ends them.
#[derive(Debug, Default)]
pub struct Probes {
    /// Created for the first probe. Each probe holds the reading end, which becomes readable when the writing end is
    /// dropped.
    service: Option<(Arc<PipeReader>, PipeWriter)>,
}

impl Probes {
    /// Starts a probe. It ends with `Report::Probed`.
    pub fn begin(&mut self, backend: BackendId, workers: &ThreadPool, dispatcher: &Dispatcher) {
        let (ended, thread) = match self.service_end().and_then(|ended| Ok((ended, workers.claim()?))) {
            Ok(both) => both,
            Err(cause) => return dispatcher.tell(&mut vec![Report::Probed(backend, Err(cause))]),
        };
        let mut verdict = ProbeReporter { backend, dispatcher: dispatcher.clone(), told: false };
        thread.run(format!("probe-{}", backend.0), move || {
            let dial = verdict.dispatcher.dial(backend);
            verdict.tell(reach(dial, &ended));
        });
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

/// Reports the result of a probe. If it is dropped without a result, the probe's thread has panicked, and the probe
/// counts as failed.
struct ProbeReporter {
    backend: BackendId,
    dispatcher: Dispatcher,
    told: bool,
}

impl ProbeReporter {
    fn tell(&mut self, result: io::Result<()>) {
        self.told = true;
        self.dispatcher.tell(&mut vec![Report::Probed(self.backend, result)]);
    }
}

impl Drop for ProbeReporter {
    fn drop(&mut self) {
        if !self.told {
            self.tell(Err(io::Error::other("the probe panicked")));
        }
    }
}

/// Dials as for a client, and waits for the result.
fn reach(mut dial: Dial, ended: &PipeReader) -> io::Result<()> {
    let mut wakeup = Wakeup::Clock;
    loop {
        let until = match dial.step(wakeup, Instant::now()) {
            DialProgress::Waits(until) | DialProgress::WaitsAnew(until) => until,
            DialProgress::Connected(..) => return Ok(()),
            DialProgress::Failed(cause) => return Err(cause),
        };
        let mut fds = vec![PollFd::new(ended, PollFlags::IN)];
        fds.extend(dial.stream().map(|stream| PollFd::new(stream, PollFlags::OUT)));
        let stirred = wait_until(&mut fds, until)?;
        if !fds[0].revents().is_empty() {
            return Err(io::Error::other("the service ended"));
        }
        wakeup = if stirred { Wakeup::Stirred } else { Wakeup::Clock };
    }
}

//! What an engine may report about a client and about the script: the environment of the core.

use cbpx::core::msg::{ClientId, CloseReason, DialFailure, Event, ScriptEnd, Traffic};

use super::traffic_of;
use super::witness::{Client, Place, Told};

/// Every way a script can end.
pub const SCRIPT_ENDS: [ScriptEnd; 4] =
    [ScriptEnd::Exited(0), ScriptEnd::Exited(1), ScriptEnd::Signalled(9), ScriptEnd::NotStarted(2)];

impl Client {
    /// Every report about this client that means something now.
    pub fn possible(&self, id: ClientId, reports: &mut Vec<Event>) {
        match self.place {
            Place::Held => reports.push(Event::HungUp(id)),
            Place::Dialling(_) => {
                reports.push(Event::Connected(id));
                reports.push(Event::DialFailed(id, DialFailure::Backend));
                reports.push(Event::DialFailed(id, DialFailure::NoPort));
                reports.push(Event::DialFailed(id, DialFailure::Local));
                reports.push(Event::Closed(id, CloseReason::Panicked, Traffic::default()));
                match self.told {
                    Told::CancelDial | Told::Cut => reports.push(Event::DialFailed(id, DialFailure::Cancelled)),
                    Told::Nothing | Told::CloseGracefully => {}
                }
            }
            Place::Open(_) => {
                reports.extend([Event::Dismissible(id), Event::Closed(id, CloseReason::ClientEnded, traffic_of(id))])
            }
            Place::Ending(_) => {
                reports.extend([Event::Resumed(id), Event::Closed(id, CloseReason::Lingered, traffic_of(id))]);
            }
        }
    }
}

/// One of every kind of report about one client, in order of life.
pub fn about(id: ClientId) -> [Event; 7] {
    [
        Event::HungUp(id),
        Event::Connected(id),
        Event::DialFailed(id, DialFailure::Backend),
        Event::DialFailed(id, DialFailure::Cancelled),
        Event::Dismissible(id),
        Event::Resumed(id),
        Event::Closed(id, CloseReason::BackendFailed, traffic_of(id)),
    ]
}

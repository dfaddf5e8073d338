//! What an engine may report about a client and about the script: the environment of the core.

use cbpx::core::msg::{ClientId, DialFailure, Event, ScriptEnd, Traffic, Why};

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
                reports.push(Event::Refused(id, DialFailure::Backend));
                reports.push(Event::Refused(id, DialFailure::NoPort));
                reports.push(Event::Refused(id, DialFailure::Local));
                reports.push(Event::Closed(id, Why::Panicked, Traffic::default()));
                match self.told {
                    Told::CallOff | Told::Cut => reports.push(Event::Refused(id, DialFailure::CalledOff)),
                    Told::Nothing | Told::Dismiss => {}
                }
            }
            Place::Open(_) => {
                reports.extend([Event::Dismissible(id), Event::Closed(id, Why::ClientEnded, traffic_of(id))])
            }
            Place::Ending(_) => {
                reports.extend([Event::Resumed(id), Event::Closed(id, Why::Lingered, traffic_of(id))]);
            }
        }
    }
}

/// One of every kind of report about one client, in order of life.
pub fn about(id: ClientId) -> [Event; 7] {
    [
        Event::HungUp(id),
        Event::Connected(id),
        Event::Refused(id, DialFailure::Backend),
        Event::Refused(id, DialFailure::CalledOff),
        Event::Dismissible(id),
        Event::Resumed(id),
        Event::Closed(id, Why::BackendFailed, traffic_of(id)),
    ]
}

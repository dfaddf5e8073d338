//! Connections of which only the end is to come, in the witness's account.

use cbpx::core::msg::ClientId;

use super::witness::{Due, Place, Told, Witness};

impl Witness {
    /// A switchover does not wait for it.
    pub fn dismissible(&mut self, id: ClientId, due: &mut Due) {
        if let Some(Place::Open(backend)) = self.place(id) {
            self.put(id, Place::Ending(backend));
            if self.switch.is_some() {
                self.order(id, Told::CloseGracefully, due);
            }
        }
    }

    /// A switchover waits for it again.
    pub fn resumed(&mut self, id: ClientId) {
        if let Some(Place::Ending(backend)) = self.place(id) {
            self.put(id, Place::Open(backend));
        }
    }
}

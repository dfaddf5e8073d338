//! What an operator may change about the backends, in the witness's account, and what is shown of them.

use cbpx::core::msg::{Action, Answer, BackendId, BackendView, Change, GroupId, Note, ServiceNote, Unchanged};

use super::judge::rule;
use super::stock::{Awaited, Backend, Stock};
use super::witness::{Due, Verdict, Witness};

impl Witness {
    /// Takes down a change, and says how it must be answered.
    pub fn changed(&mut self, change: Change, due: &mut Due) -> Answer {
        if self.closing() {
            return Answer::TooLate;
        }
        match self.stock.change(change, due) {
            Ok(answer) => {
                due.note(Note::Service(ServiceNote::PoolChanged(change)));
                answer
            }
            Err(reason) => Answer::Unchanged(reason),
        }
    }

    /// What an operator is shown of the backends is what is.
    pub fn sees(&self, views: impl Iterator<Item = BackendView>) -> Verdict {
        let mut seen = 0;
        for view in views {
            seen += 1;
            let own = self.stock.view(view.id, self.load(view.id));
            rule(own == Some(view), "each backend is shown as it is, where it is", (view, own))?;
        }
        rule(seen == self.stock.backends.len(), "every backend is shown", seen)
    }
}

impl Stock {
    fn change(&mut self, change: Change, due: &mut Due) -> Result<Answer, Unchanged> {
        match change {
            Change::Enable(id) => {
                if self.known(id)?.enabled {
                    return Err(Unchanged::AlreadyEnabled);
                }
                self.credit(id);
                self.backends[id.0].enabled = true;
            }
            Change::Disable(id) => {
                if !self.known(id)?.enabled {
                    return Err(Unchanged::AlreadyDisabled);
                }
                let backend = &mut self.backends[id.0];
                (backend.enabled, backend.failed, backend.awaited) = (false, false, Awaited::Nothing);
            }
            Change::Create(group, endpoint) => {
                let id = BackendId(self.backends.len());
                self.known_group(group)?.members.push(id);
                self.backends.push(Backend::new(group, None));
                due.owed.push(Action::SetEndpoint(id, endpoint));
                return Ok(Answer::Created(id));
            }
            Change::SetEndpoint(id, endpoint) => {
                if self.known(id)?.enabled {
                    return Err(Unchanged::NotDisabled);
                }
                due.owed.push(Action::SetEndpoint(id, endpoint));
            }
            Change::Limit(id, limit) => self.known(id)?.limit = limit,
            Change::Reset(id) => self.known(id)?.totals = Default::default(),
            Change::Policy(group, policy, failover) => {
                let group = self.known_group(group)?;
                (group.policy, group.failover) = (policy, failover);
            }
        }
        Ok(Answer::Changed)
    }

    fn known(&mut self, id: BackendId) -> Result<&mut Backend, Unchanged> {
        self.backends.get_mut(id.0).ok_or(Unchanged::NoSuchBackend)
    }

    fn known_group(&mut self, id: GroupId) -> Result<&mut super::stock::Group, Unchanged> {
        let group = self.groups.get_mut(id.upstream.0).and_then(|groups| groups.get_mut(id.index));
        group.ok_or(Unchanged::NoSuchGroup)
    }

    fn view(&self, id: BackendId, assigned: usize) -> Option<BackendView> {
        let backend = self.backends.get(id.0)?;
        let group = self.group_of(id);
        Some(BackendView {
            id,
            group: backend.group,
            number: group.members.iter().position(|member| *member == id)?,
            policy: group.policy,
            enabled: backend.enabled,
            failed: backend.failed,
            limit: backend.limit,
            assigned: u32::try_from(assigned).ok()?,
            totals: backend.totals.0,
        })
    }
}

//! The broker's own probes.

use super::Breaker;
use super::circuit::Circuit;
use super::effect::ProbeScope;
use crate::clock::Moment;
use crate::policy::admission::response::Origin;

impl Breaker {
    /// When the broker itself is to probe next; [`Moment::NEVER`] if it need not.
    pub fn probe_at(&self) -> Moment {
        self.circuits().map(|(_, circuit)| circuit.probe_at()).min().map_or(Moment::NEVER, |at| match at {
            Moment::NEVER => at,
            at => at.max(self.probes.free_at()),
        })
    }

    /// The scope of the probe that the broker itself is to send now, if any.
    pub fn wanted_probe(&self, now: Moment) -> Option<ProbeScope> {
        let (scope, _) = self.circuits().min_by_key(|(_, circuit)| circuit.probe_at())?;
        (self.probe_at() <= now).then_some(scope)
    }

    /// Whether the broker may probe with this key; with `skip_failing` not if its party fails.
    ///
    /// A key that failed in the last minute does not test a suspicion. It may test whether an outage goes on, or a
    /// long one would run out of keys.
    pub fn is_candidate(&self, scope: ProbeScope, origin: &Origin, skip_failing: bool, now: Moment) -> bool {
        let is_in_scope = match scope {
            ProbeScope::Workspace => !(skip_failing && self.parties.is_failing(origin.party, now)),
            ProbeScope::Party(party) => party == origin.party,
        };
        let is_open = match scope {
            ProbeScope::Workspace => self.workspace.opening().is_some(),
            ProbeScope::Party(party) => self.parties.get(party).is_some_and(|party| party.circuit.opening().is_some()),
        };
        is_in_scope
            && (is_open && !skip_failing || !self.parties.has_failed(origin, now))
            && now >= self.parties.held_until(origin)
    }

    /// Records that the broker probes, or that it has no key to probe with.
    pub fn on_probe(&mut self, scope: ProbeScope, is_sent: bool, now: Moment) {
        if is_sent {
            self.probes.take(now);
        }
        match scope {
            ProbeScope::Workspace => self.workspace.on_probe(is_sent, now),
            ProbeScope::Party(party) => {
                if let Some(party) = self.parties.get_mut(party) {
                    party.circuit.on_probe(is_sent, now);
                }
            }
        }
    }

    fn circuits(&self) -> impl Iterator<Item = (ProbeScope, &Circuit)> {
        let parties = self.parties.circuits().map(|(party, circuit)| (ProbeScope::Party(party), circuit));
        std::iter::once((ProbeScope::Workspace, &self.workspace)).chain(parties)
    }
}

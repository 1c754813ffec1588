//! The breaker's judgement of responses.

use super::circuit::Context;
use super::effect::{Change, Effect, RateChange};
use super::run::Cause;
use super::{Breaker, LEAST_OUTAGE, LONGEST_PAUSE};
use crate::policy::admission::response::{EndedCall, Response};

impl Breaker {
    /// Records the response to a call.
    pub fn record(&mut self, call: &EndedCall) -> Effect {
        let EndedCall { response, origin, sent, now, .. } = *call;
        if sent < self.since && response != Response::Issued {
            return Effect::default();
        }
        let is_recovery =
            self.workspace.opening().is_some_and(|open| self.parties.has_failed_since(origin.party, open.since));
        let was_shedding = self.is_shedding(now);
        self.parties.record(response, &origin, now);
        if response == Response::Issued {
            return self.record_success(call, is_recovery);
        }
        if !response.is_adverse() {
            return Effect::default();
        }
        let mut effect = self.record_failure(call);
        if !was_shedding && effect.change.is_none() && self.is_shedding(now) {
            effect.change = Some(Change::Shed);
        }
        effect
    }

    fn record_success(&mut self, call: &EndedCall, is_recovery: bool) -> Effect {
        self.has_succeeded = true;
        if let Some(party) = self.parties.get_mut(call.origin.party) {
            party.circuit.on_success(call.sent, call.now);
        }
        let Some(open) = self.workspace.on_success(call.sent, call.now) else { return Effect::default() };
        if !is_recovery {
            return Effect { change: Some(Change::Dismissed), rate: None };
        }
        self.parties.close();
        let is_long = call.now.since(open.since) >= LEAST_OUTAGE;
        Effect { change: Some(Change::Closed), rate: is_long.then_some(RateChange::Restart) }
    }

    fn record_failure(&mut self, call: &EndedCall) -> Effect {
        let several = self.parties.are_several(call.now);
        let mut effect = self.fail_workspace(call, several);
        let is_closed = self.workspace.opening().is_none();
        if let Some(party) = self.parties.get_mut(call.origin.party) {
            let has_succeeded = party.has_succeeded();
            let circuit = &mut party.circuit;
            let context = Context { is_workspace: false, several: false, has_succeeded };
            if let Some(open) = circuit.opening_mut().filter(|open| call.sent >= open.since) {
                open.on_failure(call, Cause::Failing, self.probe_gap);
            } else if several && is_closed {
                // Of a single party the workspace's circuit tells the same.
                if let Some(cause) = circuit.on_failure(call, context) {
                    circuit.open(cause, self.probe_gap, call.now);
                }
            } else {
                circuit.run.push(call);
            }
        }
        if matches!(call.response, Response::Throttled(_)) && self.parties.are_overloading(call.now) {
            effect.rate = effect.rate.or(Some(RateChange::Lower));
        }
        effect
    }

    fn fail_workspace(&mut self, call: &EndedCall, several: bool) -> Effect {
        let context = Context { is_workspace: true, several, has_succeeded: self.has_succeeded };
        let mut effect = Effect::default();
        if self.workspace.opening().is_some() {
            self.workspace.run.push(call);
            let cause = match (call.response, self.workspace.run.cause()) {
                (Response::Denied(status), cause) => {
                    let by_many = matches!(cause, Cause::Denied { is_confirmed: true, .. });
                    let is_confirmed = if self.has_succeeded { call.origin.is_probe } else { by_many };
                    Cause::Denied { status, is_confirmed }
                }
                (Response::Throttled(pause), _) => Cause::Throttled { pause, is_confirmed: false },
                _ => Cause::Failing,
            };
            if let Some(open) = self.workspace.opening_mut().filter(|open| call.sent >= open.since) {
                let was_denial = open.is_denial();
                open.on_failure(call, cause, self.probe_gap);
                effect.change = (open.is_denial() && !was_denial).then_some(Change::Opened);
            }
            return effect;
        }
        match self.workspace.on_failure(call, context) {
            Some(Cause::Throttled { pause, is_confirmed: true })
                if pause.is_none_or(|pause| pause <= LONGEST_PAUSE) =>
            {
                let pause = pause.unwrap_or_default();
                effect.rate = Some(if pause.is_zero() { RateChange::Lower } else { RateChange::Pause(pause) });
            }
            Some(cause) => {
                self.workspace.open(cause, self.probe_gap, call.now);
                effect.change = Some(Change::Opened);
            }
            None => {}
        }
        effect
    }
}

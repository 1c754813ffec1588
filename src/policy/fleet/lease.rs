//! Leases: one broker of the fleet calls Courier for a token key at a time.
//!
//! A lease only saves calls: a holder that is stopped, or a store that forgets, leads to two calls, and the longer-lived
//! token is kept. No other broker waits for longer than [`LIFE`] for a holder that died.

use std::time::Duration;

use crate::clock::Moment;

/// How long a lease lasts without a renewal.
pub const LIFE: Duration = Duration::from_secs(3);

/// The time between two renewals.
pub const RENEWAL: Duration = Duration::from_secs(1);

/// The first and the longest pause between two looks at another broker's lease; each is half as long again as the one
/// before.
const PAUSES: (Duration, Duration) = (Duration::from_millis(25), Duration::from_millis(200));

/// The answer of the store about a token key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// A record that may be served.
    Found,
    /// A record that this broker must not serve, although the store does not know: it does not open, is of another key, or
    /// its users have just signed out here.
    Unusable,
    /// No such record; the lease is now this broker's.
    Leased,
    /// No such record; another broker has the lease.
    Held,
}

/// The next step of a flight after a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Serve the record.
    Adopt,
    /// Look again at once, and take the lease whatever record there is.
    TakeLease,
    /// Ask for a permit, and call while the lease lasts.
    Call(Lease),
    /// Look again at this moment.
    LookAgain(Moment),
    /// Time is up: the flight fails.
    GiveUp,
}

/// The looks of one flight into the store.
#[derive(Clone, Copy, Debug)]
pub struct Lookup {
    pause: Duration,
    deadline: Moment,
}

impl Lookup {
    /// A flight that waits for other brokers until `deadline`.
    pub const fn new(deadline: Moment) -> Self {
        Self { pause: PAUSES.0, deadline }
    }

    /// Decides what follows from a look that was sent at `sent`; `None` if the store did not answer.
    ///
    /// Without an answer the flight calls on its own, within the budget, as if it had the lease.
    pub fn on_look(&mut self, look: Option<Look>, sent: Moment, now: Moment) -> Next {
        match look {
            Some(Look::Found) => Next::Adopt,
            Some(Look::Unusable) => Next::TakeLease,
            Some(Look::Leased) => Next::Call(Lease { until: sent + LIFE, renew_at: sent + RENEWAL }),
            None => Next::Call(Lease { until: sent + LIFE, renew_at: Moment::NEVER }),
            Some(Look::Held) => {
                let again = now + self.pause;
                self.pause = (self.pause * 3 / 2).min(PAUSES.1);
                if again < self.deadline { Next::LookAgain(again) } else { Next::GiveUp }
            }
        }
    }
}

/// The right to call for a token key.
///
/// It counts from when its request was sent, so it ends here before it ends in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    until: Moment,
    renew_at: Moment,
}

impl Lease {
    /// Whether a call may leave. If not, the flight takes another look: others may have called since.
    pub fn is_held(&self, now: Moment) -> bool {
        now < self.until
    }

    /// When to send the next renewal; [`Moment::NEVER`] if the store has no lease to renew.
    pub const fn renew_at(&self) -> Moment {
        self.renew_at
    }

    /// Records that the renewal is sent.
    pub fn on_renewal_sent(&mut self, now: Moment) {
        self.renew_at = now + RENEWAL;
    }

    /// Records the answer to the renewal that was sent at `sent`: whether the lease was still this broker's.
    pub fn on_renewed(&mut self, sent: Moment, is_ours: bool) {
        if is_ours {
            self.until = self.until.max(sent + LIFE);
        } else {
            (self.until, self.renew_at) = (sent, Moment::NEVER);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Moment = Moment::from_nanos(1 << 40);

    fn after(millis: u64) -> Moment {
        START + Duration::from_millis(millis)
    }

    fn leased() -> Lease {
        match Lookup::new(Moment::NEVER).on_look(Some(Look::Leased), START, after(40)) {
            Next::Call(lease) => lease,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn looks_at_a_held_lease_slow_down_until_the_deadline() {
        let mut lookup = Lookup::new(after(1000));
        let (mut now, mut pauses) = (START, Vec::new());
        let end = loop {
            match lookup.on_look(Some(Look::Held), now, now) {
                Next::LookAgain(at) => {
                    pauses.push(at.since(now).as_millis());
                    now = at;
                }
                end => break end,
            }
        };
        assert_eq!((pauses, end), (vec![25, 37, 56, 84, 126, 189, 200, 200], Next::GiveUp));
    }

    #[test]
    fn lease_counts_from_its_request_and_lapses_without_renewal() {
        let lease = leased();
        assert_eq!(lease.renew_at(), after(1000));
        assert!(lease.is_held(after(2999)) && !lease.is_held(after(3000)));
    }

    #[test]
    fn renewed_lease_lasts_and_a_lost_one_ends_at_once() {
        let mut lease = leased();
        lease.on_renewal_sent(after(1000));
        lease.on_renewed(after(1000), true);
        assert_eq!((lease.renew_at(), lease.is_held(after(3999))), (after(2000), true));
        lease.on_renewed(after(2000), false);
        assert_eq!((lease.renew_at(), lease.is_held(after(2001))), (Moment::NEVER, false));
    }

    #[test]
    fn flight_takes_the_lease_beside_a_record_that_it_must_not_serve() {
        let next = Lookup::new(after(1000)).on_look(Some(Look::Unusable), START, after(1));
        assert_eq!(next, Next::TakeLease);
    }

    #[test]
    fn flight_calls_on_its_own_if_the_store_does_not_answer() {
        let next = Lookup::new(after(1000)).on_look(None, START, after(50));
        assert_eq!(next, Next::Call(Lease { until: after(3000), renew_at: Moment::NEVER }));
    }
}

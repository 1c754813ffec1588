//! Records: which stored token may be served, and which one is kept.
//!
//! A write to the store may be executed long after its sender gave up, so no rule relies on a write that was prevented
//! or deleted: a record never changes, and is judged when it is read.
//!
//! After a failover onto a server whose clock is behind, tokens seem to last longer. So a broker also compares the Unix
//! time at which the call was sent, which the sealed record holds, with its own. Sign-outs have no second clock: servers
//! must agree to about the time that a call takes, or else a token from before a sign-out could pass for a later one.

use std::time::Duration;

use super::ServerTime;

/// The times of a record, on the store's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordTimes {
    /// When the flight looked into the store, before it called.
    pub opened: ServerTime,
    /// When the token expires, at the earliest.
    pub ends: ServerTime,
}

impl RecordTimes {
    /// The times of a token whose flight looked into the store at `opened`.
    ///
    /// The call was sent later, so the token expires later.
    pub fn new(opened: ServerTime, life: Duration) -> Self {
        Self { opened, ends: opened + life }
    }

    /// How much longer the token lasts by the store's clock; `None` if it must not be served.
    ///
    /// `not_before` has the sign-outs of each of its users and of the workspace. A record from the store's future
    /// comes from a server whose clock was ahead; nothing is known about it.
    pub fn remaining(&self, not_before: impl IntoIterator<Item = ServerTime>, now: ServerTime) -> Option<Duration> {
        let is_void = not_before.into_iter().any(|signed_out| self.opened <= signed_out);
        (!is_void && self.opened <= now && now < self.ends).then(|| self.ends.since(now))
    }

    /// Whether the flight looked after a sign-out that another server of a cluster has.
    ///
    /// Each server says how long ago its own was, since their clocks differ: this one at its time `now`, the other one
    /// at any time within `elapsed`. If that does not tell which was first, the answer is no.
    pub fn is_opened_after(&self, signed_out_ago: Duration, now: ServerTime, elapsed: Duration) -> bool {
        signed_out_ago > now.since(self.opened) + elapsed
    }

    /// How much longer a broker may serve the token, if the Unix clocks say that it lasts for `by_unix`.
    ///
    /// A broker whose Unix clock is ahead by more than tokens live adopts none, and makes its own calls.
    pub fn serves_for(
        &self,
        not_before: impl IntoIterator<Item = ServerTime>,
        now: ServerTime,
        by_unix: Duration,
    ) -> Option<Duration> {
        self.remaining(not_before, now).map(|by_store| by_store.min(by_unix)).filter(|least| !least.is_zero())
    }
}

/// The outcome of landing a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Landing {
    /// It is stored.
    Stored,
    /// The stored one lasts at least as long.
    Kept,
    /// It is void, has expired, or was rejected by Courier.
    Refused,
}

/// Decides between a landing token and the stored one.
///
/// This is the store's half of the rule, as its script has it.
pub fn land(
    stored: Option<&RecordTimes>,
    new: &RecordTimes,
    is_rejected: bool,
    not_before: Option<ServerTime>,
    now: ServerTime,
) -> Landing {
    if is_rejected || new.remaining(not_before, now).is_none() {
        Landing::Refused
    } else if stored.is_some_and(|stored| stored.remaining(not_before, now).is_some() && stored.ends >= new.ends) {
        Landing::Kept
    } else {
        Landing::Stored
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_secs(100);

    fn at(seconds: u64) -> ServerTime {
        ServerTime::from_micros(seconds * 1_000_000)
    }

    fn opened(seconds: u64) -> RecordTimes {
        RecordTimes::new(at(seconds), LIFE)
    }

    #[test]
    fn record_counts_only_after_the_sign_out_of_each_user() {
        let record = opened(50);
        let remaining = |not_before: &[u64]| record.remaining(not_before.iter().map(|second| at(*second)), at(60));
        assert_eq!(remaining(&[]), Some(Duration::from_secs(90)));
        assert_eq!(remaining(&[40, 49]), Some(Duration::from_secs(90)));
        assert_eq!([remaining(&[40, 50]), remaining(&[70])], [None; 2]);
    }

    #[test]
    fn record_counts_after_the_sign_out_of_another_server_if_the_order_is_certain() {
        let (now, elapsed) = (at(60), Duration::from_secs(3));
        let is_after = |ago| opened(50).is_opened_after(Duration::from_secs(ago), now, elapsed);
        assert_eq!([9, 10, 13, 14].map(is_after), [false, false, false, true]);
    }

    #[test]
    fn record_of_the_past_or_the_future_does_not_count() {
        assert_eq!([49, 150].map(|now| opened(50).remaining(None, at(now))), [None; 2]);
    }

    #[test]
    fn token_lasts_for_the_least_that_two_clocks_say() {
        let serves_for = |by_unix| opened(50).serves_for(None, at(60), Duration::from_secs(by_unix));
        assert_eq!([100, 80, 0].map(serves_for), [Some(90), Some(80), None].map(|left| left.map(Duration::from_secs)));
    }

    #[test]
    fn longer_lived_record_is_kept_unless_it_is_void() {
        let now = at(60);
        assert_eq!(land(None, &opened(50), false, None, now), Landing::Stored);
        assert_eq!(land(Some(&opened(49)), &opened(50), false, None, now), Landing::Stored);
        assert_eq!(land(Some(&opened(50)), &opened(49), false, None, now), Landing::Kept);
        let longer = RecordTimes::new(at(40), LIFE * 2);
        assert_eq!(land(Some(&longer), &opened(50), false, Some(at(45)), now), Landing::Stored);
    }

    #[test]
    fn rejected_void_or_expired_token_is_refused() {
        assert_eq!(land(None, &opened(50), true, None, at(60)), Landing::Refused);
        assert_eq!(land(None, &opened(50), false, Some(at(50)), at(60)), Landing::Refused);
        assert_eq!(land(None, &opened(50), false, None, at(150)), Landing::Refused);
    }
}

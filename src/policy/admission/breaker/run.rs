//! The failures since the last success, which a circuit judges by.

use std::time::Duration;

use super::limits::MAX_AGE;
use crate::clock::Moment;
use crate::policy::admission::response::{EndedCall, Response};

/// The adverse responses since the last success. A success ends the run.
///
/// It counts users, not calls: a user who is polled, or who asks for many lifetimes, counts once.
#[derive(Debug, Default)]
pub struct Run {
    /// When its first call was sent; `None` without failures.
    since: Option<Moment>,
    /// When its last call was sent.
    last: Moment,
    /// When its last response came.
    ended: Moment,
    users: Distinct,
    throttled: Distinct,
    denied: Distinct,
    parties: Distinct,
    /// The calls that were denied, also for one user.
    denials: u32,
    /// The pauses that Courier asked for, the last one of each party.
    pauses: Vec<(u64, Option<Duration>)>,
    /// The last status of a denial.
    status: u16,
}

/// The least users with failed calls. With 3, three users whom Courier always fails and whose apps
/// poll are enough; with 10, an outage at night goes unnoticed for minutes.
const LEAST_USERS: usize = 5;
/// The least users with a 429, where probes test what they suggest. With 1, a limit of one user would cost probes;
/// with 3, one more call leaves into a pause that Courier asked for.
const LEAST_THROTTLED: usize = 2;
/// The least time over which failed calls were sent. With none, one broken connection is an outage;
/// with 2 s, users wait a second longer for an error that is certain.
const LEAST_SPAN: Duration = Duration::from_secs(1);
/// The denials that settle it while no key has ever succeeded: the same call, made twice.
///
/// A wrong API key is reported with the first request. With 1, one passing 401 at the start would be
/// reported as lasting.
const LEAST_DENIALS: u32 = 2;
/// The users whose denial other users are refused by as well while no key has ever succeeded. With 2, two
/// user ids that a firewall refuses would be enough.
const LEAST_DENIED: usize = 3;

impl Run {
    /// Adds an adverse response.
    pub fn push(&mut self, call: &EndedCall) {
        let EndedCall { response, origin, sent, now, .. } = *call;
        if !self.is_live(now) {
            *self = Self::default();
        }
        self.since = Some(self.since.map_or(sent, |since| since.min(sent)));
        (self.last, self.ended) = (self.last.max(sent), now);
        self.users.add(origin.user);
        self.parties.add(origin.party);
        match response {
            Response::Throttled(pause) => {
                self.throttled.add(origin.user);
                self.pauses.retain(|(party, _)| *party != origin.party);
                self.pauses.push((origin.party, pause));
                if self.pauses.len() > Distinct::MOST {
                    self.pauses.remove(0);
                }
            }
            Response::Denied(status) => {
                self.denied.add(origin.user);
                self.denials = self.denials.saturating_add(1);
                self.status = status;
            }
            _ => {}
        }
    }

    /// Ends the run if the successful call was sent after it began; returns whether it did.
    pub fn end(&mut self, sent: Moment) -> bool {
        let ends = self.since.is_some_and(|since| sent >= since);
        if ends {
            *self = Self::default();
        }
        ends
    }

    /// Whether it has failures since a minute before that moment.
    pub fn reaches(&self, moment: Moment) -> bool {
        self.since.is_some() && self.ended + MAX_AGE >= moment
    }

    /// Whether it has failures of the last minute.
    pub fn is_live(&self, now: Moment) -> bool {
        self.since.is_some() && now.since(self.ended) < MAX_AGE
    }

    /// The users with failures, up to [`Distinct::MOST`].
    pub const fn users(&self) -> usize {
        self.users.len()
    }

    /// Whether it suggests that all calls fail. With `several` parties, failures of one are not enough.
    ///
    /// Where probes can test it, two users with a 429 are enough.
    pub fn is_grave(&self, several: bool, has_probes: bool) -> bool {
        let failing =
            self.users.len() >= LEAST_USERS && self.since.is_some_and(|since| self.last.since(since) >= LEAST_SPAN);
        let least_throttled = if has_probes { LEAST_THROTTLED } else { LEAST_USERS };
        (failing || self.throttled() && self.throttled.len() >= least_throttled)
            && (!several || self.parties.len() >= 2)
    }

    /// Whether the same API key was refused again while nothing has ever succeeded.
    pub fn is_denial(&self) -> bool {
        self.denials >= LEAST_DENIALS && self.denied.len() == self.users.len()
    }

    /// The kind of its failures: denials or 429s if all are, else failures of any kind.
    pub fn cause(&self) -> Cause {
        if self.denied.len() == self.users.len() {
            Cause::Denied { status: self.status, is_confirmed: self.denied.len() >= LEAST_DENIED }
        } else if self.throttled() {
            // A party may have a longer pause of its own.
            let pause = self.pauses.iter().map(|(_, pause)| *pause).reduce(shorter).flatten();
            Cause::Throttled { pause, is_confirmed: false }
        } else {
            Cause::Failing
        }
    }

    fn throttled(&self) -> bool {
        self.throttled.len() == self.users.len()
    }
}

/// The shorter of two pauses that Courier asked for, if it did.
pub fn shorter(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    one.into_iter().chain(other).min()
}

/// Why no call, or no call of a party, is worth making.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Courier fails.
    Failing,
    /// Courier answers 401, 402 or 403.
    Denied {
        /// The status.
        status: u16,
        /// Keys that had a token are refused too.
        is_confirmed: bool,
    },
    /// Courier answers 429.
    Throttled {
        /// The pause that it asks for, if it does.
        pause: Option<Duration>,
        /// Keys that had a token get it too.
        is_confirmed: bool,
    },
}

/// A small set of hashes.
#[derive(Debug, Default)]
struct Distinct(Vec<u64>);

impl Distinct {
    /// The most that are counted: more than any rule asks for.
    const MOST: usize = 8;

    fn add(&mut self, hash: u64) {
        if self.0.len() < Self::MOST && !self.0.contains(&hash) {
            self.0.push(hash);
        }
    }

    const fn len(&self) -> usize {
        self.0.len()
    }
}

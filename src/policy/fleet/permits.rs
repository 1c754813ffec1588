//! Permits: what a broker may take of the fleet's budget.

use std::num::NonZeroU32;
use std::time::Duration;

use super::member::{Standing, State};
use crate::clock::Moment;
use crate::policy::admission::bucket::Bucket;
use crate::policy::admission::budget::Budget;

/// The share of a second whose permits a purse holds, at most.
///
/// With 1 ms, a broker asks the store for each of 1,000 calls a second; with 100 ms, one broker's purse holds the
/// whole burst, and the others wait although it does not need it.
const PURSE: Duration = Duration::from_millis(10);

/// How long after its request a permit may be used. The budget leaves as much room between departures and arrivals.
pub const PURSE_LIFE: Duration = Duration::from_millis(100);

/// How long to wait for a purse, and after one that did not come.
pub const PURSE_DEADLINE: Duration = Duration::from_millis(50);

/// The permits of a broker in a fleet: a purse from the store or, while it is cut off, its share.
#[derive(Debug)]
pub struct FleetPermits {
    budget: Budget,
    standing: Standing,
    purse: Purse,
    /// A permit was wanted and there was none.
    is_wanted: bool,
    /// When the purse that is under way was asked for.
    asked: Option<Moment>,
    /// The store has no permit before.
    ask_at: Moment,
    /// When there may be a permit, after the last one that was not there.
    next: Moment,
    /// The bucket of a broker that is alone.
    alone: Option<Bucket>,
}

#[derive(Clone, Copy, Debug)]
struct Purse {
    permits: u32,
    /// How many more the store had.
    left: u32,
    until: Moment,
}

/// A request for permits: the arguments of the store's script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PurseRequest {
    /// When it is sent.
    pub sent: Moment,
    /// How many permits are wanted.
    pub permits: u32,
    /// The time between two calls of the live members.
    pub period: Duration,
    /// How far the bucket's theoretical arrival time may lie ahead: the whole burst at the whole rate.
    pub tolerance: Duration,
}

/// The store's answer to a request for permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PurseAnswer {
    /// How many permits were taken from the bucket.
    pub permits: u32,
    /// How many it still has.
    pub left: u32,
    /// How long it takes until it has one.
    pub wait: Duration,
}

impl FleetPermits {
    /// No permits yet.
    pub const fn new(budget: Budget, standing: Standing) -> Self {
        let past = Moment::from_nanos(0);
        let purse = Purse { permits: 0, left: 0, until: past };
        Self { budget, standing, purse, is_wanted: false, asked: None, ask_at: past, next: past, alone: None }
    }

    /// How far the arrival time of this budget's bucket may lie ahead. A broker that joins moves it as far.
    pub fn tolerance(&self) -> Duration {
        self.budget.period() * self.budget.departing_burst()
    }

    /// The time between two calls at the rate that this broker can count on.
    pub fn period(&self, now: Moment) -> Duration {
        let share = if self.standing.state(now) == State::Up { self.standing.live } else { self.standing.share };
        share.period(self.budget.period()).unwrap_or(Duration::MAX)
    }

    /// A moment at which there may be a permit. An answer of the store can make it earlier.
    pub const fn next_at(&self) -> Moment {
        self.next
    }

    /// Takes the permit of a call that leaves now; returns how many more there are.
    ///
    /// The error is [`FleetPermits::next_at`]. Until then [`FleetPermits::poll`] may ask for a purse.
    pub fn take(&mut self, now: Moment) -> Result<u32, Moment> {
        self.try_take(now).inspect_err(|next| self.next = *next)
    }

    fn try_take(&mut self, now: Moment) -> Result<u32, Moment> {
        match self.standing.state(now) {
            State::Up if self.purse.permits > 0 && now < self.purse.until => {
                self.purse.permits -= 1;
                Ok(self.purse.left + self.purse.permits)
            }
            State::Up => {
                self.is_wanted = true;
                Err(self.ask_at.max(now + PURSE))
            }
            State::Doubtful(until) => Err(until),
            State::Alone => self.alone(now).map_or(Err(Moment::NEVER), |bucket| bucket.take(now)),
        }
    }

    /// The bucket of a broker that is alone. It is empty when this is first called, not when the silence has ended: a
    /// process that was stopped meanwhile would otherwise go on with a burst.
    fn alone(&mut self, now: Moment) -> Option<&mut Bucket> {
        let period = self.standing.share.period(self.budget.period())?;
        let burst =
            NonZeroU32::new(self.standing.share.burst(self.budget.departing_burst())).unwrap_or(NonZeroU32::MIN);
        Some(self.alone.get_or_insert_with(|| Bucket::empty(period, burst, now)))
    }

    /// The request for a purse to send now, for so many queued calls at most.
    ///
    /// The driver gives its answer to [`FleetPermits::on_answer`].
    pub fn poll(&mut self, queued: usize, now: Moment) -> Option<PurseRequest> {
        let is_under_way = self.asked.is_some_and(|sent| now < sent + PURSE_DEADLINE);
        if !self.is_wanted || is_under_way || now < self.ask_at || self.standing.state(now) != State::Up {
            return None;
        }
        let (period, tolerance) = (self.standing.live.period(self.budget.period())?, self.tolerance());
        let most = (self.budget.rate() * PURSE.as_secs_f64()).max(1.0) as u32;
        let permits = u32::try_from(queued).map_or(most, |queued| queued.min(most));
        self.is_wanted = false;
        self.asked = Some(now);
        Some(PurseRequest { sent: now, permits, period, tolerance })
    }

    /// Records the answer to the request that was sent at `sent`; `None` if it failed.
    ///
    /// A late answer is dropped, with its permits.
    pub fn on_answer(&mut self, sent: Moment, answer: Option<PurseAnswer>, now: Moment) {
        if self.asked != Some(sent) {
            return;
        }
        self.asked = None;
        self.next = Moment::from_nanos(0);
        match answer {
            Some(PurseAnswer { permits, left, wait }) => {
                self.purse = Purse { permits, left, until: sent + PURSE_LIFE };
                self.ask_at = if permits == 0 { now + wait } else { now };
            }
            None => self.ask_at = now + PURSE_DEADLINE,
        }
    }

    /// Takes over what membership says. The driver calls it after each answer and each loss.
    pub fn set_standing(&mut self, standing: Standing, now: Moment) {
        self.next = Moment::from_nanos(0);
        if standing.live != self.standing.live {
            self.ask_at = Moment::from_nanos(0);
        }
        if standing.alone_from != self.standing.alone_from {
            self.alone = None;
        }
        self.standing = standing;
        if standing.state(now) == State::Alone {
            self.alone(now);
        }
    }
}

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

    /// Changes the budget. The store's bucket takes the new one with the next request for permits.
    pub fn set_budget(&mut self, budget: Budget) {
        // The answers of the store, also the one that is under way, hold for the old budget. The bucket of a lone broker
        // is made again, empty, when it is needed.
        *self = Self::new(budget, self.standing);
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

    /// Whether a permit was wanted and there was none, since the last request for a purse.
    pub const fn is_wanted(&self) -> bool {
        self.is_wanted
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::fleet::Share;

    const START: Moment = Moment::from_nanos(1 << 40);
    const PERIOD: Duration = Duration::from_millis(50);

    fn after(millis: u64) -> Moment {
        START + Duration::from_millis(millis)
    }

    /// A broker that is up for a second, with half of the budget live and a quarter of it alone.
    fn permits(rate: f64) -> FleetPermits {
        let (share, live) = (Share::of_each(4), Share::of_each(2));
        let standing = Standing { up_until: after(1000), alone_from: after(3000), share, live };
        let mut permits = FleetPermits::new(Budget::new(rate, 20).expect("a budget"), Standing::new(share, START));
        permits.set_standing(standing, START);
        permits
    }

    fn answer(permits: u32) -> Option<PurseAnswer> {
        Some(PurseAnswer { permits, left: 3, wait: PERIOD })
    }

    #[test]
    fn purse_is_asked_for_once_at_the_rate_of_the_live() {
        let mut permits = permits(20.0);
        assert_eq!(permits.poll(5, START), None, "no permit is wanted yet");
        assert!(permits.take(START).is_err_and(|next| next > START));
        let request = PurseRequest { sent: START, permits: 1, period: PERIOD * 2, tolerance: PERIOD * 18 };
        assert_eq!(permits.poll(5, START), Some(request));
        assert!(permits.take(after(10)).is_err());
        assert_eq!(permits.poll(5, after(10)), None, "it is under way");
        permits.on_answer(START, answer(1), after(11));
        assert_eq!(permits.take(after(11)), Ok(3));
        assert!(permits.take(after(11)).is_err());
    }

    #[test]
    fn purse_has_10_ms_of_the_rate_but_no_more_than_the_queued_calls() {
        for (queued, expected) in [(100, 10), (4, 4)] {
            let mut permits = permits(1000.0);
            assert!(permits.take(START).is_err());
            assert_eq!(permits.poll(queued, START).map(|request| request.permits), Some(expected));
        }
    }

    #[test]
    fn permits_are_thrown_away_100_ms_after_their_request() {
        for (at, taken) in [(99, Ok(4)), (100, Err(after(110)))] {
            let mut permits = permits(20.0);
            assert!(permits.take(START).is_err() && permits.poll(5, START).is_some());
            permits.on_answer(START, answer(2), after(40));
            assert_eq!(permits.take(after(at)), taken);
        }
    }

    #[test]
    fn broker_waits_as_long_as_the_store_says() {
        let mut permits = permits(20.0);
        assert!(permits.take(START).is_err() && permits.poll(5, START).is_some());
        permits.on_answer(START, answer(0), after(1));
        assert_eq!(permits.take(after(1)), Err(after(51)));
        assert_eq!(permits.poll(5, after(50)), None);
        assert!(permits.poll(5, after(51)).is_some());
    }

    #[test]
    fn changed_budget_ends_the_waits_and_permits_of_the_old_one() {
        let mut permits = permits(20.0);
        assert!(permits.take(START).is_err() && permits.poll(5, START).is_some());
        permits.on_answer(START, Some(PurseAnswer { permits: 9, left: 0, wait: Duration::ZERO }), after(1));
        permits.set_budget(Budget::new(0.01, 20).expect("a budget"));
        assert!(permits.take(after(2)).is_err(), "the purse is of the old budget");
        let request = permits.poll(5, after(2)).expect("a request");
        assert_eq!((request.permits, request.period), (1, Duration::from_secs(200)));
        // The answer with the long wait arrives after the next change.
        permits.set_budget(Budget::new(1000.0, 20).expect("a budget"));
        permits.on_answer(
            after(2),
            Some(PurseAnswer { permits: 0, left: 0, wait: Duration::from_secs(100) }),
            after(3),
        );
        assert!(permits.take(after(3)).is_err());
        let request = permits.poll(5, after(3)).expect("a request");
        assert_eq!((request.permits, request.period, request.tolerance), (5, PERIOD / 25, PERIOD / 50 * 10));
    }

    #[test]
    fn purse_is_asked_for_again_after_a_failure() {
        let mut permits = permits(20.0);
        assert!(permits.take(START).is_err() && permits.poll(5, START).is_some());
        permits.on_answer(START, None, after(20));
        assert_eq!(permits.take(after(20)), Err(after(70)));
        assert_eq!(permits.poll(5, after(69)), None);
        assert!(permits.poll(5, after(70)).is_some());
    }

    #[test]
    fn doubtful_broker_makes_no_call_and_a_lone_one_begins_empty() {
        let mut permits = permits(20.0);
        assert_eq!(permits.take(after(1000)), Err(after(3000)));
        assert_eq!(permits.poll(5, after(1000)), None);
        // Nothing was saved while the process was stopped.
        assert_eq!(permits.take(after(9000)), Err(after(9000) + PERIOD * 4));
        assert_eq!(permits.take(after(9000) + PERIOD * 8), Ok(1));
    }
}

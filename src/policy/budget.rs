//! Who calls Courier next.

use std::collections::BTreeMap;
use std::time::Duration;

/// Why somebody wants to call, in the order in which they are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Somebody waits for the token.
    Waiting,
    /// A token is carried on before its window ends.
    Renewal,
}

impl Class {
    /// Every class, in the order in which they are served.
    pub const ALL: [Self; 2] = [Self::Waiting, Self::Renewal];

    /// The word for logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Renewal => "renewal",
        }
    }
}

/// One call in this many is a renewal's while renewals wait, however many users
/// do: a renewal that starves is a user who waits later.
pub const RENEWAL_SHARE: usize = 10;

/// The calls that wait for the budget: waiting users first, in the order of
/// their arrival, then renewals; every [`RENEWAL_SHARE`]th call is a renewal's.
#[derive(Debug)]
pub struct Queue<T> {
    waiting: BTreeMap<Place, T>,
    renewals: BTreeMap<Place, T>,
    arrivals: u64,
    /// Calls of waiting users since the last renewal.
    passed: usize,
}

/// A call's place in the queue, by its arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place(u64);

impl<T> Queue<T> {
    /// An empty queue.
    pub const fn new() -> Self {
        Self { waiting: BTreeMap::new(), renewals: BTreeMap::new(), arrivals: 0, passed: 0 }
    }

    /// Queues a call.
    pub fn push(&mut self, class: Class, call: T) -> Place {
        let place = Place(self.arrivals);
        self.arrivals += 1;
        self.lane(class).insert(place, call);
        place
    }

    /// Somebody has begun to wait for a renewal that is queued: from now on it
    /// is a waiting user's call, at the place of its arrival.
    pub fn promote(&mut self, place: Place) {
        if let Some(call) = self.renewals.remove(&place) {
            self.waiting.insert(place, call);
        }
    }

    /// Takes out whoever waits, in their order.
    pub fn drop_users(&mut self) -> impl Iterator<Item = T> {
        std::mem::take(&mut self.waiting).into_values()
    }

    /// Takes the renewals out.
    pub fn drop_renewals(&mut self) {
        self.renewals.clear();
    }

    /// No user waits. A renewal that is next for no other reason leaves the reserve to
    /// those who may come; one whose turn it is though users wait does not.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }

    /// A user who comes now need not queue, if the budget has a call: no other user
    /// waits, and no renewal whose turn it is though one comes.
    pub fn lets_pass(&self) -> bool {
        self.is_idle() && (self.renewals.is_empty() || !self.is_renewals_turn())
    }

    /// A user's call leaves without queueing.
    pub fn pass(&mut self) {
        // Where no renewal waits, none is passed over.
        self.passed = if self.renewals.is_empty() { 0 } else { self.passed + 1 };
    }

    /// Takes the call whose turn it is.
    pub fn pop(&mut self) -> Option<(Class, T)> {
        let renewal_first = self.is_idle() || self.is_renewals_turn();
        if renewal_first && let Some((_, call)) = self.renewals.pop_first() {
            self.passed = 0;
            return Some((Class::Renewal, call));
        }
        let (_, call) = self.waiting.pop_first()?;
        self.pass();
        Some((Class::Waiting, call))
    }

    const fn is_renewals_turn(&self) -> bool {
        self.passed + 1 >= RENEWAL_SHARE
    }

    /// How many calls go before that of a user who would begin to wait now, if nobody
    /// else comes.
    pub fn ahead(&self) -> usize {
        let (waiting, renewals) = (self.waiting.len(), self.renewals.len());
        waiting + renewals.min((self.passed + waiting) / (RENEWAL_SHARE - 1))
    }

    /// May another renewal be queued? About as many as a second serves, and only one
    /// while users wait: the others are better kept in the schedule, where it may
    /// turn out that they are not wanted any more.
    pub fn has_room(&self, budget: &Budget) -> bool {
        let most = if self.is_idle() { (budget.rate().ceil() as usize).max(1) } else { 1 };
        self.renewals.len() < most
    }

    /// How many calls of a class wait.
    pub fn depth(&self, class: Class) -> usize {
        match class {
            Class::Waiting => self.waiting.len(),
            Class::Renewal => self.renewals.len(),
        }
    }

    /// Nobody waits.
    pub fn is_empty(&self) -> bool {
        self.is_idle() && self.renewals.is_empty()
    }

    fn lane(&mut self, class: Class) -> &mut BTreeMap<Place, T> {
        match class {
            Class::Waiting => &mut self.waiting,
            Class::Renewal => &mut self.renewals,
        }
    }
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// The permitted rate of calls to one workspace: in any window of t seconds at
/// most `rate * t + burst` calls.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Budget {
    rate: f64,
    burst: u32,
}

impl Budget {
    /// The rates that can be kept, in calls a second.
    pub const RATES: std::ops::RangeInclusive<f64> = 0.001..=100_000.0;
    /// The largest burst.
    pub const MAX_BURST: u32 = 1_000_000;

    /// `rate` calls a second on average and `burst` at once. `None` where the
    /// rate is out of [`Budget::RATES`] or the burst is 0 or too large.
    pub fn new(rate: f64, burst: u32) -> Option<Self> {
        let fits = Self::RATES.contains(&rate) && (1..=Self::MAX_BURST).contains(&burst);
        fits.then_some(Self { rate, burst })
    }

    /// Calls a second.
    pub const fn rate(&self) -> f64 {
        self.rate
    }

    /// Calls that may leave at once: less than the burst by what could catch up
    /// with each other on the way, since what counts is what Courier sees, and of
    /// two calls the earlier may take longer to get there. But at least half of
    /// the burst: with too little of it, what a late timer missed is lost.
    pub fn departing_burst(&self) -> u32 {
        let catching_up = (self.rate * TRANSIT_SPREAD.as_secs_f64()) as u32;
        self.burst.saturating_sub(catching_up).max(self.burst.div_ceil(2))
    }

    /// How many calls renewals leave to users who may come: a quarter of what may leave
    /// at once.
    pub fn reserve(&self) -> u32 {
        self.departing_burst() / 4
    }

    /// How long renewals wait after a call that leaves room for `left` more at once, so
    /// that the reserve is there after the next.
    pub fn pause(&self, left: u32) -> Duration {
        self.period() * (self.reserve() + 1).saturating_sub(left)
    }

    /// The time between two calls at the full rate.
    pub fn period(&self) -> Duration {
        // Rounded up: never a call too many.
        Duration::from_nanos((1e9 / self.rate).ceil() as u64)
    }

    /// When the call that has `ahead` others before it can leave, if the next
    /// one can in `next`.
    pub fn wait(&self, next: Duration, ahead: usize) -> Duration {
        let ahead = u32::try_from(ahead).unwrap_or(u32::MAX);
        next.saturating_add(self.period().saturating_mul(ahead))
    }
}

/// How much longer one call may take to Courier than another: a new connection,
/// a lost packet, a busy machine.
const TRANSIT_SPREAD: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_who_wait_go_before_renewals() {
        let mut queue = Queue::new();
        queue.push(Class::Renewal, "renewal");
        queue.push(Class::Waiting, "first user");
        queue.push(Class::Waiting, "second user");
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).map(|(_, call)| call).collect();
        assert_eq!(order, ["first user", "second user", "renewal"]);
    }

    #[test]
    fn renewals_never_starve() {
        let mut queue = Queue::new();
        for n in 0..1000 {
            queue.push(Class::Waiting, n);
            if n < 50 {
                queue.push(Class::Renewal, n);
            }
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).map(|(class, _)| class).collect();
        for tenth in order[..500].chunks(RENEWAL_SHARE) {
            assert_eq!(tenth.iter().filter(|class| **class == Class::Renewal).count(), 1);
        }
    }

    #[test]
    fn a_renewal_that_somebody_waits_for_goes_with_the_users() {
        let mut queue = Queue::new();
        let renewal = queue.push(Class::Renewal, "renewal");
        let user = queue.push(Class::Waiting, "user");
        queue.promote(renewal);
        queue.promote(renewal);
        queue.promote(user);
        assert_eq!(queue.pop(), Some((Class::Waiting, "renewal")));
        assert_eq!(queue.pop(), Some((Class::Waiting, "user")));
    }

    #[test]
    fn what_goes_before_an_arrival_is_told() {
        for (passed, waiting, renewals) in (0..4000).map(|n| (n % 10, n / 10 % 40, n / 400)) {
            let mut queue = Queue::new();
            for _ in 0..renewals {
                queue.push(Class::Renewal, false);
            }
            (0..passed).for_each(|_| queue.pass());
            for _ in 0..waiting {
                queue.push(Class::Waiting, false);
            }
            let told = queue.ahead();
            queue.push(Class::Waiting, true);
            let before = std::iter::from_fn(|| queue.pop()).take_while(|(_, mine)| !mine).count();
            assert_eq!(told, before, "{passed} {waiting} {renewals}");
        }
    }

    #[test]
    fn absurd_budgets_can_not_be_made() {
        for (rate, burst) in [(0.0, 1), (-1.0, 1), (f64::NAN, 1), (f64::INFINITY, 1), (1.0, 0), (1.0, 1_000_001)] {
            assert_eq!(Budget::new(rate, burst), None, "{rate} {burst}");
        }
        let budget = Budget::new(50.0, 10).expect("a budget");
        assert_eq!(budget.wait(Duration::from_millis(5), 3), Duration::from_millis(65));
    }

    #[test]
    fn calls_that_catch_up_with_each_other_keep_to_the_burst() {
        for (rate, burst, departing) in [(50.0, 10, 5), (20.0, 20, 18), (1.0, 2, 2), (1000.0, 10, 5), (1000.0, 1, 1)] {
            let budget = Budget::new(rate, burst).expect("a budget");
            assert_eq!(budget.departing_burst(), departing, "{rate} {burst}");
        }
    }
}

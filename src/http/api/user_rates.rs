//! The limit of each user's request rate.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::Duration;

use parking_lot::Mutex;

use crate::auth::InboundRate;
use crate::clock::Moment;

/// Limits the rate of each user by itself, with the generic cell rate algorithm.
///
/// It remembers a user only for as long as its last requests matter. Users share no counter: one user's requests
/// never count as another's.
pub struct UserRates {
    rate: InboundRate,
    /// The time that one request takes up.
    period: Duration,
    /// How far a user may be ahead of its rate.
    tolerance: Duration,
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
}

struct Shard {
    /// When each user's requests are paid off at its rate.
    paid_off: HashMap<Box<str>, Moment>,
    /// The number of users at which those who are paid off are dropped, but not before this time.
    full_at: usize,
    next_sweep: Moment,
}

impl Default for Shard {
    fn default() -> Self {
        Self { paid_off: HashMap::new(), full_at: LEAST_FULL, next_sweep: Moment::from_nanos(0) }
    }
}

/// A burst, in seconds at the rate: a browser that starts with many tabs sends one request for each. It costs about as
/// many hits, since all requests of a user are for the same token.
const BURST: f64 = 10.0;
const LEAST_BURST: f64 = 4.0;
const SHARDS: usize = 64;
const LEAST_FULL: usize = 64;
/// The least time between two looks at all users of a shard.
const SWEEP_INTERVAL: Duration = Duration::from_millis(100);
/// The most users of a shard, over a quarter of a million in all. Each has made a request with a valid session in
/// the last seconds. Further ones are not limited.
const MOST: usize = 4096;

impl UserRates {
    /// Starts with a full burst for each user.
    pub fn new(rate: InboundRate) -> Self {
        let period = Duration::from_secs_f64(1.0 / rate.per_second());
        let tolerance = period.mul_f64((rate.per_second() * BURST).max(LEAST_BURST) - 1.0);
        let shards = std::array::from_fn(|_| Mutex::default());
        Self { rate, period, tolerance, shards, hasher: RandomState::new() }
    }

    /// The rate.
    pub const fn rate(&self) -> InboundRate {
        self.rate
    }

    /// Admits one request of a user, or returns the time until it could be admitted.
    pub fn admit(&self, user: &str, now: Moment) -> Result<(), Duration> {
        let shard = self.hasher.hash_one(user) as usize % SHARDS;
        let Some(shard) = self.shards.get(shard) else { return Ok(()) };
        let mut shard = shard.lock();
        shard.make_room(now);
        // `entry` would copy the user's id for each request.
        if let Some(paid_off) = shard.paid_off.get_mut(user) {
            let ahead = paid_off.since(now);
            if ahead > self.tolerance {
                return Err(ahead - self.tolerance);
            }
            *paid_off = now.max(*paid_off) + self.period;
        } else if shard.paid_off.len() < MOST {
            shard.paid_off.insert(user.into(), now + self.period);
        }
        Ok(())
    }
}

impl Shard {
    /// Drops the users whose requests are paid off, each time that the number of users has doubled.
    fn make_room(&mut self, now: Moment) {
        if self.paid_off.len() >= self.full_at && now >= self.next_sweep {
            self.paid_off.retain(|_, paid_off| *paid_off > now);
            self.full_at = (self.paid_off.len() * 2).clamp(LEAST_FULL, MOST);
            self.paid_off.shrink_to(self.full_at);
            self.next_sweep = now + SWEEP_INTERVAL;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn rates(per_second: f64) -> UserRates {
        UserRates::new(InboundRate::new(per_second).expect("a rate"))
    }

    fn admitted(rates: &UserRates, user: &str, now: Moment) -> usize {
        (0..1000).take_while(|_| rates.admit(user, now).is_ok()).count()
    }

    #[test]
    fn each_user_has_its_own_burst_and_rate() {
        let rates = rates(5.0);
        let start = Moment::from_nanos(1_000_000_000);
        assert_eq!(admitted(&rates, "jane", start), 50);
        let wait = rates.admit("jane", start).expect_err("nothing is left");
        assert_eq!(wait, SECOND / 5);
        assert_eq!(admitted(&rates, "joe", start), 50);
        assert_eq!(admitted(&rates, "jane", start + wait), 1);
        assert_eq!(admitted(&rates, "jane", start + wait + SECOND), 5);
        assert_eq!(admitted(&rates, "jane", start + 60 * SECOND), 50);
    }

    #[test]
    fn low_rate_has_a_burst_too() {
        let rates = rates(0.01);
        let start = Moment::from_nanos(1);
        assert_eq!(admitted(&rates, "jane", start), 4);
        assert_eq!(rates.admit("jane", start), Err(100 * SECOND));
    }

    #[test]
    fn users_who_are_paid_off_are_forgotten_and_others_are_not() {
        let rates = rates(5.0);
        let mut now = Moment::from_nanos(1);
        for user in 0..50_000 {
            now = now + SECOND / 1000;
            assert_eq!(rates.admit(&user.to_string(), now), Ok(()));
            if user % 5 == 0 {
                let _ = rates.admit("busy", now);
            }
        }
        let kept: usize = rates.shards.iter().map(|shard| shard.lock().paid_off.len()).sum();
        assert!(kept <= SHARDS * 2 * LEAST_FULL, "{kept}");
        assert!(rates.admit("busy", now).is_err());
    }

    #[test]
    fn number_of_users_is_bounded() {
        let rates = rates(5.0);
        let now = Moment::from_nanos(1);
        let shard = |user: &str| rates.hasher.hash_one(user) as usize % SHARDS;
        for user in (0..).map(|user: u32| user.to_string()).filter(|user| shard(user) == 0).take(MOST + 100) {
            assert_eq!(rates.admit(&user, now), Ok(()));
        }
        assert_eq!(rates.shards[0].lock().paid_off.len(), MOST);
        // They have room again later.
        let later = now + SECOND;
        let next = (0..).map(|user: u32| format!("next-{user}")).find(|user| shard(user) == 0).expect("there is one");
        assert_eq!(rates.admit(&next, later), Ok(()));
        assert_eq!(rates.shards[0].lock().paid_off.len(), 1);
    }
}

//! The limit of a client's request rate.

use std::fmt;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

use crate::clock::Clock;

/// Requests a second that a client may make; the burst is one second's worth.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InboundRate(f64);

impl InboundRate {
    /// The accepted values.
    pub const RANGE: RangeInclusive<f64> = 0.01..=1_000_000.0;

    /// Creates a rate; `None` if it is out of range.
    pub fn new(per_second: f64) -> Option<Self> {
        Self::RANGE.contains(&per_second).then_some(Self(per_second))
    }

    /// Requests a second.
    pub const fn per_second(self) -> f64 {
        self.0
    }

    fn quota(self) -> Quota {
        let period = Duration::from_secs_f64(1.0 / self.0).max(Duration::from_nanos(1));
        let burst = NonZeroU32::new(self.0 as u32).unwrap_or(NonZeroU32::MIN);
        // A period is never zero.
        Quota::with_period(period).unwrap_or(Quota::per_second(burst)).allow_burst(burst)
    }
}

/// Limits one client's rate. Clones share the limit.
#[derive(Clone)]
pub struct Inbound {
    rate: InboundRate,
    limiter: Arc<RateLimiter<NotKeyed, InMemoryState, Clock, NoOpMiddleware<Nanos>>>,
    clock: Clock,
}

impl Inbound {
    /// Starts with a full burst.
    pub fn new(rate: InboundRate, clock: Clock) -> Self {
        Self { rate, limiter: Arc::new(RateLimiter::direct_with_clock(rate.quota(), clock)), clock }
    }

    /// The rate.
    pub const fn rate(&self) -> InboundRate {
        self.rate
    }

    /// Admits one request, or returns the time until it could be admitted.
    pub fn admit(&self) -> Result<(), Duration> {
        self.limiter.check().map_err(|not_yet| not_yet.wait_time_from(Nanos::new(self.clock.now().as_nanos())))
    }
}

impl fmt::Debug for Inbound {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.rate.fmt(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn client_has_a_burst_of_one_second_and_then_its_rate() {
        let clock = Clock::tokio();
        let inbound = Inbound::new(InboundRate::new(10.0).expect("a rate"), clock);
        let passed = |count: usize| (0..count).filter(|_| inbound.admit().is_ok()).count();
        assert_eq!(passed(1000), 10);
        let wait = inbound.admit().expect_err("nothing is left");
        assert!(wait <= Duration::from_millis(100), "{wait:?}");
        clock.sleep_until(clock.now() + Duration::from_secs(60)).await;
        assert_eq!(passed(1000), 10);
    }

    #[test]
    fn rate_out_of_range_is_refused() {
        for wrong in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e9, 0.001] {
            assert_eq!(InboundRate::new(wrong), None, "{wrong}");
        }
        for right in [0.01, 0.5, 1.0, 1e6] {
            let inbound = Inbound::new(InboundRate::new(right).expect("a rate"), Clock::system());
            assert_eq!(inbound.admit(), Ok(()), "{right}");
        }
    }
}

//! Freshness: whether a cached token may still be handed out.

use std::time::Duration;

use crate::clock::Moment;
use crate::token::Grant;

/// The least remaining life of a token that is handed out.
///
/// Courier's client SDKs have no refresh hook: a page keeps its token until it is reloaded. So
/// "not yet expired" is not enough.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Floor {
    share: f64,
    hard: Duration,
}

impl Floor {
    /// The largest share: above it, next to none of a token's life is usable.
    pub const MAX_SHARE: f64 = 0.95;

    /// A floor of `share` of a token's life, which an outage may lower to `hard`.
    ///
    /// ```
    /// use std::time::Duration;
    /// use courier_token_broker::policy::freshness::{Floor, FloorError};
    ///
    /// let (hour, seconds) = (Duration::from_secs(3600), Duration::from_secs(30));
    /// let floor = Floor::new(0.25, seconds)?;
    /// assert_eq!((floor.of(hour), floor.hard_of(hour)), (hour / 4, seconds));
    /// assert_eq!(Floor::new(1.0, seconds), Err(FloorError));
    /// assert_eq!(FloorError.to_string(), "must be a number from 0 to 0.95");
    /// # Ok::<(), FloorError>(())
    /// ```
    pub fn new(share: f64, hard: Duration) -> Result<Self, FloorError> {
        if (0.0..=Self::MAX_SHARE).contains(&share) { Ok(Self { share, hard }) } else { Err(FloorError) }
    }

    /// The floor of a token with this life.
    pub fn of(&self, life: Duration) -> Duration {
        life.mul_f64(self.share).max(self.hard_of(life))
    }

    /// The hard floor of a token with this life, which holds while Courier fails, too.
    ///
    /// For short lifetimes it is the floor's share, if that is less; with a share near zero, a
    /// tenth of the life, so that the hard floor never vanishes.
    pub fn hard_of(&self, life: Duration) -> Duration {
        self.hard.min(life.mul_f64(self.share.max(0.1))).max(Self::LEAST.min(life / 2))
    }

    /// The window: how long after its issue a token of this life is above its floor.
    pub fn window_of(&self, life: Duration) -> Duration {
        life.saturating_sub(self.of(life))
    }

    /// When a grant reaches its floor.
    pub fn at(&self, grant: &Grant) -> Moment {
        grant.expires() - self.of(grant.life())
    }

    /// When a grant reaches its hard floor.
    pub fn hard_at(&self, grant: &Grant) -> Moment {
        grant.expires() - self.hard_of(grant.life())
    }

    /// The least hard floor, whatever the settings. Courier's `iat` is in whole seconds, so a
    /// token may expire up to a second earlier than computed.
    const LEAST: Duration = Duration::from_secs(1);
}

/// The error for a share that is not from 0 to [`Floor::MAX_SHARE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a number from 0 to {}", Floor::MAX_SHARE)]
pub struct FloorError;

/// How old a requested token is, and what is demanded of it.
#[derive(Clone, Copy, Debug)]
pub struct TokenAge {
    /// Its whole life.
    pub life: Duration,
    /// Its remaining life.
    pub remaining: Duration,
    /// The least remaining life that the request demands.
    pub min_ttl: Option<Duration>,
    /// Whether its renewal is due.
    pub is_due: bool,
}

impl TokenAge {
    /// The age of a token whose renewal is due at `due`.
    pub fn of(grant: &Grant, due: Moment, min_ttl: Option<Duration>, now: Moment) -> Self {
        Self { life: grant.life(), remaining: grant.remaining(now), min_ttl, is_due: now >= due }
    }
}

/// Whether a request gets the cached token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Hand the token out.
    Serve {
        /// Its renewal is due.
        is_due: bool,
    },
    /// It is stale for this request: wait for a new one.
    Wait(Stale),
}

/// Why a token is stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stale {
    /// Less is left than the request demands.
    BelowMinTtl,
    /// Less is left than the floor.
    BelowFloor,
    /// Less is left than the hard floor.
    BelowHardFloor,
}

impl Stale {
    /// The word for `Cache-Status` and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BelowMinTtl => "below-min-ttl",
            Self::BelowFloor => "below-floor",
            Self::BelowHardFloor => "below-hard-floor",
        }
    }
}

/// Decides about a request with a cached token.
pub fn judge(floor: &Floor, token: &TokenAge) -> Freshness {
    let TokenAge { life, remaining, min_ttl, is_due } = *token;
    if remaining < floor.hard_of(life) {
        Freshness::Wait(Stale::BelowHardFloor)
    } else if remaining < floor.of(life) {
        Freshness::Wait(Stale::BelowFloor)
    } else if min_ttl.is_some_and(|wanted| remaining < wanted) {
        Freshness::Wait(Stale::BelowMinTtl)
    } else {
        Freshness::Serve { is_due }
    }
}

/// How long a stale token may still be handed out while Courier fails; `None` if it may not.
///
/// The hard floor and the request's own demand still hold.
pub fn servable_for(floor: &Floor, token: &TokenAge) -> Option<Duration> {
    let least = floor.hard_of(token.life).max(token.min_ttl.unwrap_or_default());
    token.remaining.checked_sub(least)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn floor() -> Floor {
        Floor::new(0.5, Duration::from_secs(30)).expect("half is a share")
    }

    fn cached(life: Duration, remaining: Duration) -> TokenAge {
        TokenAge { life, remaining, min_ttl: None, is_due: false }
    }

    #[test]
    fn token_is_served_down_to_its_floor_and_no_further() {
        let life = 2 * HOUR;
        assert_eq!(judge(&floor(), &cached(life, HOUR)), Freshness::Serve { is_due: false });
        let below = HOUR - Duration::from_nanos(1);
        assert_eq!(judge(&floor(), &cached(life, below)), Freshness::Wait(Stale::BelowFloor));
        let hard = Duration::from_secs(30);
        assert_eq!(judge(&floor(), &cached(life, hard)), Freshness::Wait(Stale::BelowFloor));
        let below = hard - Duration::from_nanos(1);
        assert_eq!(judge(&floor(), &cached(life, below)), Freshness::Wait(Stale::BelowHardFloor));
    }

    #[test]
    fn min_ttl_raises_the_floor_but_never_lowers_it() {
        let ask =
            |remaining, min_ttl| judge(&floor(), &TokenAge { min_ttl: Some(min_ttl), ..cached(2 * HOUR, remaining) });
        let minute = Duration::from_secs(60);
        assert_eq!(ask(HOUR + minute, HOUR + minute), Freshness::Serve { is_due: false });
        assert_eq!(ask(HOUR + minute, HOUR + 2 * minute), Freshness::Wait(Stale::BelowMinTtl));
        assert_eq!(ask(HOUR - minute, minute), Freshness::Wait(Stale::BelowFloor));
    }

    #[test]
    fn due_token_is_served_as_due() {
        let due = TokenAge { is_due: true, ..cached(2 * HOUR, HOUR) };
        assert_eq!(judge(&floor(), &due), Freshness::Serve { is_due: true });
    }

    #[test]
    fn outage_lowers_the_floor_but_not_min_ttl() {
        let old = cached(2 * HOUR, Duration::from_secs(60));
        assert_eq!(servable_for(&floor(), &old), Some(Duration::from_secs(30)));
        assert_eq!(servable_for(&floor(), &TokenAge { min_ttl: Some(HOUR), ..old }), None);
        assert_eq!(servable_for(&floor(), &cached(2 * HOUR, Duration::from_secs(29))), None);
    }

    #[test]
    fn short_lifetimes_have_a_window_too() {
        let life = Duration::from_secs(4);
        assert_eq!(floor().of(life), Duration::from_secs(2));
        assert_eq!(floor().hard_of(life), Duration::from_secs(2));
        assert_eq!(floor().window_of(life), Duration::from_secs(2));
    }

    #[test]
    fn share_out_of_range_is_rejected() {
        for share in [-0.1, 0.96, 1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(Floor::new(share, HOUR), Err(FloorError), "{share}");
        }
    }

    proptest! {
        #[test]
        fn token_is_never_served_below_the_hard_floor_or_expired(
            share in 0.0..=Floor::MAX_SHARE,
            hard in 0u64..100_000_000,
            life in 1u64..100_000_000,
            remaining in 0u64..100_000_000,
            min_ttl in prop::option::of(0u64..100_000_000),
            is_due in any::<bool>(),
        ) {
            let ms = Duration::from_millis;
            let floor = Floor::new(share, ms(hard)).expect("in range");
            let token = TokenAge { life: ms(life), remaining: ms(remaining.min(life)), min_ttl: min_ttl.map(ms), is_due };
            let served = !matches!(judge(&floor, &token), Freshness::Wait(_));
            if served || servable_for(&floor, &token).is_some() {
                prop_assert!(token.remaining > Duration::ZERO);
                prop_assert!(token.remaining >= ms(hard).min(ms(life).mul_f64(share)));
                prop_assert!(token.min_ttl.is_none_or(|wanted| token.remaining >= wanted));
            }
            if served {
                prop_assert!(token.remaining >= ms(life).mul_f64(share));
            }
        }
    }
}

//! The order of admission: classes, ranks and places.

use std::cmp::Reverse;

use crate::clock::Moment;

/// The admission class of a call, in the order of admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// A request waits for the token, or the circuit breaker for a probe.
    Waiting,
    /// A cached token is about to cross its floor.
    Renewal,
    /// Any other call ahead of a request.
    Ahead,
}

impl Class {
    /// Every class, in the order of admission.
    pub const ALL: [Self; 3] = [Self::Waiting, Self::Renewal, Self::Ahead];

    /// The word for logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Renewal => "renewal",
            Self::Ahead => "ahead",
        }
    }
}

/// A call's place in the queue, numbered by arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place(pub(super) u64);

/// The priority of a renewal; the lesser goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// The cached token crosses its floor at this moment; the earlier goes first.
    Renewal(Moment),
    /// No usable token is cached. The bits of a value, in delayed requests avoided for each extra
    /// call, which are in the order of the values; the higher goes first.
    Ahead(Reverse<u32>),
}

impl Rank {
    /// Above any forecast value, for a key in use: its token was just rejected, or was used in its
    /// window and has no forecast.
    pub const IN_USE: Self = Self::ahead(f32::INFINITY);

    /// The rank of a call with this value, at least 0.
    pub const fn ahead(value: f32) -> Self {
        Self::Ahead(Reverse(value.max(0.0).to_bits()))
    }

    /// The rank of a key whose token crosses its floor at `floor`, with the value of a new token
    /// if there is a forecast.
    pub fn of(floor: Moment, value: Option<f32>, now: Moment) -> Self {
        if now < floor { Self::Renewal(floor) } else { value.map_or(Self::IN_USE, Self::ahead) }
    }

    /// The class that it belongs to.
    pub const fn class(self) -> Class {
        match self {
            Self::Renewal(_) => Class::Renewal,
            Self::Ahead(_) => Class::Ahead,
        }
    }
}

/// One call in this many is a renewal while renewals wait, however many requests do; and one
/// renewal in this many is the one that has waited longest.
///
/// With none, a steady rush of new users would let every cached token expire, and each of their
/// users would wait as well. With one in 5, renewals take a fifth of a budget that users are short
/// of already; with one in 20, a renewal that comes due in a rush waits twice as long for its turn.
pub const RENEWAL_SHARE: usize = 10;

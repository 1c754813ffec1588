//! The fault schedule: Courier's faults, their lengths, and the failures that they explain.

use std::time::Duration;

use courier_token_broker::simulator::{Delivery, Fault, Faults};
use courier_token_broker::upstream::Failure;
use fastrand::Rng;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};

use crate::support::test_broker::{MS, SECOND};

/// The longest that an answer takes.
pub const SLOWEST: Duration = Duration::from_secs(12);
/// The longest `Retry-After`: the broker must have recovered a minute after the last fault.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(12);
/// The longest life of a JWT that lives shorter than requested.
pub const SHORT_LIFE: Duration = Duration::from_secs(60);

/// A Courier without faults.
pub fn healthy() -> Faults {
    Faults { latency: 60 * MS, latency_jitter: 40 * MS, ..Faults::default() }
}

/// The kinds of fault left to draw before all kinds are shuffled again.
#[derive(Default)]
pub struct Deck(Vec<u32>);

/// The number of kinds.
const KINDS: u32 = 24;

/// Draws the next faults and their length.
pub fn draw(random: &mut Rng, deck: &mut Deck) -> (Faults, Duration) {
    let seconds = |random: &mut Rng, from: u64, to: u64| Duration::from_millis(random.u64(from * 1000..to * 1000));
    if random.f64() < 0.4 {
        return (healthy(), seconds(random, 3, 20));
    }
    let mut faults = Faults { error_rate: [0.1, 0.5, 1.0][random.usize(..3)], ..healthy() };
    if deck.0.is_empty() {
        deck.0.extend(0..KINDS);
        random.shuffle(&mut deck.0);
    }
    match deck.0.pop().unwrap_or_default() {
        0 | 1 => (faults.latency, faults.latency_jitter, faults.error_rate) = (2 * SECOND, 2 * SECOND, 0.0),
        2 => (faults.latency, faults.latency_jitter, faults.error_rate) = (SLOWEST / 2, SLOWEST / 2, 0.0),
        3..7 => faults.error_kind = Fault::status(pick(random, &[500, 502, 503, 504, 520])),
        7..10 => faults.error_kind = throttled(random),
        10 => (faults.rate_limit, faults.error_rate) = (Some(random.u32(1..60)), 0.0),
        11 => faults.error_kind = Fault::Delivery(Delivery::CutOff),
        12 => faults.error_kind = Fault::Delivery(pick(random, &[Delivery::Dripping, Delivery::Endless])),
        13 => faults.error_kind = Fault::Delivery(Delivery::Never),
        14 => {
            let bodies =
                [Fault::NOT_JSON, Fault::HTML, Fault::EMPTY, Fault::ARRAY, Fault::EMPTY_TOKEN, Fault::NO_TOKEN];
            faults.error_kind = pick(random, &bodies);
        }
        15 => faults.error_kind = Fault::Scope(format!("user_id:{} inbox:read:messages", random.u32(0..3))),
        16 => {
            faults.error_kind = pick(random, &[Fault::EXPIRED, Fault::Life(Some(-1e99)), Fault::ENDED, Fault::NOT_YET])
        }
        17 => faults.error_kind = pick(random, &[Fault::NO_EXP, Fault::ABSURD_EXP]),
        18 => faults.error_kind = Fault::Life(Some(f64::from(random.u32(5..60)))),
        19 => faults.error_kind = Fault::status(pick(random, &[401, 402, 403])),
        20 => faults.error_kind = Fault::status(pick(random, &[400, 404, 409, 413, 422])),
        21 => faults.error_kind = Fault::redirect(HeaderValue::from_static("/elsewhere")),
        22 => faults.outage = vec![Duration::ZERO..Duration::MAX],
        _ => (faults.opaque_tokens, faults.error_rate) = (true, 0.0),
    }
    (faults, seconds(random, 2, 12))
}

fn pick<T: Clone>(random: &mut Rng, all: &[T]) -> T {
    all[random.usize(..all.len())].clone()
}

/// A 429 with any form of `Retry-After`, or none. A date is relative to the answer's own.
fn throttled(random: &mut Rng) -> Fault {
    const DATE: (&str, &str) = ("date", "Sat, 01 Jan 2000 00:00:00 GMT");
    let all: &[&[(&str, &str)]] = &[
        &[],
        &[("retry-after", "0")],
        &[("retry-after", "1")],
        &[("retry-after", "0.5")],
        &[("retry-after", "12")],
        &[("retry-after-ms", "250"), ("retry-after", "7")],
        &[("retry-after", "Sat, 01 Jan 2000 00:00:03 GMT"), DATE],
        &[("retry-after", "Fri, 31 Dec 1999 23:59:00 GMT"), DATE],
        &[("retry-after", "soon")],
        &[("retry-after", "-5")],
        &[("retry-after", "1e9")],
    ];
    let line =
        |(name, value): &(&'static str, &'static str)| (HeaderName::from_static(name), HeaderValue::from_static(value));
    let headers: HeaderMap = pick(random, all).iter().map(line).collect();
    Fault::Status(429, headers, Delivery::Whole)
}

/// Tells whether these faults explain this failure of a call.
pub fn explains(faults: &Faults, failure: &Failure) -> bool {
    if !faults.outage.is_empty() {
        return *failure == Failure::Unavailable(503);
    }
    if faults.rate_limit.is_some() {
        return matches!(failure, Failure::Throttled(_));
    }
    if faults.error_rate == 0.0 {
        return false;
    }
    match &faults.error_kind {
        Fault::Status(400, ..) => matches!(failure, Failure::Refused(_)),
        Fault::Status(status @ 401..=403, ..) => {
            [Failure::Credentials(*status), Failure::Unconfirmed(*status)].contains(failure)
        }
        Fault::Status(429, ..) => {
            matches!(failure, Failure::Throttled(pause) if pause.is_none_or(|pause| pause <= LONGEST_PAUSE))
        }
        Fault::Status(status, ..) => *failure == Failure::Unavailable(*status),
        Fault::Body(..) => matches!(failure, Failure::Malformed(_)),
        Fault::Scope(_) => *failure == Failure::Mismatch,
        Fault::Life(life) => life.is_some_and(|life| life <= 0.0) && matches!(failure, Failure::Malformed(_)),
        Fault::Delivery(Delivery::CutOff) => matches!(failure, Failure::Connect(_)),
        Fault::Delivery(_) => *failure == Failure::Timeout,
        Fault::Times(_) => matches!(failure, Failure::Malformed(_)),
        Fault::Skew(_) => false,
    }
}

/// Tells whether these faults explain a token that lives shorter than requested.
pub fn shortens(faults: &Faults) -> bool {
    matches!(faults.error_kind, Fault::Life(Some(life)) if life > 0.0 && life <= SHORT_LIFE.as_secs_f64())
}

//! Tests of admission as a whole, in virtual time.

mod limits;
mod openings;
mod shared;
mod turns;

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::breaker::{Change, ProbeScope, State};
use super::budget::Budget;
use super::queue::{Class, Place, Rank};
use super::{Admission, EndedCall, Event, Origin, Rejection, Response, WaitingCall};
use crate::clock::Moment;

const SECOND: Duration = Duration::from_secs(1);
const MAX_WAIT: Duration = Duration::from_secs(5);
const START: Moment = Moment::from_nanos(1 << 40);

/// A call by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Call {
    number: usize,
    is_cancelled: bool,
}

impl WaitingCall for Call {
    fn is_cancelled(&self) -> bool {
        self.is_cancelled
    }
}

/// A key of its own user, of a client.
fn origin(key: u64, client: u8) -> Origin {
    Origin { key, user: key, party: client.into(), is_known: false, is_probe: false, is_retry: false }
}

/// A driver that polls whenever admission asks for it.
struct Driver {
    admission: Admission<u8, Call>,
    budget: Budget,
    now: Moment,
    calls: usize,
    /// The calls that left, in order.
    left: Vec<Left>,
    refused: BTreeMap<usize, Rejection>,
    /// The queued calls, and whether they are cancelled.
    queued: BTreeMap<usize, bool>,
}

#[derive(Debug, PartialEq)]
struct Left {
    number: usize,
    class: Class,
    at: Moment,
    waited: Duration,
}

impl Driver {
    fn new(rate: f64, burst: u32) -> Self {
        let budget = Budget::new(rate, burst).expect("a budget");
        let admission = Admission::new(Some(budget), MAX_WAIT);
        let (left, refused, queued) = Default::default();
        Self { admission, budget, now: START, calls: 0, left, refused, queued }
    }

    /// A new call; `Some` is its place if it has to queue.
    fn arrive(&mut self, class: Class, client: u8, is_cancelled: bool) -> Option<Place> {
        let number = self.calls;
        self.calls += 1;
        let call = Call { number, is_cancelled };
        let rank = if class == Class::Renewal { Rank::Renewal(START) } else { Rank::IN_USE };
        let origin = &origin(number as u64, client);
        let outcome = match self.admission.admit_now(class, origin, self.now) {
            Ok(true) => {
                self.poll();
                self.left.push(Left { number, class, at: self.now, waited: Duration::ZERO });
                return None;
            }
            Ok(false) if class == Class::Waiting => {
                self.admission.queue_user(client, origin, call, Moment::NEVER, self.now)
            }
            Ok(false) => Ok(self.admission.queue_renewal(rank, origin, call, self.now)),
            Err(rejection) => Err(rejection),
        };
        match outcome {
            Ok(_) => drop(self.queued.insert(number, is_cancelled)),
            Err(rejection) => drop(self.refused.insert(number, rejection)),
        }
        self.poll();
        outcome.ok()
    }

    fn arrive_users(&mut self, count: usize) {
        for _ in 0..count {
            self.arrive(Class::Waiting, 0, false);
        }
    }

    fn respond(&mut self, response: Response, key: u64) -> Option<Change> {
        let (origin, now) = (origin(1 << 32 | key, 0), self.now);
        let change = self.admission.on_response(&EndedCall { response, origin, sent: now, now, draw: 0.0 });
        self.poll();
        change
    }

    /// Courier asks for a pause, also with a probe.
    fn pause_all(&mut self, pause: Duration) {
        self.respond(Response::Issued, 9);
        for key in 0..2 {
            self.respond(Response::Throttled(Some(pause)), key);
        }
        let (now, response) = (self.now, Response::Throttled(Some(pause)));
        for is_sent in [true, false] {
            self.admission.on_probe(ProbeScope::Workspace, is_sent, now);
        }
        let origin = Origin { is_probe: true, ..origin(1 << 32 | 9, 0) };
        self.admission.on_response(&EndedCall { response, origin, sent: now, now, draw: 0.0 });
        self.poll();
    }

    fn poll(&mut self) {
        while let Some(event) = self.admission.poll(self.now) {
            let number = match event {
                Event::Admitted { call: Call { number, is_cancelled }, class, waited, .. } => {
                    assert!(!is_cancelled);
                    self.left.push(Left { number, class, at: self.now, waited });
                    number
                }
                Event::Rejected { call, rejection } => {
                    self.refused.insert(call.number, rejection);
                    call.number
                }
            };
            assert!(self.queued.remove(&number).is_some(), "it ends once");
        }
        assert!(self.admission.next_wakeup() > self.now);
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.admission.next_wakeup() <= end {
            self.now = self.admission.next_wakeup();
            self.poll();
        }
        self.now = end;
    }

    /// The numbers of the calls that left, in order.
    fn order(&self) -> Vec<usize> {
        self.left.iter().map(|call| call.number).collect()
    }

    /// Polls until no call is queued.
    fn finish(&mut self) {
        while self.admission.next_wakeup() < Moment::NEVER {
            self.now = self.admission.next_wakeup();
            self.poll();
        }
    }
}

proptest! {
    #[test]
    fn no_more_calls_leave_than_the_budgets_permit_while_they_change(
        budgets in prop::collection::vec((1.0..200.0, 1u32..50, 1u64..3000), 2..6),
    ) {
        let mut driver = Driver::new(budgets[0].0, budgets[0].1);
        let (mut most, mut burst) = (0.0, 0);
        for (rate, size, millis) in budgets {
            let budget = Budget::new(rate, size).expect("a budget");
            driver.admission.set_limits(budget, MAX_WAIT, driver.now);
            driver.poll();
            burst = burst.max(size);
            for _ in 0..4 {
                driver.arrive_users(60);
                driver.pass(Duration::from_millis(millis) / 4);
            }
            most += rate * Duration::from_millis(millis).as_secs_f64();
            prop_assert!(driver.left.len() as f64 <= most + f64::from(burst) + 1.0, "{} of {most}", driver.left.len());
        }
    }
}

/// An event in a workspace's day.
#[derive(Clone, Debug)]
enum Step {
    Arrive(Class, u8, bool),
    Pass(u64),
    Respond(Response, u64),
}

fn arrival(clients: u8) -> impl Strategy<Value = Step> {
    let class = prop_oneof![Just(Class::Waiting), Just(Class::Renewal), Just(Class::Ahead)];
    (class, 0..clients, prop::bool::weighted(0.1)).prop_map(|(class, client, gone)| Step::Arrive(class, client, gone))
}

fn pass() -> impl Strategy<Value = Step> {
    prop_oneof![0u64..50, 0u64..3000].prop_map(Step::Pass)
}

fn response() -> impl Strategy<Value = Step> {
    let response = prop_oneof![
        4 => Just(Response::Issued),
        1 => prop::option::of(0u64..20).prop_map(|seconds| Response::Throttled(seconds.map(Duration::from_secs))),
        1 => Just(Response::KeyFailed),
        1 => Just(Response::Denied(403)),
        4 => Just(Response::Failed),
    ];
    (response, 0u64..9).prop_map(|(response, key)| Step::Respond(response, key))
}

fn run(driver: &mut Driver, steps: &[Step], mut pass: impl FnMut(&mut Driver, Duration)) {
    for step in steps {
        match *step {
            Step::Arrive(class, client, is_cancelled) => drop(driver.arrive(class, client, is_cancelled)),
            Step::Pass(millis) => pass(driver, Duration::from_millis(millis)),
            Step::Respond(response, key) => drop(driver.respond(response, key)),
        }
    }
}

proptest! {
    #[test]
    fn calls_keep_to_the_budget_and_each_queued_call_ends(
        rate in 0.1..100.0,
        burst in 1u32..20,
        steps in prop::collection::vec(prop_oneof![3 => arrival(4), 2 => pass(), 1 => response()], 1..150),
    ) {
        let mut driver = Driver::new(rate, burst);
        run(&mut driver, &steps, Driver::pass);
        driver.finish();
        for (first, from) in driver.left.iter().enumerate() {
            for (to, made) in driver.left[first..].iter().zip(1..) {
                let permitted = rate * to.at.since(from.at).as_secs_f64() + f64::from(driver.budget.departing_burst());
                prop_assert!(f64::from(made) <= permitted + 1e-6, "{} calls, {} permitted", made, permitted);
            }
        }
        prop_assert_eq!(driver.left.len() + driver.refused.len() + driver.queued.len(), driver.calls);
        prop_assert!(driver.queued.values().all(|is_cancelled| *is_cancelled));
        prop_assert!(Class::ALL.iter().all(|class| driver.admission.depth(*class) == 0));
    }

    #[test]
    fn early_polls_change_nothing(
        rate in 0.1..100.0,
        steps in prop::collection::vec(prop_oneof![3 => arrival(4), 2 => pass(), 1 => response()], 1..100),
        parts in 2u32..9,
    ) {
        let [mut plain, mut eager] = [(); 2].map(|()| Driver::new(rate, 10));
        run(&mut plain, &steps, Driver::pass);
        run(&mut eager, &steps, |driver, time| {
            let end = driver.now + time;
            (0..parts).for_each(|_| {
                driver.pass(time / parts);
                driver.poll();
            });
            driver.pass(end.since(driver.now));
        });
        prop_assert_eq!(plain.left, eager.left);
        prop_assert_eq!(plain.refused, eager.refused);
    }

    /// Beyond nine users in a row, a renewal takes its turn.
    #[test]
    fn renewals_leave_the_reserve_to_users(
        rate in 0.05..5.0,
        burst in 1u32..60,
        gaps in prop::collection::vec(0u64..1000, 1..100),
    ) {
        let mut driver = Driver::new(rate, burst);
        for gap in gaps {
            driver.arrive(Class::Renewal, 0, false);
            driver.pass(Duration::from_millis(gap));
        }
        let users = driver.budget.reserve().min(9);
        let (now, user) = (driver.now, origin(1 << 33, 0));
        prop_assert!((0..users).all(|_| driver.admission.admit_now(Class::Waiting, &user, now) == Ok(true)));
    }
}

/// All calls of one moment; a request that would wait too long is refused on arrival.
#[test]
fn queued_call_is_not_displaced_by_later_clients() {
    let mut driver = Driver::new(20.0, 1);
    for client in 0..8 {
        for _ in 0..150 {
            driver.arrive(Class::Waiting, client, false);
        }
    }
    let refused = driver.refused.len();
    driver.finish();
    assert_eq!((driver.left.len(), driver.refused.len()), (101, refused));
    assert!(driver.left.iter().all(|call| call.waited <= MAX_WAIT));
}

/// Users use up what the reserve leaves; every tenth permit is the renewal's.
#[test]
fn renewal_that_waits_for_the_reserve_leaves_as_one_of_ten_calls() {
    let mut driver = Driver::new(0.1, 40);
    driver.arrive_users(35);
    assert!(driver.arrive(Class::Renewal, 0, false).is_some());
    driver.arrive_users(10);
    // The renewal arrived as number 35.
    assert_eq!(driver.order()[35..], [36, 37, 38, 39, 40]);
    driver.pass(SECOND * 50);
    for _ in 0..10 {
        driver.arrive(Class::Waiting, 0, false);
        driver.pass(SECOND * 10);
    }
    assert_eq!(driver.order().iter().position(|number| *number == 35), Some(44));
}

#[test]
fn long_pause_refuses_waiting_users_and_keeps_renewals() {
    let mut driver = Driver::new(1.0, 1);
    driver.arrive_users(2);
    driver.arrive(Class::Renewal, 0, false);
    driver.pause_all(SECOND * 30);
    assert_eq!(driver.refused, BTreeMap::from([(1, Rejection::Throttled(SECOND * 30))]));
    assert_eq!(driver.queued.len(), 1);
    driver.arrive(Class::Waiting, 0, false);
    assert_eq!(driver.refused[&3], Rejection::Throttled(SECOND * 30));
    driver.finish();
    assert_eq!(driver.left.last().map(|call| (call.at.since(START), call.number)), Some((SECOND * 30, 2)));
}

/// The pause may be the others' alone. A success that was sent in it ends it.
#[test]
fn party_that_does_not_fail_is_served_in_a_pause_and_ends_it() {
    let mut driver = Driver::new(1.0, 2);
    driver.pause_all(SECOND * 30);
    driver.now = driver.now + SECOND;
    driver.arrive(Class::Waiting, 0, false);
    driver.arrive(Class::Waiting, 1, false);
    assert_eq!((driver.order(), driver.refused.len()), (vec![1], 1));
    let (response, origin, now) = (Response::Issued, origin(1, 1), driver.now);
    driver.admission.on_response(&EndedCall { response, origin, sent: now, now, draw: 0.0 });
    driver.pass(SECOND * 4);
    driver.arrive(Class::Waiting, 0, false);
    driver.finish();
    assert_eq!(driver.order(), [1, 2]);
}

#[test]
fn retry_needs_time_for_a_call_a_closed_breaker_and_the_end_of_the_keys_pause() {
    let mut driver = Driver::new(1.0, 1);
    let (now, back_off, mine) = (driver.now, SECOND / 10, origin(1 << 32, 0));
    let retry = |driver: &mut Driver, wait| driver.admission.retry_at(&mine, 1, now + wait, now, 1.0);
    driver.respond(Response::Failed, 0);
    assert_eq!(retry(&mut driver, SECOND + back_off), Some(now + back_off));
    assert_eq!(retry(&mut driver, SECOND), None);
    driver.respond(Response::Throttled(Some(SECOND * 3)), 0);
    assert_eq!((retry(&mut driver, SECOND * 3), retry(&mut driver, SECOND * 4)), (None, Some(now + SECOND * 3)));
    driver.admission.reset_for_new_key(now);
    for _ in 0..2 {
        driver.respond(Response::Denied(401), 0);
    }
    assert_eq!(retry(&mut driver, SECOND * 2), None);
    driver.admission.reset_for_new_key(now);
    driver.respond(Response::Failed, 0);
    assert_eq!(retry(&mut driver, SECOND * 2), Some(now + back_off));
}

/// Each party has a budget of its own.
#[test]
fn retries_of_one_party_leave_the_others_theirs() {
    let mut driver = Driver::new(1.0, 1);
    let retry = |driver: &mut Driver, client| driver.admission.withdraw_retry(&origin(1, client));
    for client in 0..2 {
        let (response, origin, now) = (Response::Failed, origin(1, client), driver.now);
        driver.admission.on_response(&EndedCall { response, origin, sent: now, now, draw: 0.0 });
    }
    while retry(&mut driver, 0) {}
    assert!((0..20).all(|_| retry(&mut driver, 1)));
}

#[test]
fn calls_without_a_budget_never_queue() {
    let mut admission = Admission::<(), Call>::new(None, MAX_WAIT);
    let mut admits = |class| admission.admit_now(class, &origin(0, 0), START) == Ok(true);
    assert!((0..10_000).all(|_| admits(Class::Ahead) && admits(Class::Waiting)));
    assert_eq!(admission.room_at(START), None);
}

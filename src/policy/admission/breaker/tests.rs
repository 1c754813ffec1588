//! Tests of the circuit breaker.

mod pauses;

use super::*;
use Class::{Renewal, Waiting};
use Response::{Denied, Failed, Issued, Throttled};
use proptest::prelude::*;

use crate::policy::admission::response::{EndedCall, Response};

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);
const START: Moment = Moment::from_nanos(1 << 40);

fn breaker() -> Breaker {
    Breaker::new(SECOND / 20)
}

/// A key that never had a token, of its own user.
fn new(party: u64, key: u64) -> Origin {
    Origin { key, user: key, party, is_known: false, is_probe: false, is_retry: false }
}

fn probe(party: u64, key: u64) -> Origin {
    Origin { is_known: true, is_probe: true, ..new(party, key) }
}

fn end(breaker: &mut Breaker, response: Response, origin: Origin, now: Moment) -> Effect {
    breaker.record(&EndedCall { response, origin, sent: now, now, draw: 0.0 })
}

/// Records failures of so many users of a party, one each quarter of a second; returns the last moment.
fn fail(breaker: &mut Breaker, party: u64, users: u64, from: Moment) -> Moment {
    let mut now = from;
    for user in 0..users {
        now = from + MS * 250 * u32::try_from(user).expect("few");
        end(breaker, Failed, new(party, 1000 * party + user), now);
    }
    now
}

/// A breaker that a party without any success has opened, and when.
fn open() -> (Breaker, Moment) {
    let mut breaker = breaker();
    let now = fail(&mut breaker, 1, 5, START);
    assert_ne!(breaker.state(now), State::Closed);
    (breaker, now)
}

fn leaves(breaker: &mut Breaker, origin: Origin, now: Moment) -> bool {
    let leaves = breaker.hold(Waiting, &origin, now).is_none();
    if leaves {
        breaker.on_admit(Waiting, &origin, now);
    }
    leaves
}

#[test]
fn failures_of_few_users_or_of_one_moment_leave_it_closed() {
    let mut breaker = breaker();
    for second in 0..30 {
        for user in 0..4 {
            end(&mut breaker, Failed, new(1, user), START + SECOND * second);
        }
    }
    assert_eq!(breaker.state(START + SECOND * 30), State::Closed);
    let mut breaker = self::breaker();
    for user in 0..20 {
        end(&mut breaker, Failed, new(1, user), START);
    }
    assert!(!matches!(breaker.state(START), State::Open | State::HalfOpen));
}

#[test]
fn lifetimes_of_one_user_count_once() {
    let mut breaker = breaker();
    for key in 0..40 {
        let origin = Origin { user: 7, ..new(1, key) };
        assert_eq!(
            end(&mut breaker, Failed, origin, START + MS * 100 * key as u32).change,
            (key == 7).then_some(Change::Shed)
        );
    }
}

#[test]
fn open_circuit_lets_few_calls_a_second_leave() {
    let (mut breaker, mut now) = open();
    let (mut left, end_of_test) = (0, now + SECOND * 60);
    let mut key = 100;
    while now < end_of_test {
        key += 1;
        if leaves(&mut breaker, new(1, key), now) {
            left += 1;
            end(&mut breaker, Failed, new(1, key), now);
        }
        now = now + MS * 10;
    }
    assert!((25..=35).contains(&left), "{left} in a minute");
}

#[test]
fn first_success_closes_it_and_restarts_the_rate_after_an_outage() {
    for (length, rate) in [(SECOND, None), (SECOND * 6, Some(RateChange::Restart))] {
        let (mut breaker, opened) = open();
        let now = opened + length;
        assert!(leaves(&mut breaker, new(1, 50), now));
        assert_eq!(end(&mut breaker, Issued, new(1, 1000), now), Effect { change: Some(Change::Closed), rate });
        assert_eq!(breaker.state(now), State::Closed);
    }
}

#[test]
fn success_sent_before_the_opening_does_not_close_it() {
    let (mut breaker, now) = open();
    let call = EndedCall { response: Issued, origin: new(1, 50), sent: now - SECOND * 2, now, draw: 0.0 };
    assert_eq!(breaker.record(&call), Effect::default());
    assert_ne!(breaker.state(now), State::Closed);
}

#[test]
fn party_that_does_not_fail_is_not_held_back_and_closes_it_without_a_restart() {
    let (mut breaker, opened) = open();
    let now = opened + SECOND * 10;
    while leaves(&mut breaker, new(1, 60), now) {}
    for key in 70..80 {
        assert!(leaves(&mut breaker, new(2, key), now), "{key}");
    }
    assert_eq!(end(&mut breaker, Issued, new(2, 70), now), Effect { change: Some(Change::Dismissed), rate: None });
    assert_eq!(breaker.state(now), State::Closed);
}

/// A user with a session.
fn session(user: u64) -> Origin {
    new(user, user)
}

#[test]
fn session_users_and_unknown_clients_have_a_pace_each_and_clients_who_do_not_fail_have_none() {
    let (mut breaker, opened) = open();
    let call = EndedCall { response: Issued, origin: new(2, 1), sent: START, now: opened, draw: 0.0 };
    breaker.record(&call);
    assert_ne!(breaker.state(opened), State::Closed);
    let (mut users, mut clients, seconds) = (0, 0, 10);
    for tick in 0..seconds * 20 {
        let (now, number) = (opened + MS * 50 * tick, u64::from(tick));
        users += u32::from(leaves(&mut breaker, session(10_000 + number), now));
        // More clients than are remembered, each with its first call.
        clients += u32::from(leaves(&mut breaker, new(1000 + number, number * 10), now));
        for key in 0..2 {
            assert!(leaves(&mut breaker, new(2, number * 10 + key), now), "tick {tick}");
        }
    }
    for left in [users, clients] {
        assert!((seconds * 4..=seconds * 6 + 13).contains(&left), "{users} and {clients} in {seconds} s");
    }
}

#[test]
fn session_users_who_do_not_fail_have_no_pace_before_any_success() {
    let (mut breaker, mut now) = open();
    for number in 0..200 {
        now = now + MS * 50;
        let [failing, good] = [10_000, 20_000].map(|first| session(first + number));
        assert!(leaves(&mut breaker, failing, now) && leaves(&mut breaker, good, now), "{number}");
        end(&mut breaker, Failed, failing, now);
        assert!(!breaker.may_pass(&failing, now), "{number}");
    }
    assert_eq!(end(&mut breaker, Issued, session(20_000), now).change, Some(Change::Dismissed));
}

#[test]
fn failures_of_one_party_do_not_open_it_where_there_are_several() {
    let mut breaker = breaker();
    end(&mut breaker, Issued, new(2, 1), START);
    let now = fail(&mut breaker, 1, 50, START);
    assert_eq!(breaker.state(now), State::Closed);
    assert!(leaves(&mut breaker, new(2, 2), now) && leaves(&mut breaker, new(3, 3), now));
    // The party itself is held back.
    while leaves(&mut breaker, new(1, 60), now) {}
    assert!(matches!(breaker.hold(Waiting, &new(1, 61), now), Some(Hold::Open(_))));
    assert!(matches!(breaker.hold(Renewal, &new(1, 61), now), Some(Hold::Open(_))));
}

/// A breaker where a key has succeeded and the calls of two parties fail, and when.
fn suspicious() -> (Breaker, Moment) {
    let mut breaker = breaker();
    for key in 1..3 {
        end(&mut breaker, Issued, new(3, key), START - SECOND);
    }
    fail(&mut breaker, 1, 5, START);
    let now = fail(&mut breaker, 2, 1, START + SECOND);
    assert_eq!((breaker.state(now), breaker.wanted_probe(now)), (State::Closed, Some(ProbeScope::Workspace)));
    (breaker, now)
}

#[test]
fn suspicion_is_dismissed_by_the_success_of_a_probe() {
    let (mut breaker, now) = suspicious();
    assert!(breaker.is_candidate(ProbeScope::Workspace, &probe(3, 1), true, now));
    assert!(!breaker.is_candidate(ProbeScope::Workspace, &probe(1, 99), true, now));
    assert!(breaker.is_candidate(ProbeScope::Workspace, &probe(1, 99), false, now));
    breaker.on_probe(ProbeScope::Workspace, true, now);
    end(&mut breaker, Issued, probe(3, 1), now + MS);
    let now = fail(&mut breaker, 1, 4, now + MS * 2);
    assert_eq!(breaker.state(now), State::Closed);
}

#[test]
fn suspicion_opens_it_when_its_probes_fail_or_after_four_seconds_without_success() {
    let (mut breaker, now) = suspicious();
    for key in 1..3 {
        assert_eq!(breaker.wanted_probe(now), Some(ProbeScope::Workspace));
        breaker.on_probe(ProbeScope::Workspace, true, now);
        end(&mut breaker, Failed, probe(3, key), now);
    }
    assert_eq!(breaker.state(now), State::HalfOpen);
    let (mut breaker, now) = suspicious();
    end(&mut breaker, Failed, new(1, 99), now + SECOND * 3);
    assert_eq!(breaker.state(now + SECOND * 3), State::Closed);
    assert_eq!(end(&mut breaker, Failed, new(1, 98), now + SECOND * 4).change, Some(Change::Opened));
}

#[test]
fn keys_that_failed_probe_while_it_is_open_but_do_not_test_a_suspicion() {
    let (mut breaker, now) = suspicious();
    let failed = probe(1, 1000);
    assert!(!breaker.is_candidate(ProbeScope::Workspace, &failed, false, now));
    let now = now + SECOND * 4;
    assert_eq!(end(&mut breaker, Failed, new(1, 98), now).change, Some(Change::Opened));
    assert!(!breaker.is_candidate(ProbeScope::Workspace, &failed, true, now));
    assert!(breaker.is_candidate(ProbeScope::Workspace, &failed, false, now));
}

#[test]
fn denial_counts_for_all_only_when_probes_are_denied() {
    for (denied, is_told) in [(true, true), (false, false)] {
        let mut breaker = breaker();
        end(&mut breaker, Issued, new(1, 1), START);
        end(&mut breaker, Denied(403), new(1, 2), START + SECOND);
        let now = START + SECOND;
        assert!(!breaker.is_denied(&new(1, 2)));
        for key in [1, 3] {
            assert_eq!(breaker.wanted_probe(now), Some(ProbeScope::Workspace));
            breaker.on_probe(ProbeScope::Workspace, true, now);
            end(&mut breaker, if denied { Denied(403) } else { Issued }, probe(1, key), now);
            if !denied {
                break;
            }
        }
        assert_eq!((breaker.is_denied(&new(1, 2)), breaker.is_denied(&new(2, 9))), (is_told, is_told));
        assert_eq!(breaker.state(now) == State::Closed, !denied);
    }
}

#[test]
fn second_denial_is_told_to_its_user_while_nothing_has_succeeded() {
    let mut breaker = breaker();
    assert_eq!(end(&mut breaker, Denied(401), new(1, 1), START).change, None);
    assert_eq!(end(&mut breaker, Denied(401), new(1, 1), START + MS).change, Some(Change::Opened));
    assert_eq!((breaker.is_denied(&new(1, 1)), breaker.is_denied(&new(1, 2))), (true, false));
    for user in 2..4 {
        end(&mut breaker, Denied(401), new(1, user), START + SECOND);
    }
    assert!(breaker.is_denied(&new(1, 9)) && breaker.is_denied(&new(2, 9)));
}

#[test]
fn renewals_are_shed_but_for_one_a_second_and_for_parties_that_are_served() {
    let mut breaker = breaker();
    for key in 0..32 {
        end(&mut breaker, if key < 8 { Issued } else { Failed }, new(1, key), START);
    }
    assert_eq!(breaker.state(START), State::Shedding);
    assert_eq!(breaker.hold(Renewal, &new(1, 1), START), None);
    breaker.on_admit(Renewal, &new(1, 1), START);
    assert_eq!(breaker.hold(Renewal, &new(1, 1), START), Some(Hold::Open(SECOND)));
    assert_eq!(breaker.hold(Waiting, &new(1, 1), START), None);
    assert_eq!(breaker.hold(Renewal, &new(1, 1), START + SECOND), None);
    for key in 0..2 {
        end(&mut breaker, Issued, new(2, 100 + key), START);
    }
    assert_eq!(breaker.state(START), State::Closed);
}

#[test]
fn responses_to_calls_with_the_old_api_key_do_not_count() {
    let (mut breaker, now) = open();
    breaker.reset(now);
    assert_eq!(breaker.state(now), State::Closed);
    for user in 0..20 {
        let sent = now - MS * (20 - user);
        let origin = new(1, user.into());
        breaker.record(&EndedCall { response: Denied(401), origin, sent, now, draw: 0.0 });
    }
    assert_eq!(breaker.state(now), State::Closed);
}

fn response() -> impl Strategy<Value = Response> {
    prop_oneof![
        3 => Just(Failed),
        2 => prop_oneof![Just(401), Just(402), Just(403)].prop_map(Denied),
        2 => prop::option::of(0u64..4000).prop_map(|seconds| Throttled(seconds.map(Duration::from_secs))),
        1 => Just(Response::KeyFailed),
        1 => Just(Issued),
    ]
}

proptest! {
    /// Two clients' calls get any responses; a third client's succeed. It asks for one new user at a time.
    #[test]
    fn no_responses_of_others_hold_back_a_party_whose_calls_succeed(
        steps in prop::collection::vec((0u64..3, response(), 0u64..12, 0u64..800, any::<bool>()), 1..300),
    ) {
        let (mut breaker, mut now, mut users) = (breaker(), START, 1000);
        for (party, response, key, pause, is_known) in steps {
            now = now + Duration::from_millis(pause);
            if party < 2 {
                let origin = Origin { is_known, ..new(party, key) };
                if breaker.hold(Waiting, &origin, now).is_none() {
                    breaker.on_admit(Waiting, &origin, now);
                    end(&mut breaker, response, origin, now);
                }
                continue;
            }
            users += 1;
            prop_assert_eq!(breaker.hold(Waiting, &new(2, users), now), None);
            breaker.on_admit(Waiting, &new(2, users), now);
            end(&mut breaker, Issued, new(2, users), now);
        }
    }

    /// However long an outage was, and whatever its responses, a call may leave soon.
    #[test]
    fn call_may_leave_within_five_seconds_of_any_failures(
        responses in prop::collection::vec((prop_oneof![Just(Failed), Just(Denied(401)), Just(Throttled(None))], 0u64..3000), 1..200),
    ) {
        let (mut breaker, mut now) = (breaker(), START);
        for (key, (response, pause)) in responses.into_iter().enumerate() {
            now = now + Duration::from_millis(pause);
            let origin = new(1, key as u64);
            if leaves(&mut breaker, origin, now) {
                end(&mut breaker, response, origin, now);
            }
        }
        prop_assert_eq!(breaker.hold(Waiting, &new(1, 5000), now + SECOND * 3), None);
    }
}

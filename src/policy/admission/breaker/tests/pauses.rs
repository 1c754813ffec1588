//! Tests of 429s: pauses, and the rate.

use super::*;

#[test]
fn pause_is_kept_for_its_key_for_a_minute_at_most() {
    let mut breaker = breaker();
    end(&mut breaker, Issued, new(1, 1), START);
    assert_eq!(end(&mut breaker, Throttled(Some(SECOND * 3600)), new(1, 2), START), Effect::default());
    assert_eq!(breaker.hold(Waiting, &new(1, 2), START), Some(Hold::Paused(SECOND * 60)));
    assert_eq!(breaker.hold(Waiting, &new(1, 3), START), None);
    // Many other keys do not displace it.
    for key in 10..200 {
        end(&mut breaker, Issued, new(1, key), START + SECOND);
    }
    assert_eq!(breaker.hold(Waiting, &new(1, 2), START + SECOND * 59), Some(Hold::Paused(SECOND)));
    assert_eq!(breaker.hold(Waiting, &new(1, 2), START + SECOND * 60), None);
}

#[test]
fn pause_of_a_fifth_user_opens_it_and_keeps_the_rate_while_nothing_has_succeeded() {
    let mut breaker = breaker();
    let pause = Throttled(Some(SECOND * 20));
    for user in 1..5 {
        assert_eq!(end(&mut breaker, pause, new(1, user), START), Effect::default());
    }
    let opened = Effect { change: Some(Change::Opened), rate: None };
    assert_eq!(end(&mut breaker, pause, new(1, 5), START), opened);
    assert_eq!(breaker.hold(Waiting, &new(1, 6), START), Some(Hold::Paused(SECOND * 20)));
    assert_eq!(breaker.hold(Waiting, &new(2, 1), START), None);
    end(&mut breaker, Issued, new(2, 1), START + MS);
    assert_eq!(breaker.hold(Waiting, &new(1, 6), START + MS), None);
}

#[test]
fn rate_falls_when_users_get_both_tokens_and_429s() {
    let mut breaker = breaker();
    end(&mut breaker, Issued, new(1, 1), START);
    for second in 0..20 {
        // A user with a limit of its own gets 429s alone.
        assert_eq!(end(&mut breaker, Throttled(None), new(1, 7), START + SECOND * second).rate, None);
        end(&mut breaker, Issued, new(1, 100 + u64::from(second)), START + SECOND * second);
    }
    let now = START + SECOND * 20;
    for user in 1..3 {
        end(&mut breaker, Throttled(None), new(1, user), now);
        end(&mut breaker, Issued, new(1, user), now);
    }
    assert_eq!(end(&mut breaker, Throttled(None), new(1, 3), now).rate, Some(RateChange::Lower));
}

#[test]
fn rate_does_not_fall_while_another_party_gets_tokens_alone() {
    for (calls_a_second, falls) in [(2, false), (0, true)] {
        let mut breaker = breaker();
        let mut lowered = false;
        for tick in 0..20 {
            let now = START + SECOND * tick;
            for user in 0..calls_a_second {
                end(&mut breaker, Issued, new(1, 100 + u64::from(tick) * 2 + user), now);
            }
            for party in 2..4 {
                end(&mut breaker, Issued, new(party, u64::from(tick)), now);
                lowered |=
                    tick >= 5 && end(&mut breaker, Throttled(None), new(party, u64::from(tick)), now).rate.is_some();
            }
        }
        assert_eq!(lowered, falls, "{calls_a_second} calls a second");
    }
}

#[test]
fn pause_of_all_is_that_of_the_probes() {
    let mut breaker = breaker();
    let attacker = Throttled(Some(SECOND * 60));
    for (response, key) in [(Issued, 10), (attacker, 20)] {
        for party in 1..3 {
            end(&mut breaker, response, new(party, key + party), START);
        }
    }
    breaker.on_probe(ProbeScope::Workspace, true, START);
    assert_eq!(end(&mut breaker, Throttled(Some(SECOND * 3)), probe(1, 11), START).rate, None);
    // There is no other key to probe with, so the next response decides.
    breaker.on_probe(ProbeScope::Workspace, false, START);
    assert_eq!(end(&mut breaker, attacker, new(1, 30), START).rate, Some(RateChange::Pause(SECOND * 3)));
}

#[test]
fn longer_pause_than_a_minute_is_probed_each_four_seconds() {
    let mut breaker = breaker();
    let pause = Throttled(Some(SECOND * 3600));
    for user in 1..6 {
        assert_eq!(end(&mut breaker, pause, new(1, user), START).rate, None);
    }
    assert_ne!(breaker.state(START), State::Closed);
    let (mut now, mut calls) = (START, 0);
    for key in 10..610 {
        now = START + MS * 100 * (key - 10);
        if leaves(&mut breaker, new(1, key.into()), now) {
            calls += 1;
            end(&mut breaker, pause, new(1, key.into()), now);
        }
    }
    assert!((13..16).contains(&calls), "{calls} calls in a minute");
    let later = now + SECOND * 4;
    assert!(leaves(&mut breaker, new(1, 5000), later));
    end(&mut breaker, Issued, new(1, 5000), later);
    assert_eq!(breaker.state(later), State::Closed);
    assert_eq!(breaker.hold(Waiting, &new(1, 1), later), None, "the outage is over for its users too");
}

#[test]
fn rate_stays_while_there_is_no_key_to_test_429s_with() {
    let mut breaker = breaker();
    end(&mut breaker, Issued, new(1, 1), START);
    for party in 2..5 {
        assert_eq!(end(&mut breaker, Throttled(None), new(party, 10 + party), START + SECOND).rate, None);
        breaker.on_probe(ProbeScope::Workspace, false, START + SECOND);
    }
    assert_ne!(breaker.state(START + SECOND), State::Closed);
    end(&mut breaker, Issued, new(1, 2), START + SECOND * 2);
    assert_eq!(breaker.state(START + SECOND * 2), State::Closed);
}

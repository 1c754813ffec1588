//! Isolation: however the calls of one client or user fail, Courier's other callers are served.

mod attack;
mod denials;
mod joined;
mod pauses;
mod recovery;

use courier_token_broker::upstream::{Cause, Failure};

use crate::support::test_broker::{MS, SECOND, TestSetup};
use attack::{Attack, Keys, Served, failure};

/// Each way in which Courier fails a key, with every answer that Courier may give from 400 on.
fn failures() -> Vec<Failure> {
    let statuses = [400, 401, 402, 403, 404, 405, 408, 409, 410, 418, 422, 425, 429, 431, 451, 499];
    let server = [500, 501, 502, 503, 504, 507, 508, 511, 520, 599];
    let throttled = [(429, "0"), (429, "1"), (429, "20"), (429, "3600"), (503, "1"), (503, "3600")];
    let dated = [(429, "Fri, 31 Dec 2100 23:59:59 GMT")];
    let others = [
        Failure::Timeout,
        Failure::Connect(Cause::Closed.into()),
        Failure::Connect(Cause::Tls.into()),
        Failure::Malformed("it is empty"),
        Failure::Page(403),
        Failure::Mismatch,
    ];
    let plain = statuses.into_iter().chain(server).map(|status| failure(status, None));
    let paused = throttled.into_iter().chain(dated).map(|(status, pause)| failure(status, Some(pause)));
    plain.chain(paused).chain(others).collect()
}

async fn no_attack_hurts(attacks: impl Fn(Failure) -> Attack) {
    let mut hurt = Vec::new();
    for failure in failures() {
        let attack = attacks(failure.clone());
        let served = attack.run().await;
        if !served.is_well() {
            hurt.push(format!("{failure:?}: {served:?}"));
        }
    }
    assert!(hurt.is_empty(), "{} attacks hurt:\n{}", hurt.len(), hurt.join("\n"));
}

fn by(clients: &'static [&'static str], keys: Keys, pause: std::time::Duration) -> impl Fn(Failure) -> Attack {
    move |failure| Attack { clients, keys, pause, failures: vec![failure], ..Attack::default() }
}

#[tokio::test(start_paused = true)]
async fn client_whose_key_fails_twice_a_second_hurts_no_other() {
    no_attack_hurts(by(&["storm"], Keys::Few(1), SECOND / 2)).await;
}

#[tokio::test(start_paused = true)]
async fn client_whose_keys_fail_in_turn_hurts_no_other() {
    no_attack_hurts(by(&["storm"], Keys::Few(12), SECOND / 4)).await;
}

#[tokio::test(start_paused = true)]
async fn client_with_a_failing_new_user_each_second_hurts_no_other() {
    no_attack_hurts(by(&["storm"], Keys::New, SECOND)).await;
}

#[tokio::test(start_paused = true)]
async fn client_with_a_failing_new_user_every_five_seconds_hurts_no_other() {
    no_attack_hurts(by(&["storm"], Keys::New, SECOND * 5)).await;
}

#[tokio::test(start_paused = true)]
async fn flood_of_failing_new_users_hurts_no_other_client() {
    no_attack_hurts(by(&["storm"], Keys::New, 40 * MS)).await;
}

#[tokio::test(start_paused = true)]
async fn two_clients_whose_keys_fail_hurt_no_third() {
    no_attack_hurts(by(&["storm", "squall"], Keys::New, SECOND / 4)).await;
}

#[tokio::test(start_paused = true)]
async fn clients_whose_keys_fail_hurt_no_client_that_seldom_calls() {
    for failure in failures() {
        let (clients, keys, failures) = (&["storm", "squall"][..], Keys::New, vec![failure.clone()]);
        let attack =
            Attack { clients, keys, pause: SECOND / 4, failures, every: SECOND * 20, length: 20, ..Attack::default() };
        let served = attack.run().await;
        assert!(served.is_well(), "{failure:?}: {served:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn attack_that_begins_before_any_success_hurts_no_other_client() {
    no_attack_hurts(|failure| Attack { is_cold: true, ..by(&["storm", "squall"], Keys::New, SECOND / 4)(failure) })
        .await;
}

/// They are there first, and each is a party of its own that has not failed.
#[tokio::test(start_paused = true)]
async fn new_session_users_whose_calls_fail_before_any_success_hurt_no_client() {
    no_attack_hurts(|failure| Attack {
        is_cold: true,
        sessions: &["storm"],
        head: SECOND * 3,
        every: SECOND / 5,
        ..by(&["storm"], Keys::New, SECOND / 16)(failure)
    })
    .await;
}

/// The failing users alone use the whole budget. The others all come in one second.
#[tokio::test(start_paused = true)]
async fn new_session_users_whose_calls_fail_before_any_success_hurt_no_other_session() {
    no_attack_hurts(|failure| Attack {
        is_cold: true,
        sessions: &["storm", "calm"],
        head: SECOND * 3,
        every: SECOND / 20,
        length: 20,
        ..by(&["storm"], Keys::New, SECOND / 20)(failure)
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn mix_of_failures_hurts_no_other_client() {
    for clients in [&["storm"][..], &["storm", "squall"]] {
        for keys in [Keys::Few(6), Keys::New] {
            for pause in [40 * MS, SECOND / 2, SECOND * 3] {
                let attack = Attack { clients, keys, pause, failures: failures(), ..Attack::default() };
                let served = attack.run().await;
                assert!(served.is_well(), "{clients:?} {keys:?} {pause:?}: {served:?}");
            }
        }
    }
}

/// The keys had tokens before; now their renewals fail in the background, too.
#[tokio::test(start_paused = true)]
async fn renewals_that_fail_hurt_no_other_client() {
    no_attack_hurts(|failure| Attack { had_tokens: true, ..by(&["storm"], Keys::Few(30), SECOND / 4)(failure) }).await;
}

/// The users of one client: whom Courier fails, and whom it serves.
#[tokio::test(start_paused = true)]
async fn users_whose_calls_fail_hurt_no_other_user_of_their_client() {
    for (keys, pause) in [(Keys::Few(1), SECOND / 2), (Keys::Few(3), SECOND / 4), (Keys::New, SECOND)] {
        no_attack_hurts(by(&["calm"], keys, pause)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn sessions_whose_calls_fail_hurt_no_other_session() {
    for (keys, pause) in [(Keys::Few(1), SECOND / 2), (Keys::Lifetimes, SECOND / 4), (Keys::Few(3), SECOND / 4)] {
        no_attack_hurts(|failure| Attack { sessions: &["storm", "calm"], ..by(&["storm"], keys, pause)(failure) })
            .await;
    }
}

/// Retries of a client whose calls fail leave the others theirs.
#[tokio::test(start_paused = true)]
async fn client_whose_calls_fail_uses_up_no_retries_of_another() {
    let attack = Attack {
        failures: vec![failure(500, None)],
        keys: Keys::New,
        pause: SECOND / 10,
        setup: TestSetup { rate: 200.0, burst: 200, ..Attack::default().setup },
        hiccups: true,
        ..Attack::default()
    };
    let served: Served = attack.run().await;
    assert!(served.is_well(), "{served:?}");
}

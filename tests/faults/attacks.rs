//! A well-behaved client beside callers whose own calls fail, in each way and at each pace.

use std::time::Duration;

use courier_token_broker::audit::Actor;
use courier_token_broker::broker::TokenRequest;
use courier_token_broker::upstream::{Cause, Failure};

use crate::support::test_broker::{MS, SECOND, TestBroker, TestSetup, ask, join_all};

/// The failures of the attackers' calls, at Courier or at a firewall before it.
fn failures() -> Vec<Failure> {
    let statuses = [404, 409, 418, 500, 502, 503].map(Failure::Unavailable);
    let denials = [401, 402, 403].map(Failure::Credentials);
    let pauses = [None, Some(SECOND), Some(20 * SECOND), Some(3600 * SECOND)].map(Failure::Throttled);
    let others = [
        Failure::Timeout,
        Failure::Connect(Cause::Closed.into()),
        Failure::Malformed("it is empty"),
        Failure::Page(403),
        Failure::Mismatch,
        Failure::Refused("no".to_owned()),
    ];
    statuses.into_iter().chain(denials).chain(pauses).chain(others).collect()
}

/// The requests of the attackers.
#[derive(Clone, Copy, Debug)]
struct Attack {
    /// The names of the clients; they take turns.
    clients: &'static [&'static str],
    /// The time between two requests.
    pause: Duration,
    /// The number of users that are asked for again and again; `None` is a new one each time.
    users: Option<u32>,
}

const ATTACKS: [Attack; 8] = [
    Attack { clients: &["evil"], pause: Duration::from_millis(100), users: Some(1) },
    Attack { clients: &["evil"], pause: Duration::from_millis(100), users: Some(3) },
    Attack { clients: &["evil"], pause: Duration::from_secs(5), users: None },
    Attack { clients: &["evil"], pause: Duration::from_secs(1), users: None },
    Attack { clients: &["evil"], pause: Duration::from_millis(50), users: None },
    Attack { clients: &["evil", "twin"], pause: Duration::from_millis(500), users: None },
    // Unlucky users of the same client.
    Attack { clients: &["calm"], pause: Duration::from_millis(300), users: Some(3) },
    Attack { clients: &["calm"], pause: Duration::from_secs(1), users: None },
];

fn request(client: &'static str, user: &str) -> TokenRequest<'static> {
    TokenRequest { actor: Actor::Client(client.into()), ..ask(user, "1h") }
}

/// The shares of the calm client's hits and of its new users that are served during a minute of an attack.
async fn served(failure: Failure, attack: Attack) -> (f64, f64) {
    let test = TestBroker::new(&TestSetup { rate: 20.0, burst: 20, ..TestSetup::default() });
    for user in 0..10 {
        test.broker.get_token(&request("calm", &format!("old-{user}"))).await.expect("a token");
    }
    test.issuer.fail(move |scope| scope.starts_with("user_id:evil").then(|| failure.clone()));
    let start = test.clock.now();
    let mut attackers = Vec::new();
    let (mut hits, mut misses) = (Vec::new(), Vec::new());
    for tick in 0..1200_u32 {
        test.pass_until(start + 50 * MS * tick).await;
        let now = tick * 50;
        if u128::from(now) % attack.pause.as_millis() == 0 {
            let number = u32::try_from(u128::from(now) / attack.pause.as_millis()).expect("a small number");
            let user = attack.users.map_or(number, |users| number % users);
            let client = attack.clients[number as usize % attack.clients.len()];
            attackers.push(test.spawn(request(client, &format!("evil-{user}"))));
        }
        // The attack has a while to take effect.
        if now < 5000 {
            continue;
        }
        if now % 200 == 0 {
            hits.push(test.spawn(request("calm", &format!("old-{}", now / 200 % 10))));
        }
        if now % 1500 == 0 {
            misses.push(test.spawn(request("calm", &format!("new-{now}"))));
        }
    }
    let share = |answers: Vec<Result<_, _>>| {
        answers.iter().filter(|answer| answer.is_ok()).count() as f64 / answers.len() as f64
    };
    let shares = (share(join_all(hits).await), share(join_all(misses).await));
    join_all(attackers).await;
    shares
}

#[tokio::test(start_paused = true)]
async fn failing_keys_of_attackers_are_no_trouble_of_others() {
    let mut wrong = Vec::new();
    for failure in failures() {
        for attack in ATTACKS {
            let (hits, misses) = served(failure.clone(), attack).await;
            if hits < 0.99 || misses < 0.95 {
                wrong.push(format!("{failure:?}, {attack:?}: {hits:.2} of the hits, {misses:.2} of the new users"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} attacks:\n{}", wrong.len(), wrong.join("\n"));
}

//! Members, and the budget that they share.

use std::time::Duration;

use courier_token_broker::clock::Clock;
use courier_token_broker::policy::admission::budget::Budget;
use courier_token_broker::policy::fleet::permits::PurseRequest;
use courier_token_broker::policy::fleet::{Share, member::State};

use crate::fleet::{BURST, Broker, PATIENCE, RATE, broker, connect, settings, workspace};
use crate::support::redis_server::RedisServer;

async fn wait_for_members(broker: &Broker, members: u32) {
    let wait = async {
        while broker.redis.state().members != members {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{:?}", broker.redis.state()));
}

#[tokio::test]
async fn members_share_the_budget_and_a_goodbye_gives_its_share_back() {
    let server = RedisServer::start(&[]).await;
    let (one, two) = (broker(&server, "one").await, broker(&server, "two").await);
    wait_for_members(&one, 2).await;
    let mut standing = one.redis.standing();
    let half = standing.wait_for(|standing| standing.share == Share::of_each(2));
    tokio::time::timeout(PATIENCE, half).await.expect("in time").expect("a keeper");
    two.redis.goodbye().await;
    assert_ne!(two.redis.state().state, State::Up);
    wait_for_members(&one, 1).await;
    let whole = standing.wait_for(|standing| standing.share == Share::WHOLE && standing.live == Share::WHOLE);
    tokio::time::timeout(PATIENCE, whole).await.expect("in time").expect("a keeper");
}

#[tokio::test]
async fn goodbye_waits_for_the_outbox() {
    const USERS: usize = 50;
    let server = RedisServer::start(&[]).await;
    let broker = broker(&server, "one").await;
    for user in 0..USERS {
        drop(broker.redis.sign_out(&workspace(), Some(&format!("user-{user}"))));
    }
    broker.redis.goodbye().await;
    assert_eq!(server.keys("ctb:*:n").await.len(), USERS);
    assert_eq!(broker.redis.state().outbox, 0);
}

/// Runs a broker in a runtime of its own, which then ends without a goodbye.
async fn kill_when_up(server: &RedisServer, member: &str) {
    let settings = settings(&server.url(), member);
    let run = move || {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async { connect(settings).wait_until_up().await });
        runtime.shutdown_background();
    };
    tokio::task::spawn_blocking(run).await.expect("it was up");
}

#[tokio::test]
async fn restart_takes_over_its_membership() {
    let server = RedisServer::start(&[]).await;
    let one = broker(&server, "one").await;
    kill_when_up(&server, "two").await;
    wait_for_members(&one, 2).await;
    let again = broker(&server, "two").await;
    wait_for_members(&again, 2).await;
}

#[tokio::test]
async fn brokers_of_one_name_become_two_members() {
    let server = RedisServer::start(&[]).await;
    let (one, two) = (broker(&server, "one").await, broker(&server, "one").await);
    wait_for_members(&one, 2).await;
    wait_for_members(&two, 2).await;
    one.wait_until_up().await;
    two.wait_until_up().await;
}

#[tokio::test]
async fn broker_that_says_no_goodbye_is_missing() {
    let server = RedisServer::start(&[]).await;
    let one = broker(&server, "one").await;
    let gone = tokio::spawn({
        let settings = settings(&server.url(), "two");
        async move {
            let broker = connect(settings);
            broker.wait_until_up().await;
            std::mem::forget(broker.redis);
        }
    });
    gone.await.expect("it was up");
    wait_for_members(&one, 2).await;
}

/// The store's clock and the number of permits decide; a slow machine only makes it fewer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn brokers_together_never_take_more_than_the_budget() {
    let server = RedisServer::start(&[]).await;
    let clock = Clock::system();
    let start = clock.now();
    let budget = Budget::new(RATE, BURST).expect("a budget");
    let mut takers = Vec::new();
    for member in ["one", "two", "three", "four"] {
        let broker = broker(&server, member).await;
        takers.push(tokio::spawn(async move {
            let clock = Clock::system();
            let end = clock.now() + Duration::from_secs(3);
            let mut taken = 0;
            while clock.now() < end {
                let (period, tolerance) = (budget.period(), budget.period() * budget.departing_burst());
                let request = PurseRequest { sent: clock.now(), permits: 2, period, tolerance };
                match broker.redis.take_permits(&workspace(), &request).await {
                    Some(answer) if answer.permits == 0 => clock.sleep_until(clock.now() + answer.wait / 2).await,
                    Some(answer) => taken += answer.permits,
                    None => {}
                }
            }
            taken
        }));
    }
    let mut taken = 0;
    for taker in takers {
        taken += taker.await.expect("it ends");
    }
    let most = RATE * clock.now().since(start).as_secs_f64();
    // From an empty bucket, so without the burst.
    assert!(f64::from(taken) <= most + 1.0, "{taken} of {most}");
    assert!(taken > 0);
}

#[tokio::test]
async fn absent_bucket_is_empty() {
    let server = RedisServer::start(&[]).await;
    let broker = broker(&server, "one").await;
    let request = PurseRequest {
        sent: Clock::system().now(),
        permits: 1,
        period: Duration::from_secs(1000),
        tolerance: Duration::from_secs(20_000),
    };
    for _ in 0..2 {
        server.say(&format!("DEL {}", server.keys("ctb:{f}:b:*").await[0])).await;
        let answer = broker.redis.take_permits(&workspace(), &request).await.expect("an answer");
        assert_eq!((answer.permits, answer.left), (0, 0));
        assert!(answer.wait > Duration::from_secs(900), "{answer:?}");
    }
}

/// The request for ten permits of the whole of a budget.
fn request(rate: f64, burst: u32) -> PurseRequest {
    let budget = Budget::new(rate, burst).expect("a budget");
    let (period, tolerance) = (budget.period(), budget.period() * budget.departing_burst());
    PurseRequest { sent: Clock::system().now(), permits: 10, period, tolerance }
}

#[tokio::test]
async fn changed_budget_leaves_no_burst_and_no_wait_of_the_old_one() {
    let server = RedisServer::start(&[]).await;
    let broker = broker(&server, "one").await;
    let take =
        async |request: PurseRequest| broker.redis.take_permits(&workspace(), &request).await.expect("an answer");
    server.say(&format!("DEL {}", server.keys("ctb:{f}:b:*").await[0])).await;
    // A permit in 100 s, so that the time that a step takes gives none.
    assert_eq!(take(request(0.01, 2)).await.permits, 0);
    let larger = take(request(0.01, 1000)).await;
    assert_eq!((larger.permits, larger.left), (0, 0));
    assert!(larger.wait > Duration::from_secs(90), "{larger:?}");
    let faster = take(request(1000.0, 20)).await;
    assert!(faster.wait < Duration::from_secs(1), "{faster:?}");
}

#[tokio::test]
async fn broker_that_joins_again_empties_the_bucket_of_its_new_budget() {
    let server = RedisServer::start(&[]).await;
    let broker = broker(&server, "one").await;
    broker.redis.set_budget(&workspace(), Budget::new(0.01, 1000).expect("a budget"));
    server.say("CLIENT KILL TYPE normal").await;
    let tolerance = request(0.01, 1000).tolerance.as_micros();
    server.wait_for_text(&format!("GET {}", server.keys("ctb:{f}:b:*").await[0]), &format!(" {tolerance}")).await;
    broker.wait_until_up().await;
    let answer = broker.redis.take_permits(&workspace(), &request(0.01, 1000)).await.expect("an answer");
    assert_eq!((answer.permits, answer.left), (0, 0));
}

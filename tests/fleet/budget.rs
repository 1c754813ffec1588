//! One budget for all brokers.

use std::time::Duration;

use courier_token_broker::clock::Clock;
use rustix::process::Signal;
use tokio::task::JoinSet;

use crate::fixture::{Fleet, token};
use crate::support::http::{self, Answer};

/// Asks for new users on a member, as many at once as the budget serves in a second.
fn ask_new_users(asking: &mut JoinSet<Answer>, address: std::net::SocketAddr, name: &str, count: usize) {
    for user in 0..count {
        let request = token(&format!("{name}-{user}"));
        asking.spawn(async move { http::ask(address, &request).await });
    }
}

#[tokio::test]
async fn four_brokers_keep_to_one_budget() {
    let fleet = Fleet::new(40.0, 40).await;
    let members = fleet.brokers::<4>().await;
    let start = Clock::system().now();
    let mut asking = JoinSet::new();
    for (number, member) in members.iter().enumerate() {
        ask_new_users(&mut asking, member.address, &format!("of-{number}"), 60);
    }
    let answers = asking.join_all().await;
    assert!(answers.iter().all(|answer| matches!(answer.status, 200 | 429 | 503)), "{answers:?}");
    assert_eq!(fleet.excess(start), 0.0);
    assert!(fleet.courier.call_count() > 100, "{}", fleet.courier.call_count());
}

#[tokio::test]
async fn budget_is_kept_while_brokers_are_killed_and_started() {
    let fleet = Fleet::new(40.0, 40).await;
    let start = Clock::system().now();
    let mut members: Vec<_> = fleet.brokers::<4>().await.into();
    let mut asking = JoinSet::new();
    for round in 0..8 {
        for (number, member) in members.iter().enumerate() {
            ask_new_users(&mut asking, member.address, &format!("round-{round}-of-{number}"), 15);
        }
        tokio::time::sleep(Duration::from_millis(700)).await;
        let killed = members.remove(round % 4);
        killed.running.signal(Signal::KILL);
        // Those who asked it get no answer.
        members.push(fleet.start());
    }
    asking.abort_all();
    assert_eq!(fleet.excess(start), 0.0);
    // Each killed broker is missing for a minute, so the others leave its share. But they do call.
    assert!(fleet.courier.call_count() > 40, "{}", fleet.courier.call_count());
}

#[tokio::test]
async fn changed_budget_acts_at_once_on_every_broker() {
    let mut fleet = Fleet::new(0.01, 2).await;
    let members = fleet.brokers::<2>().await;
    for member in &members {
        assert_ne!(member.ask("early").await.status, 200, "there is a permit in 100 s");
    }
    let start = Clock::system().now();
    fleet.set_budget(40.0, 40);
    for (number, member) in members.iter().enumerate() {
        member.wait_until_served(&format!("late-{number}")).await;
    }
    assert_eq!(fleet.excess(start), 0.0);
}

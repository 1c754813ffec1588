//! Tests of changes that another broker made, in virtual time.

use std::time::Duration;

use super::*;
use crate::broker::fixture::{Fixture, HOUR, key};
use crate::policy::refresh::Mode;
use crate::store::StoredToken;
use crate::token::Token;

const MINUTE: Duration = Duration::from_secs(60);

/// The other broker's token for a user, which is this old.
fn put(fixture: &Fixture, user: &str, age: Duration) -> Change {
    let token = Token::new(&format!("other-{user}")).expect("a token");
    let token = Some(StoredToken { token, sent: fixture.clock.now() - age, life: HOUR });
    Change::Put(Record { key: key(user), token, demand: [].as_slice().into(), owners: vec!["app".into()] })
}

#[tokio::test(start_paused = true)]
async fn token_of_the_other_broker_is_a_hit() {
    for mode in [Mode::Off, Mode::Used, Mode::Learned] {
        let fixture = Fixture::new(mode, 10);
        let _background = fixture.broker.start();
        fixture.broker.apply(put(&fixture, "jane", MINUTE));
        fixture.ask("jane").await;
        assert_eq!(fixture.calls(), 0);
        fixture.broker.0.table.assert_counted();
    }
}

#[tokio::test(start_paused = true)]
async fn token_that_lasts_longer_stays() {
    let fixture = Fixture::new(Mode::Off, 10);
    let _background = fixture.broker.start();
    let own = fixture.ask("jane").await.token().expect("a token");
    let kept = || fixture.broker.0.table.get(&key("jane")).and_then(|entry| entry.token()).expect("a token");
    fixture.broker.apply(put(&fixture, "jane", MINUTE));
    assert_eq!(kept().token().as_ptr(), own.token().as_ptr(), "the other one is older");
    fixture.pass(MINUTE * 2).await;
    fixture.broker.apply(put(&fixture, "jane", MINUTE));
    assert_eq!(kept().token(), b"other-jane");
    fixture.broker.0.table.assert_counted();
    assert_eq!(fixture.broker.0.table.sizes(), [1, 2, 1]);
}

#[tokio::test(start_paused = true)]
async fn token_below_its_floor_or_from_before_a_purge_is_not_taken() {
    let fixture = Fixture::new(Mode::Learned, 10);
    fixture.broker.apply(put(&fixture, "jane", MINUTE * 31));
    fixture.broker.purge("default");
    fixture.broker.apply(put(&fixture, "john", MINUTE));
    assert_eq!(fixture.broker.0.table.tokens(), 0);
}

#[tokio::test(start_paused = true)]
async fn removal_by_the_other_broker_removes_the_token_here() {
    let forget_user = Change::ForgetUser { workspace: "default".into(), user: "jane".into() };
    let all =
        [Change::ForgetKey(key("jane")), forget_user, Change::ForgetWorkspace("default".into()), Change::ForgetAll];
    for (change, left) in all.into_iter().zip([1, 1, 0, 0]) {
        let fixture = Fixture::new(Mode::Off, 10);
        let _background = fixture.broker.start();
        fixture.ask("jane").await;
        fixture.broker.apply(put(&fixture, "john", MINUTE));
        // A purge removes what is older than itself.
        fixture.pass(MINUTE).await;
        fixture.broker.apply(change);
        assert_eq!(fixture.broker.0.table.tokens(), left);
        assert!(fixture.broker.0.table.get(&key("jane")).is_none());
    }
}

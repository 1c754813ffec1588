//! The memory of a cached token, without what the allocator adds.

use std::time::Duration;

use crate::broker::fixture::{self, Fixture, HOUR};
use crate::policy::refresh::Mode;
use crate::policy::refresh::learned::demand::DemandHistory;
use crate::store::disk::Change;
use crate::store::{Record, StoredToken};
use crate::token::Token;

const TOKENS: u64 = 20_000;

/// Stores a token of 560 bytes with a user of 29 and the same scopes.
fn store(fixture: &Fixture, user: u64) {
    let key = fixture::key(&format!("user-{user:024} inbox:read:messages inbox:write:events read:preferences"));
    let (token, sent) = (format!("eyJ.e30.{user:0552}"), fixture.clock.now());
    let token = StoredToken { token: Token::new(&token).expect("a token"), sent, life: HOUR };
    let mut history = DemandHistory::new(HOUR / 2, sent);
    let _ = history.record(sent);
    let (demand, owners) = (history.encode().into(), vec!["app".into()]);
    fixture.broker.apply(Change::Put(Record { key, token: Some(token), demand, owners }));
}

/// User, token, entry and six allocations of moka; and places in hash tables, a schedule and a list.
#[tokio::test(start_paused = true)]
async fn cached_token_takes_1280_bytes_in_nine_allocations() {
    let fixture = Fixture::new(Mode::Learned, 2 * TOKENS);
    store(&fixture, 0);
    fixture.pass(Duration::from_secs(1)).await;
    let counted = allocation_counter::measure(|| (1..=TOKENS).for_each(|user| store(&fixture, user)));
    assert_eq!(fixture.broker.0.table.sizes(), [TOKENS as usize + 1, TOKENS as usize + 1, 0]);
    let orders_of_locks = if cfg!(debug_assertions) { 16.0 } else { 0.0 };
    let bytes = counted.bytes_current as f64 / TOKENS as f64 - orders_of_locks;
    let allocations = counted.count_current as f64 / TOKENS as f64;
    assert!(bytes <= 1280.0 && allocations <= 9.1, "{bytes} bytes in {allocations} allocations");
}

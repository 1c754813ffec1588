//! The cost of making a token key from a scope string.

use std::hint::black_box;

use courier_token_broker::token::{Lifetime, ScopeClaim, TokenKey, WorkspaceName};
use criterion::Criterion;

const INBOX: &str = "inbox:read:messages inbox:write:events read:preferences write:preferences read:brands";
const SORTED: &str = "inbox:read:messages inbox:write:events read:brands read:preferences write:preferences";
const BACKWARDS: &str = "write:preferences read:preferences read:brands inbox:write:events inbox:read:messages";

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let users: String = (0..ScopeClaim::MAX_USERS).map(|n| format!("user_id:user-{n:06} ")).collect();
    let one = "user_id:user-000001 ";
    let workspace = WorkspaceName::new("default").expect("a name");
    let lifetime = Lifetime::parse("1d").expect("a lifetime");
    let mut group = criterion.benchmark_group("key");
    for (name, users, scopes) in [
        // As Courier's documentation writes it, which is nearly sorted.
        ("inbox", one, INBOX),
        ("sorted", one, SORTED),
        ("unsorted", one, BACKWARDS),
        ("16 users", &users, INBOX),
    ] {
        let text = format!("{users}{scopes}");
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let claim = ScopeClaim::parse(black_box(&text)).expect("a claim");
                TokenKey::new(&workspace, &claim, lifetime)
            });
        });
    }
    group.finish();
    criterion.final_summary();
}

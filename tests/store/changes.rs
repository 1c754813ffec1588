//! Settings that change between two starts: a workspace that is pointed elsewhere finds nothing.

use std::fs;
use std::net::SocketAddr;

use crate::fixture::{CLIENT_KEY, Store, is_hit};
use crate::support::child::{Program, simulator};
use crate::support::http::{metric, until};

/// Whether a token of one run is a hit in the next, which `change` may alter.
async fn is_kept(store: &Store, change: impl FnOnce(Program) -> Program) -> bool {
    let broker = store.start();
    is_hit(broker.addresses().0, "jane").await;
    assert_eq!(broker.stop().code, Some(0));
    let broker = change(store.program()).start();
    let kept = is_hit(broker.addresses().0, "jane").await;
    assert_eq!(broker.stop().code, Some(0));
    kept
}

const DROP: &str = "[workspaces.default]\non_new_api_key = \"drop\"\n";

#[tokio::test]
async fn unchanged_settings_keep_the_tokens() {
    let store = Store::new();
    assert!(is_kept(&store, |program| program).await);
    store.set(DROP);
    // The identity has another form, so the first run drops them.
    assert!(is_kept(&store, |program| program).await);
}

#[tokio::test]
async fn new_api_key_drops_the_tokens_only_if_the_settings_say_so() {
    let store = Store::new();
    let new_key = |program: Program| program.env("COURIER_API_KEY", "pk_other");
    assert!(is_kept(&store, new_key).await);
    store.set(DROP);
    assert!(!is_kept(&store, new_key).await);
}

#[tokio::test]
async fn api_key_that_is_replaced_at_runtime_is_that_of_later_tokens() {
    const RELOADS: &str = "courier_token_broker_reloads_total{outcome=\"applied\",what=\"api_key\"}";
    let store = Store::new();
    let key = store.settings().with_extension("key");
    let set_key = |text: &str| fs::write(&key, text).expect("written");
    store.set(&format!("{DROP}api_key_file = {key:?}\n"));
    let start = || {
        let serve = Program::serve().config(store.settings()).courier(store.courier);
        serve.env("COURIER_TOKEN_BROKER_CLIENT_KEY", CLIENT_KEY).start()
    };
    set_key("pk_first");
    let broker = start();
    let (address, admin) = broker.addresses();
    assert!(!is_hit(address, "jane").await);
    set_key("pk_second");
    until(async || metric(admin, RELOADS).await == 1.0).await;
    assert!(!is_hit(address, "john").await);
    assert_eq!(broker.stop().code, Some(0));
    let broker = start();
    let (address, _) = broker.addresses();
    assert_eq!((is_hit(address, "jane").await, is_hit(address, "john").await), (false, true));
    assert_eq!(broker.stop().code, Some(0));
    set_key("pk_first");
    assert!(!is_hit(start().addresses().0, "john").await);
}

#[tokio::test]
async fn other_base_url_drops_the_tokens() {
    let store = Store::new();
    let (_other, address): (_, SocketAddr) = simulator(&[]);
    assert!(!is_kept(&store, |program| program.courier(address)).await);
}

#[tokio::test]
async fn rotated_key_file_opens_the_store_and_an_unknown_one_finds_nothing() {
    let store = Store::new();
    let [old, new, other] = ["5a", "b7", "c3"].map(|byte| byte.repeat(32));
    let rotate = |keys: String| {
        let store = &store;
        move |program| {
            store.write_key(&keys);
            program
        }
    };
    assert!(is_kept(&store, rotate(format!("{new}\n{old}\n"))).await);
    assert!(is_kept(&store, rotate(new)).await);
    assert!(!is_kept(&store, rotate(other)).await);
}

//! The cost of a failing Redis to hits: their p99 while the store of the fleet is stopped or killed, relative to the p99
//! while it answers.
//!
//! The broker is a process of its own, and Redis a real `redis-server`. `cargo bench --bench fleet` takes two minutes.
//! Without cargo's `--bench`, or with `--test`, it is a short smoke test.

#![allow(clippy::disallowed_methods, reason = "a bench measures time")]

#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../tests/support/redis_server.rs"]
mod redis_server;
mod support;
#[path = "support/wire.rs"]
mod wire;

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use courier_token_broker::config::{RawRedisUrls, StoreKind};
use courier_token_broker::secrets::Secret;
use courier_token_broker::store::generate_key;
use redis_server::RedisServer;
use tokio::runtime::Builder;
use wire::{ROLE, Server, Spread, broker_with, p99, serve, warm};

const CONNECTIONS: usize = 8;
/// The environment variable with the port of Redis and the key file.
const STORE: &str = "COURIER_TOKEN_BROKER_BENCH_STORE";

fn main() {
    match env::var(ROLE) {
        Ok(_) => serve(broker_with(|raw| {
            let store = env::var(STORE).expect("it is set");
            let (url, key_file) = store.split_once(' ').expect("two words");
            raw.store.kind = StoreKind::Redis;
            raw.store.url = RawRedisUrls(vec![Secret::new(url).expect("a URL")]);
            raw.store.key_file = Some(key_file.into());
        })),
        Err(_) => compare(),
    }
}

fn compare() {
    let arguments: Vec<_> = env::args().collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let is_measured = has("--bench") && !has("--test");
    let (rounds, length) = if is_measured { (6, Duration::from_secs(4)) } else { (1, Duration::from_millis(100)) };
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut redis = runtime.block_on(RedisServer::start(&[]));
    let folder = tempfile::tempdir().expect("a folder");
    let key_file = key_file(folder.path());
    let server = Server::start("broker", (STORE, format!("{} {key_file}", redis.url())));
    runtime.block_on(warm(server.address, CONNECTIONS));
    let p99 = || p99(server.address, &runtime, CONNECTIONS, length);
    p99();
    for failure in ["stopped", "killed"] {
        let mut ratios = Vec::new();
        for _ in 0..rounds {
            let before = p99();
            if failure == "stopped" {
                redis.pause()
            } else {
                redis.kill()
            }
            // It ends after the first three seconds, in which the broker waits, and goes on while it is alone.
            ratios.push(p99() / before);
            if failure == "stopped" {
                redis.resume()
            } else {
                runtime.block_on(redis.restart())
            }
            // The broker joins again.
            sleep(length / 2);
        }
        println!("Redis {failure}: p99 of hits / p99 while it answers = {}", Spread::of(ratios));
    }
}

fn key_file(folder: &Path) -> String {
    let file = folder.join("store.key");
    fs::write(&file, generate_key().expect("randomness")).expect("written");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("a mode");
    file.to_str().expect("text").to_owned()
}

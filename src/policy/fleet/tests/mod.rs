//! The fleet in virtual time: brokers, a store and the network, with faults drawn from a seed.
//!
//! `FLEET_SEEDS=100000` runs more seeds, or `FLEET_SEEDS=500..600` these.

mod budget;
mod network;
pub mod rule;
pub mod server;
pub mod store;
mod tokens;

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use rule::Rule::{self, *};
use rule::Rules;

/// The rules of the budget, each with the first seed that breaks it: a search from there is short.
const OF_BUDGET: [(Rule, u64); 11] = [
    (JoinEmpties, 139),
    (AbsentIsEmpty, 2),
    (MissingCounted, 6),
    (ShareLeft, 7716),
    (LateBeatIsVoid, 48_470),
    (RememberedCounted, 207),
    (LargestCounted, 3523),
    (PurseEnds, 114),
    (Silence, 62),
    (ShareAlone, 4),
    (AloneFromEmpty, 117),
];

/// The rules of tokens.
const OF_TOKENS: [(Rule, u64); 11] = [
    (LeaseTaken, 0),
    (LeaseRenewed, 0),
    (LeaseLapses, 1),
    (NotBeforeChecked, 2),
    (FlightVoided, 6),
    (KeyCompared, 1),
    (FloorChecked, 0),
    (UnixCompared, 9),
    (LongerKept, 1),
    (UselessCompared, 31),
    (RejectedRefused, 189),
];

/// How many seeds to search.
const SEARCHED: u64 = 3000;

fn seeds() -> Range<u64> {
    let text = std::env::var("FLEET_SEEDS").unwrap_or_else(|_| "1000".to_owned());
    let number = |text: &str| text.parse().expect("FLEET_SEEDS is a number or a range of numbers");
    text.split_once("..").map_or_else(|| 0..number(&text), |(from, to)| number(from)..number(to))
}

/// The first seed that breaks a law, with the cause.
fn first_broken(seeds: Range<u64>, run: impl Fn(u64) -> Result<(), String> + Sync) -> Option<(u64, String)> {
    let next = AtomicU64::new(seeds.start);
    let work = || {
        let mut broken = None;
        while broken.is_none() {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                break;
            }
            broken = run(seed).err().map(|cause| (seed, cause));
        }
        next.fetch_max(if broken.is_some() { seeds.end } else { 0 }, Ordering::Relaxed);
        broken
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(work)).collect();
        threads.into_iter().filter_map(|thread| thread.join().expect("no panic")).min()
    })
}

fn run_budget(seed: u64, rules: Rules) -> Result<(), String> {
    let (excess, burst) = budget::World::new(seed, rules).run();
    // Times are rounded to nanoseconds.
    if excess < burst + 0.001 {
        Ok(())
    } else {
        Err(format!("{excess:.1} calls beyond the rate, the burst is {burst}"))
    }
}

#[test]
fn fleet_keeps_its_budget_whatever_fails() {
    assert_eq!(first_broken(seeds(), |seed| run_budget(seed, Rules(None))), None);
}

#[test]
fn fleet_keeps_the_laws_of_tokens_whatever_fails() {
    assert_eq!(first_broken(seeds(), |seed| tokens::World::new(seed, Rules(None)).run()), None);
}

#[test]
fn budget_breaks_without_any_one_rule() {
    for (rule, first) in OF_BUDGET {
        let broken = first_broken(first..first + SEARCHED, |seed| run_budget(seed, Rules(Some(rule))));
        assert!(broken.is_some(), "nothing needs {rule:?}");
    }
}

#[test]
fn laws_of_tokens_break_without_any_one_rule() {
    for (rule, first) in OF_TOKENS {
        let run = |seed| tokens::World::new(seed, Rules(Some(rule))).run();
        assert!(first_broken(first..first + SEARCHED, run).is_some(), "nothing needs {rule:?}");
    }
}

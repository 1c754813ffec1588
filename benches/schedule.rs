//! The schedule with a million deadlines in it: what an operation costs, and how
//! much memory an item takes.

#![allow(clippy::disallowed_methods, reason = "a bench measures time")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use courier_token_broker::policy::schedule::{Schedule, Ticket};
use courier_token_broker::token::{Lifetime, Moment, ScopeClaim, TokenKey, WorkspaceName};
use criterion::Criterion;
use fastrand::Rng;

const ITEMS: usize = 1_000_000;
/// So many operations are timed together, so that reading the clock costs next
/// to nothing.
const BATCH: u64 = 1000;
const SHORTEST: u64 = 3600;
const LONGEST: u64 = 30 * 86_400;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let before = resident_bytes();
    let mut wheel = Wheel::new();
    for _ in 0..ITEMS {
        wheel.add();
    }
    if let (Some(before), Some(after)) = (before, resident_bytes()) {
        let each = after.saturating_sub(before) as f64 / ITEMS as f64;
        println!("schedule/memory: {each:.1} bytes an item, with {ITEMS} items (resident memory, keys shared)");
    }
    // Past the longest lifetime the wheel is as it is after any longer time.
    for _ in 0..2 * ITEMS {
        wheel.pop();
        wheel.add();
    }
    let mut group = criterion.benchmark_group("schedule");
    group.bench_function("add", |bencher| {
        bencher.iter_custom(|count| {
            batches(count, |batch| {
                let start = Instant::now();
                let tickets: Vec<_> = (0..batch).map(|_| wheel.add()).collect();
                let spent = start.elapsed();
                for ticket in tickets {
                    wheel.schedule.remove(ticket);
                }
                spent
            })
        });
    });
    group.bench_function("add and remove", |bencher| {
        bencher.iter_custom(|count| {
            batches(count, |batch| {
                let start = Instant::now();
                let tickets: Vec<_> = (0..batch).map(|_| wheel.add()).collect();
                for ticket in tickets {
                    black_box(wheel.schedule.remove(ticket));
                }
                start.elapsed()
            })
        });
    });
    // Time goes on to each deadline, so this is also what turning the wheel costs.
    group.bench_function("add and pop", |bencher| {
        bencher.iter_custom(|count| {
            batches(count, |batch| {
                let start = Instant::now();
                for _ in 0..batch {
                    black_box(wheel.pop());
                    wheel.add();
                }
                start.elapsed()
            })
        });
    });
    group.finish();
    criterion.final_summary();
    assert_eq!(wheel.schedule.len(), ITEMS, "what goes in comes out once");
}

/// A schedule in its virtual time.
struct Wheel {
    schedule: Schedule<TokenKey>,
    now: Moment,
    key: TokenKey,
    random: Rng,
}

impl Wheel {
    fn new() -> Self {
        let claim = ScopeClaim::parse("user_id:u inbox:read:messages").expect("a claim");
        let workspace = WorkspaceName::new("default").expect("a name");
        let key = TokenKey::new(&workspace, &claim, Lifetime::MAX);
        // The same deadlines in every run.
        Self { schedule: Schedule::new(), now: Moment::from_nanos(0), key, random: Rng::with_seed(7) }
    }

    fn add(&mut self) -> Ticket {
        let wait = Duration::from_nanos(self.random.u64(SHORTEST * 1_000_000_000..LONGEST * 1_000_000_000));
        self.schedule.add(self.now + wait, self.key.clone())
    }

    /// The next item, in the moment in which it comes due.
    fn pop(&mut self) -> TokenKey {
        loop {
            if let Some((_, key)) = self.schedule.pop(self.now) {
                return key;
            }
            self.now = self.schedule.next().expect("the schedule is not empty");
        }
    }
}

fn batches(count: u64, mut run: impl FnMut(u64) -> Duration) -> Duration {
    let mut spent = Duration::ZERO;
    let mut left = count;
    while left > 0 {
        let batch = left.min(BATCH);
        spent += run(batch);
        left -= batch;
    }
    spent
}

/// How much of this process is in memory, where the system tells it.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

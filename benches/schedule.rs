//! The cost of an operation and the memory per deadline of a schedule with five million deadlines.

#![allow(clippy::disallowed_methods, reason = "a bench measures time")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use courier_token_broker::clock::Moment;
use courier_token_broker::policy::schedule::{Schedule, Ticket};
use courier_token_broker::token::{Lifetime, ScopeClaim, TokenKey, WorkspaceName};
use criterion::Criterion;
use fastrand::Rng;

/// The most bytes per deadline.
const GOAL: f64 = 70.0;
/// The number of operations timed together, so that the cost of clock reads is negligible.
const BATCH: u64 = 1000;
const SHORTEST: u64 = 3600;
const LONGEST: u64 = 30 * 86_400;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let measured = std::env::args().any(|argument| argument == "--bench");
    let items = if measured { 5_000_000 } else { 50_000 };
    let mut wheel = Wheel::new();
    fill(&mut wheel, items);
    turn_for_the_longest_lifetime(&mut wheel, items);
    compare(&mut wheel, &mut criterion);
    criterion.final_summary();
    assert_eq!(wheel.schedule.len(), items, "each item comes out once");
}

/// Measures the time and the memory of adding so many items to an empty schedule.
fn fill(wheel: &mut Wheel, items: usize) {
    let before = resident_bytes();
    let start = Instant::now();
    for _ in 0..items {
        wheel.add();
    }
    let each = start.elapsed().as_secs_f64() * 1e9 / items as f64;
    println!("{items} deadlines were added to an empty schedule in {each:.0} ns each, its growth included");
    if let (Some(before), Some(after)) = (before, resident_bytes()) {
        let each = after.saturating_sub(before) as f64 / items as f64;
        let met = if each <= GOAL { "met" } else { "missed" };
        println!("a deadline takes {each:.1} bytes of resident memory; the goal of {GOAL} is {met}");
    }
}

/// Pops and adds items for the longest lifetime, after which the wheel has reached its steady state.
fn turn_for_the_longest_lifetime(wheel: &mut Wheel, items: usize) {
    let (mut all, mut longest) = (Duration::ZERO, Duration::ZERO);
    let mut popped = 0;
    while popped < 2 * items {
        let start = Instant::now();
        let due = black_box(wheel.turn());
        let spent = start.elapsed();
        (all, longest) = (all + spent, longest.max(spent));
        if due.is_some() {
            popped += 1;
            wheel.add();
        }
    }
    let each = all.as_secs_f64() * 1e9 / (2 * items) as f64;
    println!("in 30 days of virtual time an item took {each:.0} ns to pop, and the longest call {longest:.1?}");
}

/// Measures single operations. A batch returns the time of its measured part.
fn compare(wheel: &mut Wheel, criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("schedule");
    let mut measure = |name: &str, run: &dyn Fn(&mut Wheel, u64) -> Duration| {
        group.bench_function(name, |bencher| bencher.iter_custom(|count| batches(count, |batch| run(wheel, batch))));
    };
    measure("add", &|wheel, batch| {
        let start = Instant::now();
        let tickets: Vec<_> = (0..batch).map(|_| wheel.add()).collect();
        let spent = start.elapsed();
        for ticket in tickets {
            wheel.schedule.remove(ticket);
        }
        spent
    });
    measure("add and remove", &|wheel, batch| {
        let start = Instant::now();
        let tickets: Vec<_> = (0..batch).map(|_| wheel.add()).collect();
        for ticket in tickets {
            black_box(wheel.schedule.remove(ticket));
        }
        start.elapsed()
    });
    // Time advances to each deadline, so this includes the cost of turning the wheel.
    measure("pop", &|wheel, batch| {
        let start = Instant::now();
        for _ in 0..batch {
            black_box(wheel.pop());
        }
        let spent = start.elapsed();
        for _ in 0..batch {
            wheel.add();
        }
        spent
    });
    group.finish();
}

/// As large as the broker's items: a moment, a key and its entry. The cache owns the latter two, so all items here
/// share one of each.
type Due = (Moment, TokenKey, Arc<()>);

/// A schedule in its virtual time.
struct Wheel {
    schedule: Schedule<Due>,
    now: Moment,
    key: TokenKey,
    known: Arc<()>,
    random: Rng,
}

impl Wheel {
    fn new() -> Self {
        let claim = ScopeClaim::parse("user_id:u inbox:read:messages").expect("a claim");
        let workspace = WorkspaceName::new("default").expect("a name");
        let key = TokenKey::new(&workspace, &claim, Lifetime::MAX);
        // The same deadlines in every run.
        let (schedule, now, known) = (Schedule::new(), Moment::from_nanos(0), Arc::new(()));
        Self { schedule, now, key, known, random: Rng::with_seed(7) }
    }

    fn add(&mut self) -> Ticket {
        let wait = Duration::from_nanos(self.random.u64(SHORTEST * 1_000_000_000..LONGEST * 1_000_000_000));
        let at = self.now + wait;
        self.schedule.add(at, (at, self.key.clone(), Arc::clone(&self.known)))
    }

    /// Advances to the next item's deadline and returns the item.
    fn pop(&mut self) -> Due {
        loop {
            if let Some(due) = self.turn() {
                return due;
            }
        }
    }

    /// One operation: pops a due item, or steps towards the next.
    fn turn(&mut self) -> Option<Due> {
        let due = self.schedule.pop(self.now).map(|(_, due)| due);
        if due.is_none() {
            self.now = self.schedule.next().expect("the schedule is not empty");
        }
        due
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

/// The resident memory of this process, if the system reports it.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

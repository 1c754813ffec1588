//! The cost of a decision of mode `learned`: it reads a key's demand history, makes a forecast, and learns from
//! earlier decisions whose outcome is known.

#![allow(clippy::disallowed_methods, reason = "a bench measures time")]

#[path = "support/population.rs"]
mod population;

use std::env;
use std::hint::black_box;
use std::iter::Peekable;
use std::time::{Duration, Instant};

use courier_token_broker::clock::Moment;
use courier_token_broker::planner::trace::Request;
use courier_token_broker::planner::workload::Workload;
use criterion::Criterion;
use population::{DAY, Population, visits};

/// Longer than any demand history, so the same visits may repeat after it.
const DAYS: u32 = 30;
/// The days of warm-up. Users are forgotten after eight days of absence, so the population has its final size by then.
const WARM: u32 = 10;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let measured = env::args().any(|argument| argument == "--bench");
    let trace = visits(if measured { 100_000 } else { 1000 }, DAYS);
    let mut population = Population::new(trace.keys());
    let once = || trace.requests().iter().copied().take_while(|request| request.at < Workload::START + DAY * DAYS);
    let again = |round| once().map(move |request| Request { at: request.at + DAY * (DAYS * round), ..request });
    let mut requests = (0..).flat_map(again).peekable();
    let mut now = Workload::START + DAY * WARM;
    population.run_until(&mut requests, now);
    let known = population.users.iter().filter(|person| person.habit.is_some()).count();
    println!("{known} keys are known after {WARM} days");

    let mut group = criterion.benchmark_group("decide");
    group.bench_function("as time passes", |bencher| {
        bencher.iter_custom(|count| {
            let spent;
            (spent, now) = decide(&mut population, &mut requests, count);
            spent
        });
    });
    // Time stands still, so no outcome becomes known and nothing is learned.
    let known = |user: &u32| population.users[*user as usize].habit.is_some();
    let people: Vec<u32> = (0..population.users.len() as u32).filter(known).collect();
    let mut people = people.into_iter().cycle();
    group.bench_function("in one moment", |bencher| {
        bencher.iter(|| black_box(population.judge(people.next().expect("a user is known"), now)));
    });
    group.finish();
    criterion.final_summary();
}

/// Lets time pass until `count` decisions are made; returns how long they took, clock reads included, and the time of
/// the last.
fn decide(
    population: &mut Population,
    requests: &mut Peekable<impl Iterator<Item = Request>>,
    mut count: u64,
) -> (Duration, Moment) {
    let mut spent = Duration::ZERO;
    loop {
        let next = requests.peek().expect("requests repeat for ever").at;
        while let Some((user, now)) = population.due(next) {
            let start = Instant::now();
            let verdict = black_box(population.judge(user, now));
            spent += start.elapsed();
            population.apply(verdict, user, now);
            count -= 1;
            if count == 0 {
                return (spent, now);
            }
        }
        requests.next().into_iter().for_each(|request| population.ask(request.key, request.at));
    }
}

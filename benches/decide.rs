//! What a decision of mode `learned` costs: what is remembered of a key is read,
//! a forecast is made of it, and earlier decisions whose outcome is known are
//! learned from.

#![allow(clippy::disallowed_methods, reason = "a bench measures time")]

#[path = "support/town.rs"]
mod town;

use std::env;
use std::hint::black_box;
use std::iter::Peekable;
use std::time::{Duration, Instant};

use courier_token_broker::planner::trace::Request;
use courier_token_broker::planner::workload::Workload;
use courier_token_broker::token::Moment;
use criterion::Criterion;
use town::{DAY, Town, visits};

/// More than anybody remembers, so the same visits may come again.
const DAYS: u32 = 30;
/// Whoever does not come for eight days is forgotten: then the town is as large as it
/// gets.
const WARM: u32 = 10;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let measured = env::args().any(|argument| argument == "--bench");
    let trace = visits(if measured { 100_000 } else { 1000 }, DAYS);
    let mut town = Town::new(trace.keys());
    let once = || trace.requests().iter().copied().take_while(|request| request.at < Workload::START + DAY * DAYS);
    let again = |round| once().map(move |request| Request { at: request.at + DAY * (DAYS * round), ..request });
    let mut requests = (0..).flat_map(again).peekable();
    let mut now = Workload::START + DAY * WARM;
    town.live(&mut requests, now);
    let known = town.people.iter().filter(|person| person.habit.is_some()).count();
    println!("{known} keys are known after {WARM} days");

    let mut group = criterion.benchmark_group("decide");
    group.bench_function("as time passes", |bencher| {
        bencher.iter_custom(|count| {
            let spent;
            (spent, now) = decide(&mut town, &mut requests, count);
            spent
        });
    });
    // No outcome becomes known any more, so nothing is learned.
    let known = |who: &u32| town.people[*who as usize].habit.is_some();
    let people: Vec<u32> = (0..town.people.len() as u32).filter(known).collect();
    let mut people = people.into_iter().cycle();
    group.bench_function("in one moment", |bencher| {
        bencher.iter(|| black_box(town.judge(people.next().expect("somebody is known"), now)));
    });
    group.finish();
    criterion.final_summary();
}

/// Lets time pass till so many decisions are made; how long these took, the reading of
/// the clock included, and when the last was made.
fn decide(
    town: &mut Town,
    requests: &mut Peekable<impl Iterator<Item = Request>>,
    mut count: u64,
) -> (Duration, Moment) {
    let mut spent = Duration::ZERO;
    loop {
        let next = requests.peek().expect("they come for ever").at;
        while let Some((who, now)) = town.due(next) {
            let start = Instant::now();
            let verdict = black_box(town.judge(who, now));
            spent += start.elapsed();
            town.follow(verdict, who, now);
            count -= 1;
            if count == 0 {
                return (spent, now);
            }
        }
        requests.next().into_iter().for_each(|request| town.ask(request.key, request.at));
    }
}

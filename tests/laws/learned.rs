//! Mode `learned` in the running broker.

use courier_token_broker::broker::Source;
use courier_token_broker::clock::Moment;
use courier_token_broker::planner::replay::{self, Plan};
use courier_token_broker::planner::trace::{Request, Trace};
use courier_token_broker::planner::workload::Workload;
use courier_token_broker::policy::admission::budget::Budget;
use courier_token_broker::policy::freshness::Floor;
use courier_token_broker::policy::refresh::Mode;

use super::world::{HOUR, MS, SECOND, Setup, World};

#[tokio::test(start_paused = true)]
async fn planner_and_broker_agree() {
    // With a tight budget, renewals and returns wait, and some users wait with them.
    let (plenty, scarce, tight) = ((1000.0, 1000), (0.3, 8), (0.012, 16));
    for (mode, lifetime, (rate, burst), users) in [
        (Mode::Learned, "1h", plenty, 15),
        (Mode::Learned, "1d", plenty, 15),
        (Mode::Learned, "1h", tight, 50),
        (Mode::Used, "1h", plenty, 15),
        (Mode::Used, "1h", scarce, 15),
        (Mode::Off, "1h", plenty, 15),
    ] {
        let world = World::new(&Setup { mode, rate, burst, patience: 60 * SECOND, ..Setup::default() });
        let made = Workload::Office.generate(users, 3, 7).expect("a workload");
        let start = world.clock.now() + SECOND;
        let shift = |at: Moment| start + at.since(made.requests()[0].at);
        let requests = made.requests().iter().map(|request| Request { at: shift(request.at), ..*request }).collect();
        let trace = Trace::from_requests(requests, made.keys(), made.users());

        let plan = Plan {
            floor: Floor::new(0.5, 30 * SECOND).expect("a floor"),
            lifetime: if lifetime == "1h" { HOUR } else { 24 * HOUR },
            budget: Budget::new(rate, burst).ok(),
            latency: 100 * MS,
            extra_calls: 0.15,
        };
        let planned = replay::replay(&trace, &plan, mode, &mut |_| {});

        let mut asked = Vec::new();
        for request in trace.requests() {
            world.pass(request.at.since(world.clock.now())).await;
            let (broker, user) = (world.broker.clone(), request.key.to_string());
            asked.push(tokio::spawn(async move { broker.get_token(&super::world::ask(&user, lifetime)).await }));
        }
        world.pass(SECOND).await;
        let mut delayed = 0;
        for answer in asked {
            let answer = answer.await.expect("no panic").expect("a token");
            delayed += u64::from(answer.source != Source::Hit);
        }
        let calls = world.courier.call_count() as u64;
        assert_eq!((calls, delayed), (planned.calls, planned.delayed), "{mode:?} {lifetime} {rate}");
        if rate == tight.0 {
            let text = String::from_utf8(world.metrics.text().expect("text")).expect("UTF-8");
            let waited = |class| {
                let sum = format!("upstream_queue_wait_seconds_sum{{class=\"{class}\",workspace=\"default\"}} ");
                let line = text.lines().find_map(|line| line.split_once(&sum)).expect("the series");
                line.1.parse::<f64>().expect("a number")
            };
            assert!(["renewal", "ahead"].map(waited).into_iter().all(|waited| waited > 100.0), "nothing had to wait");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn daily_user_is_served_without_waiting() {
    let world = World::new(&Setup { mode: Mode::Learned, ..Setup::default() });
    let mut waited = Vec::new();
    for _day in 0..10 {
        let mut today = 0;
        for user in 0..60 {
            // Each user comes at a minute of their own, a little earlier or later each day.
            world.pass(60 * SECOND).await;
            for _ in 0..3 {
                let answer = world.ask(&format!("user-{user}"), "1d").await.expect("a token");
                today += u32::from(answer.source != Source::Hit);
            }
        }
        waited.push(today);
        world.pass(23 * HOUR).await;
    }
    assert_eq!(waited[0], 60);
    assert!(waited[5..].iter().sum::<u32>() < 60, "{waited:?}");
}

#[test]
fn prefetch_runs_ahead_of_a_peak() {
    let trace = Workload::Office.generate(2000, 4, 7).expect("a workload");
    // The morning's peak asks for more than the budget has.
    let plan = Plan {
        floor: Floor::new(0.5, 30 * SECOND).expect("a floor"),
        lifetime: 24 * HOUR,
        budget: Budget::new(0.08, 8).ok(),
        latency: 100 * MS,
        extra_calls: 0.25,
    };
    let of_day_one = Trace::from_requests(
        trace.requests().iter().filter(|request| request.at < Workload::START + 24 * HOUR).copied().collect(),
        trace.keys(),
        trace.users(),
    );
    let waits = |trace: &Trace, mode| replay::replay(trace, &plan, mode, &mut |_| {}).over_one_second;
    // No user is known on the first day.
    let [off, learned] = [Mode::Off, Mode::Learned].map(|mode| waits(&trace, mode) - waits(&of_day_one, mode));
    assert!(
        off > 5000 && learned < off / 10,
        "{learned} requests waited for over a second, and without renewals {off}"
    );
}

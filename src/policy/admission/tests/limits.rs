//! Tests of limits that change while calls are queued.

use std::time::Duration;

use super::{Driver, MAX_WAIT, SECOND};
use crate::clock::Moment;
use crate::policy::admission::budget::Budget;

#[test]
fn queued_calls_leave_by_the_new_budget() {
    let mut driver = Driver::new(1.0, 1);
    driver.arrive_users(4);
    assert_eq!(driver.order(), [0]);
    let budget = Budget::new(100.0, 1).expect("a budget");
    driver.admission.set_limits(budget, MAX_WAIT, driver.now);
    driver.poll();
    assert_eq!((driver.order(), driver.admission.rate()), (vec![0], 100.0));
    driver.pass(Duration::from_millis(30));
    assert_eq!(driver.order(), [0, 1, 2, 3]);
}

#[test]
fn user_is_refused_by_the_new_longest_wait() {
    let mut driver = Driver::new(1.0, 1);
    driver.arrive_users(3);
    assert!(driver.refused.is_empty());
    driver.admission.set_limits(driver.budget, SECOND, driver.now);
    driver.arrive_users(1);
    assert_eq!(driver.refused.len(), 1);
}

#[test]
fn rate_that_429s_have_lowered_stays_within_the_new_budget() {
    let mut driver = Driver::new(100.0, 10);
    let limit = driver.admission.rate();
    driver.pause_all(SECOND);
    let lowered = driver.admission.rate();
    assert!(lowered < limit, "{lowered}");
    for (rate, expected) in [(1000.0, lowered.max(100.0)), (20.0, 20.0)] {
        driver.admission.set_limits(Budget::new(rate, 10).expect("a budget"), MAX_WAIT, driver.now);
        assert_eq!(driver.admission.rate(), expected);
    }
    assert!(driver.admission.next_wakeup() == Moment::NEVER && driver.admission.paused_for(driver.now) == SECOND);
}

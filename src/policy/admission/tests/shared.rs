//! Tests of a budget that is shared with a fleet.

use std::time::Duration;

use super::{Call, MAX_WAIT, START, origin};
use crate::clock::Moment;
use crate::policy::admission::budget::Budget;
use crate::policy::admission::queue::{Class, Rank};
use crate::policy::admission::{Admission, Event};
use crate::policy::fleet::member::{BeatAnswer, Member};
use crate::policy::fleet::permits::{FleetPermits, PurseAnswer};
use crate::policy::fleet::{ServerTime, Share};

/// The membership of a broker that is up, one of two.
fn member() -> Member {
    let mut member = Member::new(10, START);
    let seen = ServerTime::from_micros(1);
    assert!(member.poll(START).is_some());
    member.on_joined(seen, START);
    assert!(member.poll(START).is_some());
    let share = Share::of_each(2);
    member.on_beat(Some(BeatAnswer { seen, members: 2, largest: share, share, live: Share::WHOLE }), START);
    member
}

fn admission() -> Admission<u8, Call> {
    let budget = Budget::new(20.0, 20).expect("a budget");
    let permits = FleetPermits::new(budget, member().standing());
    let mut admission = Admission::new(Some(budget), MAX_WAIT);
    admission.share_budget(permits);
    admission
}

fn call(number: usize) -> Call {
    Call { number, is_cancelled: false }
}

/// The number of the next call that is admitted; afterwards the next poll is later.
fn admitted(admission: &mut Admission<u8, Call>, now: Moment) -> Option<usize> {
    let event = admission.poll(now);
    assert!(event.is_some() || admission.next_wakeup() > now);
    event.map(|event| match event {
        Event::Admitted { call, .. } => call.number,
        Event::Rejected { rejection, .. } => panic!("{rejection:?}"),
    })
}

#[test]
fn purses_of_the_fleet_admit_queued_calls_in_their_order() {
    let mut admission = admission();
    let mut now = START;
    let renewal = origin(7, 0);
    assert_eq!(admission.admit_now(Class::Renewal, &renewal, now), Ok(false));
    admission.queue_renewal(Rank::Renewal(now), &renewal, call(7), now);
    for user in 1..=2 {
        assert_eq!(admission.admit_now(Class::Waiting, &origin(user, 0), now), Ok(false));
        admission.queue_user(0, &origin(user, 0), call(user as usize), Moment::NEVER, now).expect("a place");
    }
    for expected in [1, 2, 7] {
        assert_eq!(admitted(&mut admission, now), None);
        let request = admission.poll_purse(now).expect("a permit is wanted");
        assert_eq!(admission.poll_purse(now), None);
        now = now + Duration::from_millis(1);
        let answer = PurseAnswer { permits: 1, left: 10, wait: Duration::ZERO };
        admission.fleet().expect("a fleet").on_answer(request.sent, Some(answer), now);
        assert_eq!(admitted(&mut admission, now), Some(expected));
    }
    assert_eq!((admission.poll_purse(now), admission.next_wakeup()), (None, Moment::NEVER));
}

#[test]
fn broker_that_is_cut_off_paces_its_calls_by_its_share() {
    let mut admission = admission();
    for user in 1..=4 {
        assert_eq!(admission.admit_now(Class::Waiting, &origin(user, 0), START), Ok(false));
        admission.queue_user(0, &origin(user, 0), call(user as usize), Moment::NEVER, START).expect("a place");
    }
    let mut left = Vec::new();
    let mut now = START;
    while admission.next_wakeup() < Moment::NEVER {
        now = now.max(admission.next_wakeup());
        while admitted(&mut admission, now).is_some() {
            left.push(now.since(START).as_millis());
        }
    }
    assert_eq!(left, [3100, 3200, 3300, 3400]);
}

//! Tests of the order in which calls leave.

use super::renewals::tests::rank;
use super::*;
use crate::clock::Moment;
use proptest::prelude::*;

impl<C: Ord + Clone, T> Queue<C, T> {
    fn push_first(&mut self, client: C, user: u64, call: T) -> Place {
        self.push_user(client, user, false, call)
    }

    fn push_retry(&mut self, client: C, user: u64, call: T) -> Place {
        self.push_user(client, user, true, call)
    }
}

#[test]
fn waiting_users_go_before_renewals() {
    let mut queue = Queue::default();
    queue.push_renewal(Rank::IN_USE, 0, "renewal");
    queue.push_first((), 1, "first user");
    queue.push_first((), 2, "second user");
    let order: Vec<_> = std::iter::from_fn(|| queue.pop()).map(|(_, call)| call).collect();
    assert_eq!(order, ["first user", "second user", "renewal"]);
}

#[test]
fn one_call_in_ten_is_a_renewal_while_users_wait() {
    let mut queue = Queue::default();
    for n in 0..1000 {
        queue.push_first((), n, n);
        if n < 50 {
            queue.push_renewal(Rank::IN_USE, n, n);
        }
    }
    let order: Vec<_> = std::iter::from_fn(|| queue.pop()).map(|(class, _)| class).collect();
    for tenth in order[..500].chunks(RENEWAL_SHARE) {
        assert_eq!(tenth.iter().filter(|class| **class == Class::Ahead).count(), 1);
    }
}

/// The calls that are left, in order.
fn drain<C: Ord + Clone, T>(queue: &mut Queue<C, T>) -> Vec<T> {
    std::iter::from_fn(|| queue.pop()).map(|(_, call)| call).collect()
}

#[test]
fn joined_renewal_is_served_with_the_users() {
    let mut queue = Queue::default();
    let renewal = queue.push_renewal(Rank::IN_USE, 0, "renewal");
    let user = queue.push_first((), 1, "user");
    for place in [renewal, renewal, user] {
        queue.add_line(place, ());
    }
    assert_eq!(Class::ALL.map(|class| queue.depth(class)), [2, 0, 0]);
    assert_eq!(queue.pop(), Some((Class::Waiting, "renewal")));
    assert_eq!(queue.pop(), Some((Class::Waiting, "user")));
    assert!(queue.is_empty());
}

/// By its client's line it would be the last: its user has a call before it.
#[test]
fn joined_renewal_keeps_its_turn_among_the_renewals() {
    let mut queue = Queue::default();
    for n in 0..50 {
        queue.push_first("storm", n, n);
    }
    let renewal = queue.push_renewal(Rank::IN_USE, 0, 100);
    queue.add_line(renewal, "storm");
    let order = drain(&mut queue);
    assert_eq!((order[RENEWAL_SHARE - 1], order.len()), (100, 51));
}

#[test]
fn clients_take_turns_however_many_users_they_send() {
    let mut queue = Queue::default();
    for n in 0..1000 {
        queue.push_first("storm", n, n);
    }
    queue.push_first("calm", 5000, 5000);
    queue.push_first("breeze", 6000, 6000);
    queue.push_first("breeze", 6001, 6001);
    assert_eq!(drain(&mut queue)[..6], [0, 5000, 6000, 1, 6001, 2]);
}

#[test]
fn users_of_a_client_take_turns_however_many_keys_they_have() {
    let mut queue = Queue::default();
    for n in 0..50 {
        queue.push_first("web", 1, n);
    }
    queue.push_first("web", 2, 200);
    queue.push_first("web", 3, 300);
    queue.push_first("web", 3, 301);
    assert_eq!(drain(&mut queue)[..6], [0, 200, 300, 1, 301, 2]);
}

#[test]
fn shared_call_leaves_by_the_turn_that_comes_first_and_takes_no_other() {
    let mut queue = Queue::default();
    let places: Vec<_> = (0..20).map(|n| queue.push_first("storm", n, n)).collect();
    queue.push_first("calm", 100, 100);
    queue.add_line(places[15], "calm");
    queue.add_line(places[19], "breeze");
    // The storm's first, then the older of the calm's, then the breeze's.
    assert_eq!(drain(&mut queue)[..6], [0, 15, 19, 1, 100, 2]);
    assert!(queue.is_empty() && queue.lines.next().is_none());
}

#[test]
fn retries_leave_after_the_first_calls_of_their_client_by_turns_of_users() {
    let mut queue = Queue::default();
    for n in 0..3 {
        queue.push_retry("web", 1, n);
    }
    queue.push_retry("web", 2, 10);
    queue.push_first("web", 1, 20);
    assert_eq!(queue.pop(), Some((Class::Waiting, 20)));
    queue.push_first("web", 3, 30);
    assert_eq!(drain(&mut queue), [30, 0, 10, 1, 2]);
}

#[test]
fn retries_of_a_client_keep_its_turns_among_the_clients() {
    let mut queue = Queue::default();
    for n in 0..50 {
        queue.push_first("storm", n, n);
    }
    queue.push_retry("calm", 100, 100);
    queue.push_retry("calm", 101, 101);
    assert_eq!(drain(&mut queue)[..4], [0, 100, 1, 101]);
}

#[test]
fn shedding_takes_a_retry_before_a_first_call() {
    let mut queue = Queue::default();
    queue.push_retry("web", 1, 1);
    queue.push_retry("web", 2, 2);
    for n in 0..3 {
        queue.push_first("web", 3, 30 + n);
    }
    let newest = queue.push_first("web", 4, 40);
    assert_eq!(queue.shed(newest).map(|(_, call)| call), Some(2));
    assert_eq!(queue.shed(newest).map(|(_, call)| call), Some(1));
    assert_eq!(queue.shed(newest).map(|(_, call)| call), Some(32));
}

#[test]
fn shedding_takes_the_last_call_of_the_longest_line() {
    let mut queue = Queue::default();
    for n in 0..3 {
        queue.push_first("storm", n, n);
    }
    let calm = queue.push_first("calm", 7, 7);
    assert_eq!(queue.shed(calm).map(|(_, call)| call), Some(2));
    let calm = queue.push_first("calm", 8, 8);
    assert_eq!(queue.shed(calm), Some((calm, 8)), "a client displaces no call of a client with as many");
    assert_eq!(drain(&mut queue), [0, 7, 1]);
}

#[test]
fn shedding_takes_the_last_key_of_the_user_with_the_most() {
    let mut queue = Queue::default();
    for n in 0..5 {
        queue.push_first("web", 1, n);
    }
    let other = queue.push_first("web", 2, 200);
    assert_eq!(queue.shed(other).map(|(_, call)| call), Some(4));
}

/// The storm's last calls are the calm's first ones.
#[test]
fn shedding_leaves_calls_that_stand_in_a_shorter_line() {
    let mut queue = Queue::default();
    let places: Vec<_> = (0..10).map(|n| queue.push_first("storm", n, n)).collect();
    queue.add_line(places[9], "calm");
    queue.add_line(places[8], "calm");
    let breeze = queue.push_first("breeze", 100, 100);
    assert_eq!(queue.shed(breeze).map(|(_, call)| call), Some(7));
    assert_eq!(drain(&mut queue), [0, 8, 100, 1, 9, 2, 3, 4, 5, 6]);
}

proptest! {
    /// Calls of the first rank keep arriving, and users as well.
    #[test]
    fn renewal_leaves_in_its_turn_however_many_calls_arrive(ranks in prop::collection::vec(rank(), 1..40), users: bool) {
        let mut queue = Queue::default();
        for (number, rank) in ranks.iter().enumerate() {
            queue.push_renewal(*rank, 0, Some(number));
        }
        let each = RENEWAL_SHARE * if users { RENEWAL_SHARE } else { 1 };
        let mut left: Vec<_> = (0..ranks.len()).collect();
        for call in 1u64.. {
            if left.is_empty() {
                break;
            }
            queue.push_renewal(Rank::Renewal(Moment::from_nanos(0)), 0, None);
            if users {
                queue.push_first((), call, None);
            }
            if let Some((_, Some(number))) = queue.pop() {
                left.retain(|other| *other != number);
            }
            prop_assert!(left.iter().all(|number| call < ((number + 1) * each) as u64), "{left:?} after {call}");
        }
    }

    /// Some calls are shared by clients: a shared retry leaves by the turn of one without first calls.
    #[test]
    fn first_calls_never_wait_for_a_retry_of_their_line(
        steps in prop::collection::vec((0u8..4, 0u8..4, 0u64..6, any::<bool>(), 0usize..3), 1..80),
    ) {
        let mut queue = Queue::default();
        let mut waiting: BTreeMap<usize, (Vec<u8>, bool)> = BTreeMap::new();
        let leave = |queue: &mut Queue<u8, usize>, waiting: &mut BTreeMap<usize, (Vec<u8>, bool)>| {
            let Some((_, number)) = queue.pop() else { return Ok(()) };
            let (clients, is_retry) = waiting.remove(&number).expect("it waits");
            let has_first = |client: &u8| waiting.values().any(|(of, is_retry)| !is_retry && of.contains(client));
            prop_assert!(!is_retry || !clients.iter().all(has_first), "{} leaves before {:?}", number, waiting);
            Ok(())
        };
        for (number, (client, other, user, is_retry, pops)) in steps.into_iter().enumerate() {
            let place = queue.push_user(client, user, is_retry, number);
            let clients = if user == 0 { vec![client, other] } else { vec![client] };
            clients.iter().for_each(|client| assert!(queue.add_line(place, *client).is_some()));
            waiting.insert(number, (clients, is_retry));
            for _ in 0..pops {
                leave(&mut queue, &mut waiting)?;
            }
        }
        while !queue.is_empty() {
            leave(&mut queue, &mut waiting)?;
        }
        prop_assert!(waiting.is_empty());
    }

    /// Each user is one of few, or new; some calls are shared by clients, and some are retries.
    #[test]
    fn calls_before_an_arrival_are_bounded_and_exact_for_new_users_of_one_client(
        passed in 0usize..10,
        renewals in 0usize..12,
        users in prop::collection::vec((0u8..5, 0u8..5, 0u64..50, any::<bool>()), 0..40),
        popped in 0usize..8,
        clients in 1u8..5,
        are_new: bool,
        is_retry: bool,
    ) {
        let mut queue = Queue::default();
        for _ in 0..renewals {
            queue.push_renewal(Rank::IN_USE, 0, false);
        }
        (0..passed).for_each(|_| queue.on_user_admitted());
        for (number, (client, other, user, is_retry)) in (1000..).zip(users) {
            let user_number = if are_new { number } else { user % 4 };
            let place = queue.push_user(client % clients, user_number, is_retry, false);
            if user % 3 == 0 {
                queue.add_line(place, other % clients);
            }
        }
        for _ in 0..popped {
            queue.pop();
        }
        let (estimate, last) = (queue.calls_before_new(&0, 1, is_retry), queue.calls_before_last());
        queue.push_user(0, 1, is_retry, true);
        let before = std::iter::from_fn(|| queue.pop()).take_while(|(_, mine)| !mine).count();
        prop_assert!(before <= estimate && estimate <= last);
        prop_assert!(clients > 1 || !are_new || before == estimate);
    }

    /// A client joins one of the calls, a renewal or another's.
    #[test]
    fn calls_before_a_joined_call_are_bounded(
        calls in prop::collection::vec((0u8..4, 0u64..4, 0u8..3), 1..40),
        popped in 0usize..8,
        joined in any::<prop::sample::Index>(),
    ) {
        let mut queue = Queue::default();
        let places: Vec<_> = calls.into_iter().enumerate().map(|(number, (client, user, kind))| match kind {
            0 => queue.push_renewal(Rank::IN_USE, user, number),
            _ => queue.push_user(client, user, kind == 1, number),
        }).collect();
        for _ in 0..popped {
            queue.pop();
        }
        let joined = joined.index(places.len());
        let estimate = queue.calls_before_joined(places[joined], &0);
        prop_assert_eq!(estimate.is_some(), queue.calls.contains_key(&places[joined]));
        queue.add_line(places[joined], 0);
        let before = std::iter::from_fn(|| queue.pop()).take_while(|(_, number)| *number != joined).count();
        prop_assert!(estimate.is_none_or(|estimate| before <= estimate));
    }
}

//! The queue of calls that wait for a permit.

mod order;
mod renewals;

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};

use self::order::RENEWAL_SHARE;
pub use self::order::{Class, Place, Rank};
use self::renewals::Renewals;
use super::budget::Budget;

/// The calls that wait for a permit: those of waiting users first, then renewals by [`Rank`].
///
/// Every tenth call is a renewal. Here, *renewal* means any call without a
/// waiting user: class [`Class::Renewal`] or [`Class::Ahead`].
///
/// Clients (`C`) with waiting users are served round-robin, each in order of arrival, as in the
/// fair queueing of Nagle (RFC 970): a client that sends a thousand new users at once delays its
/// own, and the others by one turn at most.
#[derive(Debug)]
pub struct Queue<C, T> {
    /// The waiting calls of each client; none is empty.
    waiting: BTreeMap<C, BTreeMap<Place, T>>,
    /// The waiting users of all clients.
    users: usize,
    /// The client that was served last; the next in their order is next.
    last: Option<C>,
    renewals: Renewals<T>,
    arrivals: u64,
    /// Calls of waiting users since the last renewal.
    users_since_renewal: usize,
}

impl<C: Ord + Clone, T> Queue<C, T> {
    /// Queues the call of a client's user.
    pub fn push_user(&mut self, client: C, call: T) -> Place {
        let place = self.arrive();
        self.insert_user(client, place, call);
        place
    }

    /// Queues a renewal of this rank.
    pub fn push_renewal(&mut self, rank: Rank, call: T) -> Place {
        let place = self.arrive();
        self.renewals.push(rank, place, call);
        place
    }

    /// Turns a queued renewal into the call of a client's user, at its place of arrival.
    pub fn promote(&mut self, place: Place, client: C) {
        if let Some((_, call)) = self.renewals.remove(place) {
            self.insert_user(client, place, call);
        }
    }

    /// Whether a renewal is queued at this place.
    pub fn has_renewal(&self, place: Place) -> bool {
        self.renewals.contains(place)
    }

    /// Takes out the calls of all waiting users.
    pub fn drop_users(&mut self) -> impl Iterator<Item = T> {
        self.users = 0;
        std::mem::take(&mut self.waiting).into_values().flat_map(BTreeMap::into_values)
    }

    /// Takes out the renewals.
    pub fn drop_renewals(&mut self) -> impl Iterator<Item = T> {
        std::mem::take(&mut self.renewals).into_calls()
    }

    /// Whether no user waits.
    pub const fn is_idle(&self) -> bool {
        self.users == 0
    }

    /// Whether a new user's call would be the next to leave: no other user waits, and no renewal
    /// whose turn it is.
    pub fn is_new_user_next(&self) -> bool {
        self.is_idle() && (self.renewals.is_empty() || !self.is_renewals_turn())
    }

    /// Records that the call of a user leaves.
    pub fn on_user_admitted(&mut self) {
        self.users_since_renewal = if self.renewals.is_empty() { 0 } else { self.users_since_renewal + 1 };
    }

    /// Takes out the next call.
    pub fn pop(&mut self) -> Option<(Class, T)> {
        let renewal_first = self.is_idle() || self.is_renewals_turn();
        if renewal_first && let Some(renewal) = self.renewals.pop() {
            self.users_since_renewal = 0;
            return Some(renewal);
        }
        let call = self.pop_user()?;
        self.on_user_admitted();
        Some((Class::Waiting, call))
    }

    /// An upper bound of the calls that leave before a user who begins to wait now.
    ///
    /// It is exact if no other call comes and all users are of one client.
    pub fn calls_ahead(&self) -> usize {
        self.users + self.renewals.len().min((self.users_since_renewal + self.users) / (RENEWAL_SHARE - 1))
    }

    /// Makes room for a user of `client`: takes out the last call of the client with the most
    /// waiting users, if that has at least two more than `client`.
    pub fn shed_from_largest(&mut self, client: &C) -> Option<T> {
        let own = self.waiting.get(client).map_or(0, BTreeMap::len);
        let (_, calls) = self.waiting.iter_mut().max_by_key(|(_, calls)| calls.len())?;
        // With one more, `client` would then be the largest.
        let (_, call) = if calls.len() > own + 1 { calls.pop_last()? } else { return None };
        self.users -= 1;
        Some(call)
    }

    /// Whether another renewal may be queued: about a second's worth, and one while users wait.
    ///
    /// The others stay in the schedule, where they can still turn out to be needless. With half of it,
    /// the budget may idle while the refresher is late; with twice of it, ranks are two seconds
    /// old when their calls leave.
    pub fn has_room(&self, budget: &Budget) -> bool {
        let most = if self.is_idle() { (budget.rate().ceil() as usize).max(1) } else { 1 };
        self.renewals.len() < most
    }

    /// The number of waiting calls of a class.
    pub fn depth(&self, class: Class) -> usize {
        match class {
            Class::Waiting => self.users,
            Class::Renewal | Class::Ahead => self.renewals.depth(class),
        }
    }

    /// Whether no call waits.
    pub fn is_empty(&self) -> bool {
        self.is_idle() && self.renewals.is_empty()
    }

    const fn is_renewals_turn(&self) -> bool {
        self.users_since_renewal + 1 >= RENEWAL_SHARE
    }

    const fn arrive(&mut self) -> Place {
        self.arrivals += 1;
        Place(self.arrivals)
    }

    fn insert_user(&mut self, client: C, place: Place, call: T) {
        self.users += 1;
        self.waiting.entry(client).or_default().insert(place, call);
    }

    fn pop_user(&mut self) -> Option<T> {
        let next = self.last.as_ref().and_then(|last| self.waiting.range((Excluded(last), Unbounded)).next());
        let client = next.or_else(|| self.waiting.first_key_value())?.0.clone();
        let calls = self.waiting.get_mut(&client)?;
        let (_, call) = calls.pop_first()?;
        if calls.is_empty() {
            self.waiting.remove(&client);
        }
        self.users -= 1;
        self.last = Some(client);
        Some(call)
    }
}

impl<C, T> Default for Queue<C, T> {
    fn default() -> Self {
        let (waiting, renewals) = Default::default();
        Self { waiting, users: 0, last: None, renewals, arrivals: 0, users_since_renewal: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::renewals::tests::rank;
    use super::*;
    use crate::clock::Moment;
    use proptest::prelude::*;

    #[test]
    fn waiting_users_go_before_renewals() {
        let mut queue = Queue::default();
        queue.push_renewal(Rank::IN_USE, "renewal");
        queue.push_user((), "first user");
        queue.push_user((), "second user");
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).map(|(_, call)| call).collect();
        assert_eq!(order, ["first user", "second user", "renewal"]);
    }

    #[test]
    fn one_call_in_ten_is_a_renewal_while_users_wait() {
        let mut queue = Queue::default();
        for n in 0..1000 {
            queue.push_user((), n);
            if n < 50 {
                queue.push_renewal(Rank::IN_USE, n);
            }
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).map(|(class, _)| class).collect();
        for tenth in order[..500].chunks(RENEWAL_SHARE) {
            assert_eq!(tenth.iter().filter(|class| **class == Class::Ahead).count(), 1);
        }
    }

    #[test]
    fn promoted_renewal_is_served_with_the_users() {
        let mut queue = Queue::default();
        let renewal = queue.push_renewal(Rank::IN_USE, "renewal");
        let user = queue.push_user((), "user");
        queue.promote(renewal, ());
        queue.promote(renewal, ());
        queue.promote(user, ());
        assert_eq!(queue.pop(), Some((Class::Waiting, "renewal")));
        assert_eq!(queue.pop(), Some((Class::Waiting, "user")));
    }

    #[test]
    fn clients_take_turns_however_many_users_they_send() {
        let mut queue = Queue::default();
        for n in 0..1000 {
            queue.push_user("storm", n);
        }
        queue.push_user("calm", 5000);
        queue.push_user("breeze", 6000);
        queue.push_user("breeze", 6001);
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).map(|(_, call)| call).take(6).collect();
        assert_eq!(order, [6000, 5000, 0, 6001, 1, 2]);
    }

    #[test]
    fn shedding_takes_the_last_call_of_the_largest_client() {
        let mut queue = Queue::default();
        for n in 0..3 {
            queue.push_user("storm", n);
        }
        assert_eq!(queue.shed_from_largest(&"storm"), None);
        assert_eq!(queue.shed_from_largest(&"calm"), Some(2));
        queue.push_user("calm", 7);
        assert_eq!((queue.shed_from_largest(&"calm"), queue.depth(Class::Waiting)), (None, 3));
    }

    proptest! {
        /// Calls of the first rank keep arriving, and users as well.
        #[test]
        fn renewal_leaves_in_its_turn_however_many_calls_arrive(ranks in prop::collection::vec(rank(), 1..40), users: bool) {
            let mut queue = Queue::default();
            for (number, rank) in ranks.iter().enumerate() {
                queue.push_renewal(*rank, Some(number));
            }
            let each = RENEWAL_SHARE * if users { RENEWAL_SHARE } else { 1 };
            let mut left: Vec<_> = (0..ranks.len()).collect();
            for call in 1.. {
                if left.is_empty() {
                    break;
                }
                queue.push_renewal(Rank::Renewal(Moment::from_nanos(0)), None);
                if users {
                    queue.push_user((), None);
                }
                if let Some((_, Some(number))) = queue.pop() {
                    left.retain(|other| *other != number);
                }
                prop_assert!(left.iter().all(|number| call < (number + 1) * each), "{left:?} after {call}");
            }
        }

        #[test]
        fn calls_ahead_of_an_arrival_are_bounded_and_exact_for_one_client(
            passed in 0usize..10,
            renewals in 0usize..12,
            users in prop::collection::vec(0u8..5, 0..40),
            popped in 0usize..8,
            clients in 1u8..5,
        ) {
            let mut queue = Queue::default();
            for _ in 0..renewals {
                queue.push_renewal(Rank::IN_USE, false);
            }
            (0..passed).for_each(|_| queue.on_user_admitted());
            for user in users {
                queue.push_user(user % clients, false);
            }
            for _ in 0..popped {
                queue.pop();
            }
            let told = queue.calls_ahead();
            queue.push_user(0, true);
            let before = std::iter::from_fn(|| queue.pop()).take_while(|(_, mine)| !mine).count();
            prop_assert!(before <= told);
            prop_assert!(clients > 1 || before == told);
        }
    }
}

//! Who calls Courier next.

mod renewals;

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};

pub use self::renewals::Rank;
use self::renewals::Renewals;
use super::budget::Budget;

/// Why somebody wants to call, in the order in which they are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Somebody waits for the token.
    Waiting,
    /// A token that serves is about to cross its floor.
    Renewal,
    /// Whatever else is fetched before anybody asks for it.
    Ahead,
}

impl Class {
    /// Every class, in the order in which they are served.
    pub const ALL: [Self; 3] = [Self::Waiting, Self::Renewal, Self::Ahead];

    /// The word for logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Renewal => "renewal",
            Self::Ahead => "ahead",
        }
    }
}

/// One call in this many is a renewal's while renewals wait, however many users
/// do: a renewal that starves is a user who waits later. And of the renewals' calls one in
/// this many is that of the renewal which has waited for longest.
pub const RENEWAL_SHARE: usize = 10;

/// The calls that wait for the budget: waiting users first, then renewals by their
/// [`Rank`]; every [`RENEWAL_SHARE`]th call is a renewal's. A *renewal* is here whatever
/// nobody waits for, of class [`Class::Renewal`] or [`Class::Ahead`].
///
/// The clients (`C`) whose users wait take turns, each of them with its users in the
/// order of their arrival: who sends a thousand new users at once delays their own
/// users, and nobody else's by more than a turn.
#[derive(Debug)]
pub struct Queue<C, T> {
    /// Of each client that has any.
    waiting: BTreeMap<C, BTreeMap<Place, T>>,
    /// Users who wait, of all clients.
    users: usize,
    /// The client whose turn was the last. The next is that of the next in their order.
    last: Option<C>,
    renewals: Renewals<T>,
    arrivals: u64,
    /// Calls of waiting users since the last renewal.
    passed: usize,
}

/// A call's place in the queue, by its arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place(u64);

impl<C: Ord + Clone, T> Queue<C, T> {
    /// An empty queue.
    pub fn new() -> Self {
        let (waiting, renewals) = (BTreeMap::new(), Renewals::new());
        Self { waiting, users: 0, last: None, renewals, arrivals: 0, passed: 0 }
    }

    /// Queues the call of a client's user.
    pub fn push_user(&mut self, client: C, call: T) -> Place {
        let place = self.arrive();
        self.wait(client, place, call);
        place
    }

    /// Queues a renewal of this rank.
    pub fn push_renewal(&mut self, rank: Rank, call: T) -> Place {
        let place = self.arrive();
        self.renewals.push(rank, place, call);
        place
    }

    /// A client's user has begun to wait for a renewal that is queued: from now on it
    /// is that user's call, at the place of its arrival.
    pub fn promote(&mut self, place: Place, client: C) {
        if let Some((_, call)) = self.renewals.remove(place) {
            self.wait(client, place, call);
        }
    }

    /// Takes out whoever waits.
    pub fn drop_users(&mut self) -> impl Iterator<Item = T> {
        self.users = 0;
        std::mem::take(&mut self.waiting).into_values().flat_map(BTreeMap::into_values)
    }

    /// Takes the renewals out.
    pub fn drop_renewals(&mut self) -> impl Iterator<Item = T> {
        std::mem::replace(&mut self.renewals, Renewals::new()).into_calls()
    }

    /// No user waits. A renewal that is next for no other reason leaves the reserve to
    /// those who may come; one whose turn it is though users wait does not.
    pub const fn is_idle(&self) -> bool {
        self.users == 0
    }

    /// A user who comes now need not queue, if the budget has a call: no other user
    /// waits, and no renewal whose turn it is though one comes.
    pub fn lets_pass(&self) -> bool {
        self.is_idle() && (self.renewals.is_empty() || !self.is_renewals_turn())
    }

    /// A user's call leaves without queueing.
    pub fn pass(&mut self) {
        // Where no renewal waits, none is passed over.
        self.passed = if self.renewals.is_empty() { 0 } else { self.passed + 1 };
    }

    /// Takes the call whose turn it is.
    pub fn pop(&mut self) -> Option<(Class, T)> {
        let renewal_first = self.is_idle() || self.is_renewals_turn();
        if renewal_first && let Some(renewal) = self.renewals.pop() {
            self.passed = 0;
            return Some(renewal);
        }
        let call = self.pop_user()?;
        self.pass();
        Some((Class::Waiting, call))
    }

    /// At most so many calls go before that of a user who would begin to wait now; exactly
    /// so many, if nobody else comes and all users are of one client.
    pub fn ahead(&self) -> usize {
        self.users + self.renewals.len().min((self.passed + self.users) / (RENEWAL_SHARE - 1))
    }

    /// Where a user of this client finds no room, somebody must go: takes out the last of the
    /// client with the most users who wait, if that has more than this one has.
    pub fn give_way(&mut self, client: &C) -> Option<T> {
        let own = self.waiting.get(client).map_or(0, BTreeMap::len);
        let (_, calls) = self.waiting.iter_mut().max_by_key(|(_, calls)| calls.len())?;
        // With as many it would be its turn to give way.
        let (_, call) = if calls.len() > own + 1 { calls.pop_last()? } else { return None };
        self.users -= 1;
        Some(call)
    }

    /// May another renewal be queued? About as many as a second serves, and only one
    /// while users wait: the others are better kept in the schedule, where it may
    /// turn out that they are not wanted any more.
    pub fn has_room(&self, budget: &Budget) -> bool {
        let most = if self.is_idle() { (budget.rate().ceil() as usize).max(1) } else { 1 };
        self.renewals.len() < most
    }

    /// How many calls of a class wait.
    pub fn depth(&self, class: Class) -> usize {
        match class {
            Class::Waiting => self.users,
            Class::Renewal | Class::Ahead => self.renewals.depth(class),
        }
    }

    /// Nobody waits.
    pub fn is_empty(&self) -> bool {
        self.is_idle() && self.renewals.is_empty()
    }

    const fn is_renewals_turn(&self) -> bool {
        self.passed + 1 >= RENEWAL_SHARE
    }

    const fn arrive(&mut self) -> Place {
        self.arrivals += 1;
        Place(self.arrivals)
    }

    fn wait(&mut self, client: C, place: Place, call: T) {
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

impl<C: Ord + Clone, T> Default for Queue<C, T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn users_who_wait_go_before_renewals() {
        let mut queue = Queue::new();
        queue.push_renewal(Rank::IN_USE, "renewal");
        queue.push_user((), "first user");
        queue.push_user((), "second user");
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).map(|(_, call)| call).collect();
        assert_eq!(order, ["first user", "second user", "renewal"]);
    }

    #[test]
    fn renewals_never_starve() {
        let mut queue = Queue::new();
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
    fn a_renewal_that_somebody_waits_for_goes_with_the_users() {
        let mut queue = Queue::new();
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
        let mut queue = Queue::new();
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
    fn who_has_most_in_the_queue_gives_way() {
        let mut queue = Queue::new();
        for n in 0..3 {
            queue.push_user("storm", n);
        }
        assert_eq!(queue.give_way(&"storm"), None);
        assert_eq!(queue.give_way(&"calm"), Some(2));
        queue.push_user("calm", 7);
        assert_eq!((queue.give_way(&"calm"), queue.depth(Class::Waiting)), (None, 3));
    }

    proptest! {
        #[test]
        fn what_goes_before_an_arrival_is_told(
            passed in 0usize..10,
            renewals in 0usize..12,
            users in prop::collection::vec(0u8..5, 0..40),
            popped in 0usize..8,
            clients in 1u8..5,
        ) {
            let mut queue = Queue::new();
            for _ in 0..renewals {
                queue.push_renewal(Rank::IN_USE, false);
            }
            (0..passed).for_each(|_| queue.pass());
            for user in users {
                queue.push_user(user % clients, false);
            }
            for _ in 0..popped {
                queue.pop();
            }
            let told = queue.ahead();
            queue.push_user(0, true);
            let before = std::iter::from_fn(|| queue.pop()).take_while(|(_, mine)| !mine).count();
            prop_assert!(before <= told);
            prop_assert!(clients > 1 || before == told);
        }
    }
}

//! The queue of calls that wait for a permit.

mod order;
mod renewals;
mod rotation;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use self::order::RENEWAL_SHARE;
pub use self::order::{Class, Place, Rank};
use self::renewals::Renewals;
use self::rotation::Rotation;
use super::budget::Budget;

/// The calls that wait for a permit: those of waiting users first, then renewals by [`Rank`].
///
/// Every tenth call is a renewal. Here, *renewal* means any call of the schedule: class
/// [`Class::Renewal`] or [`Class::Ahead`].
///
/// Clients (`C`) with waiting users take turns, and so do the users within each client, as in the fair
/// queueing of Nagle (RFC 970): a client that sends a thousand new users at once delays its own, and
/// the others by one turn at most. A user with a thousand keys delays the other users of its client
/// by one of the client's turns.
///
/// In the line of a client, a retry leaves after all first calls, also those that come after it: users whose
/// calls fail, and are made five times, take nothing from those whose calls do not.
///
/// A call stands in the line of each client whose users wait for it, and among the renewals if it is one.
/// It leaves by the turn that comes first. The other clients keep their turns: the call costs one permit
/// however many wait for it, so a client that shares one takes nothing from those who do not.
#[derive(Debug)]
pub struct Queue<C, T> {
    calls: BTreeMap<Place, QueuedCall<C, T>>,
    /// The lines of the clients.
    lines: Rotation<C, ClientLine>,
    renewals: Renewals,
    /// The number of calls of each class.
    depths: [usize; Class::ALL.len()],
    /// Numbers the places and the turns.
    arrivals: u64,
    /// Calls of waiting users since the last renewal.
    users_since_renewal: usize,
}

/// A client's first calls, and then its retries.
type ClientLine = [UserLines; 2];
/// The lines of a client's users, each in order of arrival.
type UserLines = Rotation<u64, BTreeSet<Place>>;

#[derive(Debug)]
struct QueuedCall<C, T> {
    call: T,
    /// The user, as a number.
    user: u64,
    is_retry: bool,
    /// The clients whose users wait for it.
    clients: Vec<C>,
    /// The class that it was queued with.
    class: Class,
}

impl<C, T> QueuedCall<C, T> {
    const fn class(&self) -> Class {
        if self.clients.is_empty() { self.class } else { Class::Waiting }
    }
}

impl<C: Ord + Clone, T> Queue<C, T> {
    /// Queues the call for a user's token, in the line of this client.
    pub fn push_user(&mut self, client: C, user: u64, is_retry: bool, call: T) -> Place {
        let place = self.insert(user, is_retry, Class::Waiting, call);
        self.join_line(place, client);
        place
    }

    /// Queues a renewal of this rank.
    pub fn push_renewal(&mut self, rank: Rank, user: u64, call: T) -> Place {
        let place = self.insert(user, false, rank.class(), call);
        self.depths[rank.class() as usize] += 1;
        self.renewals.push(rank, place);
        place
    }

    /// Puts the call at this place into the line of another client, where it stands by its arrival.
    ///
    /// Returns the call, if it is queued.
    pub fn add_line(&mut self, place: Place, client: C) -> Option<&mut T> {
        let call = self.calls.get(&place)?;
        if !call.clients.contains(&client) {
            self.depths[call.class() as usize] -= 1;
            self.join_line(place, client);
        }
        self.calls.get_mut(&place).map(|queued| &mut queued.call)
    }

    /// Takes out the calls of all waiting users.
    pub fn drop_users(&mut self) -> Vec<T> {
        self.drop_users_if(|_| true)
    }

    /// Takes out these calls of waiting users.
    pub fn drop_users_if(&mut self, is_dropped: impl Fn(&T) -> bool) -> Vec<T> {
        self.take_if(|queued| !queued.clients.is_empty() && is_dropped(&queued.call))
    }

    /// Takes out the calls that no user waits for, and the other renewals from among the renewals.
    pub fn drop_renewals(&mut self) -> Vec<T> {
        let calls = self.take_if(|call| call.clients.is_empty());
        self.renewals = Renewals::default();
        calls
    }

    /// Whether no user waits.
    pub const fn is_idle(&self) -> bool {
        self.depth(Class::Waiting) == 0
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

    /// The next call to leave.
    pub fn next(&self) -> Option<&T> {
        let (place, _) = self.next_turn()?;
        self.calls.get(&place).map(|queued| &queued.call)
    }

    /// Takes out the next call.
    pub fn pop(&mut self) -> Option<(Class, T)> {
        let (place, client) = self.next_turn()?;
        if client.is_none() {
            self.renewals.on_turn();
        }
        let QueuedCall { user, is_retry, .. } = *self.calls.get(&place)?;
        let call = self.remove(place)?;
        match client {
            None => self.users_since_renewal = 0,
            Some(client) => {
                let turn = self.arrive();
                self.lines.rotate(&client, turn);
                if let Some(line) = self.lines.get_mut(&client) {
                    line[usize::from(is_retry)].rotate(&user, turn);
                }
                self.on_user_admitted();
            }
        }
        Some(call)
    }

    /// Takes out the next call without its turn.
    pub fn discard_next(&mut self) -> Option<T> {
        let (place, _) = self.next_turn()?;
        self.remove(place).map(|(_, call)| call)
    }

    /// An upper bound of the calls that leave before a user's who begins to wait now.
    ///
    /// It is exact if no other call comes, and all users are new and of one client.
    pub fn calls_before_new(&self, client: &C, user: u64, is_retry: bool) -> usize {
        self.calls_before(client, user, is_retry, Place(self.arrivals + 1))
    }

    /// The same for a user of `client` who joins the call at this place; `None` if no such call is queued.
    pub fn calls_before_joined(&self, place: Place, client: &C) -> Option<usize> {
        self.calls.get(&place).map(|call| self.calls_before(client, call.user, call.is_retry, place))
    }

    /// An upper bound of the calls that leave before the last of the waiting users and one more.
    pub fn calls_before_last(&self) -> usize {
        let users = self.depth(Class::Waiting);
        users + self.renewals_among(users, self.unjoined_renewals())
    }

    /// Takes out the call that would leave last: of the longest line, which is that of the `newest` call
    /// if it is among these.
    ///
    /// A call that stands in a shorter line too stays, since it leaves by the turn of that.
    pub fn shed(&mut self, newest: Place) -> Option<(Place, T)> {
        let last = self.last(newest)?;
        self.remove(last).map(|(_, call)| (last, call))
    }

    /// Whether another renewal may be queued: about a second's worth, and one while users wait.
    ///
    /// The others stay in the schedule, where they can still turn out to be needless. With half of it,
    /// the budget may idle while the refresher is late; with twice of it, ranks are two seconds
    /// old when their calls leave.
    pub fn has_room(&self, budget: &Budget) -> bool {
        let most = if self.is_idle() { (budget.rate().ceil() as usize).max(1) } else { 1 };
        self.unjoined_renewals() < most
    }

    /// The number of waiting calls of a class.
    pub const fn depth(&self, class: Class) -> usize {
        self.depths[class as usize]
    }

    /// Whether no call waits.
    pub fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    const fn is_renewals_turn(&self) -> bool {
        self.users_since_renewal + 1 >= RENEWAL_SHARE
    }

    /// The renewals that no user waits for.
    const fn unjoined_renewals(&self) -> usize {
        self.depth(Class::Renewal) + self.depth(Class::Ahead)
    }

    /// How many of these renewals leave among so many users.
    fn renewals_among(&self, users: usize, renewals: usize) -> usize {
        renewals.min((self.users_since_renewal + users) / (RENEWAL_SHARE - 1))
    }

    const fn arrive(&mut self) -> u64 {
        self.arrivals += 1;
        self.arrivals
    }

    /// The place of the next call, and the client whose turn it is; a renewal has none.
    fn next_turn(&self) -> Option<(Place, Option<C>)> {
        let renewal_first = self.is_idle() || self.is_renewals_turn();
        if renewal_first && let Some(place) = self.renewals.next() {
            return Some((place, None));
        }
        let (client, line) = self.lines.next()?;
        let (_, places) = line.iter().find_map(Rotation::next)?;
        Some((*places.first()?, Some(client.clone())))
    }

    fn calls_before(&self, client: &C, user: u64, is_retry: bool, place: Place) -> usize {
        let turn = self.arrivals + 1;
        let own_calls = |line: &ClientLine| {
            let (first, users) = (&line[0], &line[usize::from(is_retry)]);
            let own = users.get(&user).map_or(0, |places| places.range(..place).count());
            users.calls_before(&user, own, place.0) + if is_retry { first.total() } else { 0 }
        };
        let before = self.lines.calls_before(client, self.lines.get(client).map_or(0, own_calls), turn);
        // A call in several lines was counted in each.
        let before = before.min(self.depth(Class::Waiting));
        before + self.renewals_among(before, self.renewals.len())
    }

    /// The place of the call that would leave last, for [`Queue::shed`].
    fn last(&self, newest: Place) -> Option<Place> {
        let newest = self.calls.get(&newest)?;
        self.lines.longest_first(newest.clients.first()?).find_map(|(client, line)| {
            let least = self.lines.len(client) - 1;
            let is_alike =
                |place: &&Place| self.calls[place].clients.iter().all(|other| self.lines.len(other) >= least);
            let mut users = line.iter().rev().flat_map(|users| users.longest_first(&newest.user));
            users.find_map(|(_, places)| places.iter().rev().find(is_alike).copied())
        })
    }

    fn insert(&mut self, user: u64, is_retry: bool, class: Class, call: T) -> Place {
        let place = Place(self.arrive());
        self.calls.insert(place, QueuedCall { call, user, is_retry, clients: Vec::new(), class });
        place
    }

    /// Puts a call, which is not counted, into the line of a client.
    fn join_line(&mut self, place: Place, client: C) {
        let turn = self.arrive();
        if let Some(call) = self.calls.get_mut(&place) {
            // A client that joins an old call gets no earlier turn by that, but a user does within its client.
            let line = self.lines.add(&client, turn);
            line[usize::from(call.is_retry)].add(&call.user, place.0).insert(place);
            call.clients.push(client);
            self.depths[Class::Waiting as usize] += 1;
        }
    }

    /// Takes a call out of all lines.
    fn remove(&mut self, place: Place) -> Option<(Class, T)> {
        let queued = self.calls.remove(&place)?;
        let class = queued.class();
        self.depths[class as usize] -= 1;
        for client in &queued.clients {
            self.lines.remove(client, |line| {
                line[usize::from(queued.is_retry)].remove(&queued.user, |places| {
                    places.remove(&place);
                });
            });
        }
        self.renewals.remove(place);
        Some((class, queued.call))
    }

    fn take_if(&mut self, is_taken: impl Fn(&QueuedCall<C, T>) -> bool) -> Vec<T> {
        let places: Vec<_> = self.calls.iter().filter(|(_, call)| is_taken(call)).map(|(place, _)| *place).collect();
        places.into_iter().filter_map(|place| self.remove(place)).map(|(_, call)| call).collect()
    }
}

impl<C, T> Default for Queue<C, T> {
    fn default() -> Self {
        let (calls, lines, renewals, depths) = Default::default();
        Self { calls, lines, renewals, depths, arrivals: 0, users_since_renewal: 0 }
    }
}

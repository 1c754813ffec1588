//! Shares of a bounded number of places, so that one caller never takes them all.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::problem::Problem;

/// The places of requests that wait. A request that is answered at once needs none.
///
/// A third of them is for holders that have none. Of the rest, a holder may take another while it holds fewer than
/// it leaves free: alone it gets half of them, and `n` greedy holders get equal shares. (The dynamic threshold of
/// Choudhury and Hahne, 1998, with a factor of one.) That alone would leave nothing after a dozen greedy holders who
/// come one after the other, since each takes half of what is left.
///
/// All sessions together are one holder, and each user is one within what that holder may still take. Users who have
/// none get their first within half of all places, so that they leave as many to clients.
pub struct Places {
    /// At most one entry for each place that is taken.
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    /// How many places there are.
    total: usize,
    all: usize,
    by: HashMap<Holder, usize>,
}

/// An authenticated caller.
#[derive(Clone, Copy, Debug)]
pub enum Caller<'a> {
    /// The client of this name.
    Client(&'a str),
    /// The user of this id, by a session.
    User(&'a str),
}

impl Caller<'_> {
    /// The answer where it has its share.
    pub fn overload(self) -> Problem {
        Problem::Overload(match self {
            Self::Client(name) => Some(name.to_owned()),
            Self::User(_) => None,
        })
    }
}

/// A caller, or all of a kind, whose places are counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Holder {
    Client(String),
    User(String),
    /// All users.
    Sessions,
}

/// Places that are given back on drop.
pub struct Place {
    places: Arc<Places>,
    holder: Holder,
    weight: usize,
}

impl Places {
    /// Creates places, none of which is taken.
    pub fn new(total: usize) -> Arc<Self> {
        Arc::new(Self { taken: Mutex::new(Taken { total, ..Taken::default() }) })
    }

    /// Changes the number of places. Those that are taken stay.
    pub fn set_total(&self, total: usize) {
        self.taken.lock().total = total;
    }

    /// Takes as many places as `weight` says; `None` if the caller has its share.
    pub fn take(self: &Arc<Self>, caller: Caller<'_>, weight: usize) -> Option<Place> {
        let holder = Holder::from(caller);
        self.add(&holder, weight).then(|| Place { places: Arc::clone(self), holder, weight })
    }

    fn add(&self, holder: &Holder, weight: usize) -> bool {
        let mut taken = self.taken.lock();
        let (total, free) = (taken.total, taken.total.saturating_sub(taken.all));
        let shared = free.saturating_sub(total / KEPT);
        let has_room = match (holder, taken.of(holder)) {
            (Holder::User(_), 0) => 2 * taken.of(&Holder::Sessions) < total,
            (Holder::User(_), held) => held < shared.saturating_sub(taken.of(&Holder::Sessions)),
            (_, held) => held == 0 || held < shared,
        };
        if !has_room || weight > free {
            return false;
        }
        taken.all += weight;
        for holder in holder.counted() {
            *taken.by.entry(holder).or_default() += weight;
        }
        true
    }
}

/// One of so many places is kept for holders that have none.
const KEPT: usize = 3;

impl Place {
    /// Takes more places, up to `weight`, as the same holder; returns whether it has them.
    pub fn grow(&mut self, weight: usize) -> bool {
        let more = weight.saturating_sub(self.weight);
        let has_grown = more == 0 || self.places.add(&self.holder, more);
        self.weight += if has_grown { more } else { 0 };
        has_grown
    }
}

impl Taken {
    fn of(&self, holder: &Holder) -> usize {
        self.by.get(holder).copied().unwrap_or_default()
    }
}

impl From<Caller<'_>> for Holder {
    fn from(caller: Caller<'_>) -> Self {
        match caller {
            Caller::Client(name) => Self::Client(name.to_owned()),
            Caller::User(id) => Self::User(id.to_owned()),
        }
    }
}

impl Holder {
    /// The holders in whose share a place counts.
    fn counted(&self) -> impl Iterator<Item = Self> {
        let sessions = matches!(self, Self::User(_)).then_some(Self::Sessions);
        std::iter::once(self.clone()).chain(sessions)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock();
        taken.all -= self.weight;
        for holder in self.holder.counted() {
            if let Some(held) = taken.by.get_mut(&holder) {
                *held -= self.weight;
                if *held == 0 {
                    taken.by.remove(&holder);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use Caller::{Client, User};

    fn take_all(places: &Arc<Places>, caller: Caller<'_>) -> Vec<Place> {
        std::iter::from_fn(|| places.take(caller, 1)).collect()
    }

    #[test]
    fn new_number_of_places_holds_at_once_and_taken_places_stay() {
        let places = Places::new(9);
        let mut held = take_all(&places, Client("a"));
        assert_eq!(held.len(), 3);
        places.set_total(2);
        assert!(places.take(Client("b"), 1).is_none());
        held.clear();
        assert_eq!(take_all(&places, Client("b")).len(), 1);
        places.set_total(90);
        assert_eq!(take_all(&places, Client("a")).len(), 30);
    }

    #[test]
    fn greedy_clients_leave_a_share_for_the_next_one() {
        let places = Places::new(1000);
        let mut held = Vec::new();
        for number in 0..9 {
            let taken = take_all(&places, Client(&number.to_string()));
            assert!(!taken.is_empty(), "{number}");
            held.push(taken);
        }
        assert_eq!(held[0].len(), 334);
        assert_eq!(held[1].len(), 167);
        // They go on as places become free, and settle at equal shares.
        for _ in 0..200 {
            for (number, taken) in held.iter_mut().enumerate() {
                taken.pop();
                taken.extend(take_all(&places, Client(&number.to_string())));
            }
        }
        assert!(take_all(&places, Client("next")).len() >= 25);
    }

    #[test]
    fn greedy_users_leave_a_share_for_other_users_and_for_clients() {
        let places = Places::new(1000);
        let mut held: Vec<_> = (0..50).map(|number| take_all(&places, User(&number.to_string()))).collect();
        assert_eq!(held[0].len(), 223);
        for _ in 0..200 {
            for (number, taken) in held.iter_mut().enumerate() {
                taken.truncate(taken.len().saturating_sub(2));
                taken.extend(take_all(&places, User(&number.to_string())));
            }
        }
        assert!(!take_all(&places, User("99")).is_empty());
        assert!(take_all(&places, Client("app")).len() >= 150);
    }

    /// Each of the first ones takes all that it can at once, before the next one comes.
    #[test]
    fn greedy_holders_who_come_together_leave_first_places_to_others() {
        for (total, accounts) in [(1024, 4), (1024, 30), (16_384, 100)] {
            let places = Places::new(total);
            let take =
                |caller: Caller<'_>, weight| (0..50).map_while(|_| places.take(caller, weight)).collect::<Vec<_>>();
            let name = |number: usize| number.to_string();
            let _users: Vec<_> = (0..accounts).flat_map(|user| take(User(&name(user)), 4)).collect();
            let _clients: Vec<_> = (0..accounts).flat_map(|client| take(Client(&name(client)), 4)).collect();
            let others = 100..140;
            let first = |caller: Caller<'_>| places.take(caller, 1).is_some();
            assert!(others.clone().all(|user| first(User(&name(user)))), "{total}, {accounts}");
            assert!(others.clone().all(|client| first(Client(&name(client)))), "{total}, {accounts}");
        }
    }

    #[test]
    fn users_with_one_place_each_leave_half_to_clients() {
        let places = Places::new(100);
        let users: Vec<_> = (0..100).map_while(|user| places.take(User(&user.to_string()), 1)).collect();
        assert_eq!(users.len(), 50);
        assert!(places.take(Client("app"), 1).is_some());
    }

    #[test]
    fn place_grows_within_the_share() {
        let places = Places::new(30);
        let mut place = places.take(Client("a"), 1).expect("it is free");
        assert!(place.grow(5) && place.grow(3) && place.grow(11));
        assert!(!place.grow(12) && place.grow(11));
        assert_eq!(places.taken.lock().all, 11);
    }

    #[test]
    fn weight_counts_and_comes_back() {
        let places = Places::new(16);
        let large = places.take(Client("a"), 12).expect("it is free");
        assert!(places.take(Client("a"), 1).is_none());
        assert!(places.take(Client("b"), 5).is_none());
        let small = places.take(Client("b"), 1).expect("it is free");
        drop(large);
        assert!(places.take(User("1"), 8).is_some());
        drop(small);
        let taken = places.taken.lock();
        assert_eq!((taken.all, taken.by.len()), (0, 0));
    }

    #[test]
    fn single_place_can_be_taken() {
        let places = Places::new(1);
        for holder in [Client("a"), User("1")] {
            assert_eq!(take_all(&places, holder).len(), 1);
        }
    }
}

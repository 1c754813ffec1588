//! Shares of a bounded number of places, so that one caller never takes them all.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::problem::Problem;

/// The places of requests that wait. A request that is answered at once needs none.
///
/// A holder may take another place while it holds fewer than it leaves free: alone it gets half of them, and `n`
/// greedy holders get `total / (n + 1)` each, so that the next one always finds as many. (The dynamic threshold of
/// Choudhury and Hahne, 1998, with a factor of one.) No share is kept for a client that does not ask.
///
/// All sessions together are one holder, and each user is one within what that holder may still take.
pub struct Places {
    total: usize,
    /// At most one entry for each place that is taken.
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
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
        Arc::new(Self { total, taken: Mutex::default() })
    }

    /// Takes as many places as `weight` says; `None` if the caller has its share.
    pub fn take(self: &Arc<Self>, caller: Caller<'_>, weight: usize) -> Option<Place> {
        let holder = Holder::from(caller);
        let mut taken = self.taken.lock();
        let free = self.total - taken.all;
        let has_room = match &holder {
            Holder::User(_) => {
                let sessions = taken.of(&Holder::Sessions);
                sessions < free && taken.of(&holder) < free - sessions
            }
            _ => taken.of(&holder) < free,
        };
        if !has_room || weight > free {
            return None;
        }
        taken.all += weight;
        for holder in holder.counted() {
            *taken.by.entry(holder).or_default() += weight;
        }
        Some(Place { places: Arc::clone(self), holder, weight })
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
    fn greedy_clients_leave_a_share_for_the_next_one() {
        let places = Places::new(1000);
        let mut held = Vec::new();
        for number in 0..9 {
            let taken = take_all(&places, Client(&number.to_string()));
            assert!(!taken.is_empty(), "{number}");
            held.push(taken);
        }
        assert_eq!(held[0].len(), 500);
        assert_eq!(held[1].len(), 250);
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
        assert_eq!(held[0].len(), 334);
        for _ in 0..200 {
            for (number, taken) in held.iter_mut().enumerate() {
                taken.truncate(taken.len().saturating_sub(2));
                taken.extend(take_all(&places, User(&number.to_string())));
            }
        }
        assert!(!take_all(&places, User("99")).is_empty());
        assert!(take_all(&places, Client("app")).len() >= 200);
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

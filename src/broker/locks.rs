//! The locks of the broker and the order in which a thread takes them.

use std::ops::{Deref, DerefMut};

use parking_lot::{Mutex, MutexGuard};

/// The place of a lock in the order: a thread that holds one takes only later ones.
///
/// So it holds one of each kind at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Order {
    /// A shard of a workspace's table of flights.
    Flights,
    /// The waiters of a flight.
    Waiters,
    /// The state of an entry.
    Entry,
    /// The learner of a workspace.
    Learner,
    /// The demand history of a key.
    Demand,
    /// The schedule of a workspace.
    Schedule,
    /// The draws of a workspace.
    Draws,
    /// The times at which tokens reach their hard floor.
    HardFloors,
    /// The keys of a workspace that may be probed with.
    ProbeCandidates,
    /// The ledger of the key table.
    Ledger,
    /// A shard of an index: of the key table, or of flights by user.
    Index,
    /// The decayed counts of coverage.
    Coverage,
    /// The counts of requests that are held back.
    Holds,
    /// The counts of the last minute.
    Recent,
}

/// A mutex with a place in the order. A debug build panics if a thread breaks the order.
#[derive(Debug)]
pub struct Lock<T> {
    /// A release build has none: it would widen each entry, and its demand.
    #[cfg(debug_assertions)]
    order: Order,
    value: Mutex<T>,
}

impl<T> Lock<T> {
    /// Creates an unlocked lock.
    pub const fn new(order: Order, value: T) -> Self {
        #[cfg(not(debug_assertions))]
        let _ = order;
        Self {
            #[cfg(debug_assertions)]
            order,
            value: Mutex::new(value),
        }
    }

    /// Waits for the lock.
    pub fn lock(&self) -> Guard<'_, T> {
        #[cfg(debug_assertions)]
        let _held = Held::new(self.order);
        Guard {
            value: self.value.lock(),
            #[cfg(debug_assertions)]
            _held,
        }
    }
}

/// A locked value.
pub struct Guard<'a, T> {
    value: MutexGuard<'a, T>,
    #[cfg(debug_assertions)]
    _held: Held,
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

/// The record that this thread holds a lock.
#[cfg(debug_assertions)]
struct Held(Order);

#[cfg(debug_assertions)]
thread_local! {
    /// A bit for each lock that the thread holds.
    static HELD: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}

#[cfg(debug_assertions)]
impl Held {
    fn new(order: Order) -> Self {
        let held = HELD.get();
        assert!(held >> order as u32 == 0, "{order:?} is locked too late: held are {held:#b}");
        HELD.set(held | 1 << order as u32);
        Self(order)
    }
}

#[cfg(debug_assertions)]
impl Drop for Held {
    fn drop(&mut self) {
        HELD.set(HELD.get() & !(1 << self.0 as u32));
    }
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use super::*;

    #[test]
    fn locks_are_taken_in_order_and_released_in_any() {
        let [flights, entry] = [Order::Flights, Order::Entry].map(|order| Lock::new(order, ()));
        for _ in 0..2 {
            let first = flights.lock();
            let second = entry.lock();
            drop(first);
            drop(second);
        }
    }

    #[test]
    #[should_panic(expected = "Flights is locked too late")]
    fn lock_out_of_order_panics() {
        let [flights, entry] = [Order::Flights, Order::Entry].map(|order| Lock::new(order, ()));
        let _entry = entry.lock();
        let _flights = flights.lock();
    }
}

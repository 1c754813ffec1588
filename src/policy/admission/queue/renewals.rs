//! The queued calls without a waiting request, in their order.

use std::collections::{BTreeMap, BTreeSet};

use super::order::{Class, Place, RENEWAL_SHARE, Rank};

/// The queued renewals by rank, then by arrival; one in [`RENEWAL_SHARE`] is the oldest.
///
/// So a renewal that arrives after `n` others is among the next `(n + 1) * RENEWAL_SHARE` to
/// leave, whatever else arrives.
#[derive(Debug)]
pub struct Renewals<T> {
    calls: BTreeMap<Place, (Rank, T)>,
    order: BTreeSet<(Rank, Place)>,
    /// The number of class ahead.
    ahead: usize,
    /// The number that left before the oldest since it became the oldest.
    overtaken: usize,
}

impl<T> Default for Renewals<T> {
    fn default() -> Self {
        Self { calls: BTreeMap::new(), order: BTreeSet::new(), ahead: 0, overtaken: 0 }
    }
}

impl<T> Renewals<T> {
    /// Adds a renewal; places must be in order of arrival.
    pub fn push(&mut self, rank: Rank, place: Place, call: T) {
        self.ahead += usize::from(rank.class() == Class::Ahead);
        self.order.insert((rank, place));
        self.calls.insert(place, (rank, call));
    }

    /// Takes out the renewal at this place.
    pub fn remove(&mut self, place: Place) -> Option<(Class, T)> {
        let oldest = self.oldest()?;
        let (rank, call) = self.calls.remove(&place)?;
        self.order.remove(&(rank, place));
        self.ahead -= usize::from(rank.class() == Class::Ahead);
        if place == oldest {
            self.overtaken = 0;
        }
        Some((rank.class(), call))
    }

    /// Takes out the next renewal.
    pub fn pop(&mut self) -> Option<(Class, T)> {
        let (oldest, (_, first)) = (self.oldest()?, *self.order.first()?);
        let place = if self.overtaken + 1 < RENEWAL_SHARE { first } else { oldest };
        self.overtaken += 1;
        self.remove(place)
    }

    /// Whether there is one at this place.
    pub fn contains(&self, place: Place) -> bool {
        self.calls.contains_key(&place)
    }

    /// The number of renewals.
    pub fn len(&self) -> usize {
        self.calls.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// The number of renewals of a class.
    pub fn depth(&self, class: Class) -> usize {
        match class {
            Class::Waiting => 0,
            Class::Renewal => self.len() - self.ahead,
            Class::Ahead => self.ahead,
        }
    }

    /// All of them.
    pub fn into_calls(self) -> impl Iterator<Item = T> {
        self.calls.into_values().map(|(_, call)| call)
    }

    fn oldest(&self) -> Option<Place> {
        self.calls.first_key_value().map(|(place, _)| *place)
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::clock::Moment;
    use proptest::prelude::*;

    fn at(seconds: u64) -> Moment {
        Moment::from_nanos(seconds * 1_000_000_000)
    }

    /// Ranks of all kinds.
    pub fn rank() -> impl Strategy<Value = Rank> {
        prop_oneof![
            (0u64..100).prop_map(|floor| Rank::Renewal(at(floor))),
            (0u8..100).prop_map(|value| Rank::Ahead(f32::from(value) / 10.0)),
            Just(Rank::IN_USE),
        ]
    }

    /// The order in which calls of these ranks leave, by number.
    fn order(ranks: &[Rank]) -> Vec<usize> {
        let mut renewals = Renewals::default();
        for (number, rank) in ranks.iter().enumerate() {
            renewals.push(*rank, Place(number as u64), number);
        }
        std::iter::from_fn(|| renewals.pop()).map(|(_, number)| number).collect()
    }

    #[test]
    fn nearest_floor_goes_first_and_then_the_highest_value() {
        let ahead = |value| Rank::Ahead(value);
        let floor = |seconds| Rank::Renewal(at(seconds));
        let ranks = [ahead(0.5), floor(30), Rank::IN_USE, ahead(2.0), floor(10), ahead(0.5), floor(20)];
        assert_eq!(order(&ranks), [4, 6, 1, 2, 3, 0, 5]);
    }

    #[test]
    fn rank_follows_the_floor_of_a_usable_token_and_the_value_otherwise() {
        assert_eq!(Rank::of(at(9), Some(3.0), at(8)), Rank::Renewal(at(9)));
        assert_eq!(Rank::of(at(9), Some(3.0), at(9)), Rank::Ahead(3.0));
        assert_eq!(Rank::of(at(9), None, at(9)), Rank::IN_USE);
    }

    proptest! {
        #[test]
        fn first_in_rank_leaves_except_for_one_in_ten(
            waves in prop::collection::vec((prop::collection::vec(rank(), 0..6), 0usize..6), 1..40),
        ) {
            let (mut renewals, mut model, mut arrivals) = (Renewals::default(), Vec::new(), 0);
            let mut exceptions = Vec::new();
            for (ranks, pops) in waves {
                for rank in ranks {
                    arrivals += 1;
                    renewals.push(rank, Place(arrivals), arrivals);
                    model.push((rank, arrivals));
                }
                for _ in 0..pops.min(model.len()) {
                    let (_, went) = renewals.pop().expect("one waits");
                    let first = model.iter().min().expect("one waits").1;
                    exceptions.push(went != first);
                    model.retain(|(_, number)| *number != went);
                }
                for class in Class::ALL {
                    prop_assert_eq!(renewals.depth(class), model.iter().filter(|(rank, _)| rank.class() == class).count());
                }
            }
            let most = exceptions.windows(RENEWAL_SHARE).map(|ten| ten.iter().filter(|odd| **odd).count()).max();
            prop_assert!(most.unwrap_or(0) <= 1);
        }
    }
}

//! The queued calls of the schedule, in their order.

use std::collections::{BTreeMap, BTreeSet};

use super::order::{Place, RENEWAL_SHARE, Rank};

/// The queued renewals by rank, then by arrival; one in [`RENEWAL_SHARE`] is the oldest.
///
/// So a renewal that arrives after `n` others is among the next `(n + 1) * RENEWAL_SHARE` to
/// leave, whatever else arrives.
#[derive(Debug, Default)]
pub struct Renewals {
    ranks: BTreeMap<Place, Rank>,
    order: BTreeSet<(Rank, Place)>,
    /// The number that left before the oldest since it became the oldest.
    overtaken: usize,
}

impl Renewals {
    /// Adds a renewal; places must be in order of arrival.
    pub fn push(&mut self, rank: Rank, place: Place) {
        self.order.insert((rank, place));
        self.ranks.insert(place, rank);
    }

    /// Removes the renewal at this place; returns its rank.
    pub fn remove(&mut self, place: Place) -> Option<Rank> {
        let oldest = self.oldest()?;
        let rank = self.ranks.remove(&place)?;
        self.order.remove(&(rank, place));
        if place == oldest {
            self.overtaken = 0;
        }
        Some(rank)
    }

    /// The place of the next renewal.
    pub fn next(&self) -> Option<Place> {
        let (oldest, (_, first)) = (self.oldest()?, *self.order.first()?);
        Some(if self.overtaken + 1 < RENEWAL_SHARE { first } else { oldest })
    }

    /// Records that the next renewal leaves by its turn. The caller removes it.
    pub const fn on_turn(&mut self) {
        self.overtaken += 1;
    }

    /// The number of renewals.
    pub fn len(&self) -> usize {
        self.ranks.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ranks.is_empty()
    }

    fn oldest(&self) -> Option<Place> {
        self.ranks.first_key_value().map(|(place, _)| *place)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::clock::Moment;
    use proptest::prelude::*;

    fn at(seconds: u64) -> Moment {
        Moment::from_nanos(seconds * 1_000_000_000)
    }

    /// Ranks of every kind.
    pub fn rank() -> impl Strategy<Value = Rank> {
        prop_oneof![
            (0u64..100).prop_map(|floor| Rank::Renewal(at(floor))),
            (0u8..100).prop_map(|value| Rank::ahead(f32::from(value) / 10.0)),
            Just(Rank::IN_USE),
        ]
    }

    fn pop(renewals: &mut Renewals) -> Option<Place> {
        let place = renewals.next()?;
        renewals.on_turn();
        renewals.remove(place).map(|_| place)
    }

    /// The order in which calls of these ranks leave, by number.
    fn order(ranks: &[Rank]) -> Vec<usize> {
        let mut renewals = Renewals::default();
        for (number, rank) in ranks.iter().enumerate() {
            renewals.push(*rank, Place(number as u64));
        }
        std::iter::from_fn(|| pop(&mut renewals)).map(|Place(number)| number as usize).collect()
    }

    #[test]
    fn nearest_floor_goes_first_and_then_the_highest_value() {
        let ahead = Rank::ahead;
        let floor = |seconds| Rank::Renewal(at(seconds));
        let ranks = [ahead(0.5), floor(30), Rank::IN_USE, ahead(2.0), floor(10), ahead(0.5), floor(20)];
        assert_eq!(order(&ranks), [4, 6, 1, 2, 3, 0, 5]);
    }

    #[test]
    fn rank_follows_the_floor_of_a_usable_token_and_the_value_otherwise() {
        assert_eq!(Rank::of(at(9), Some(3.0), at(8)), Rank::Renewal(at(9)));
        assert_eq!(Rank::of(at(9), Some(3.0), at(9)), Rank::ahead(3.0));
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
                    renewals.push(rank, Place(arrivals));
                    model.push((rank, arrivals));
                }
                for _ in 0..pops.min(model.len()) {
                    let Place(went) = pop(&mut renewals).expect("one waits");
                    let first = model.iter().min().expect("one waits").1;
                    exceptions.push(went != first);
                    model.retain(|(_, number)| *number != went);
                }
                prop_assert_eq!(renewals.len(), model.len());
            }
            let most = exceptions.windows(RENEWAL_SHARE).map(|ten| ten.iter().filter(|odd| **odd).count()).max();
            prop_assert!(most.unwrap_or(0) <= 1);
        }
    }
}

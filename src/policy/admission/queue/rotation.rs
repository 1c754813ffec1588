//! Round-robin turns.

use std::collections::BTreeMap;

/// Lines `L` of keys `K` that take turns: none is served twice while another waits to be served.
///
/// A new line is served after all others. It counts the calls of each line; the line itself holds them.
#[derive(Debug)]
pub struct Rotation<K, L> {
    /// No line is empty.
    lines: BTreeMap<K, Line<L>>,
    /// The lines in the order of their next turns.
    order: BTreeMap<u64, K>,
    /// The number of lines with at least one call, with at least two, and so on.
    lengths: Vec<usize>,
}

#[derive(Debug)]
struct Line<L> {
    turn: u64,
    len: usize,
    calls: L,
}

impl<K: Ord + Clone, L: Default> Rotation<K, L> {
    /// Counts another call of this line, to which the caller adds it. A new line gets this `turn`.
    pub fn add(&mut self, key: &K, turn: u64) -> &mut L {
        let line = self.lines.entry(key.clone()).or_insert_with(|| {
            self.order.insert(turn, key.clone());
            Line { turn, len: 0, calls: L::default() }
        });
        match self.lengths.get_mut(line.len) {
            Some(lines) => *lines += 1,
            None => self.lengths.push(1),
        }
        line.len += 1;
        &mut line.calls
    }

    /// Takes a call out of this line by `take`, and drops the line if that was the last one.
    pub fn remove(&mut self, key: &K, take: impl FnOnce(&mut L)) {
        let Some(line) = self.lines.get_mut(key) else { return };
        take(&mut line.calls);
        line.len -= 1;
        self.lengths[line.len] -= 1;
        if self.lengths[line.len] == 0 {
            self.lengths.pop();
        }
        if line.len == 0 {
            self.order.remove(&line.turn);
            self.lines.remove(key);
        }
    }

    /// Changes a line in place.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut L> {
        self.lines.get_mut(key).map(|line| &mut line.calls)
    }

    /// The calls of a line.
    pub fn get(&self, key: &K) -> Option<&L> {
        self.lines.get(key).map(|line| &line.calls)
    }

    /// The line that is served next.
    pub fn next(&self) -> Option<(&K, &L)> {
        let (_, key) = self.order.first_key_value()?;
        Some((key, self.get(key)?))
    }

    /// Gives a line that was served its next turn, after all others.
    pub fn rotate(&mut self, key: &K, turn: u64) {
        if let Some(line) = self.lines.get_mut(key) {
            self.order.remove(&line.turn);
            line.turn = turn;
            self.order.insert(turn, key.clone());
        }
    }

    /// The lines by length, the longest first; among equals the preferred one, then those whose turns are last.
    pub fn longest_first(&self, preferred: &K) -> impl Iterator<Item = (&K, &L)> {
        let preferred = self.lines.get_key_value(preferred).map(|(key, _)| key);
        (1..=self.lengths.len()).rev().flat_map(move |len| {
            let others = self.order.values().rev().filter(move |key| Some(*key) != preferred);
            let keys = preferred.into_iter().chain(others).filter(move |key| self.len(key) == len);
            keys.filter_map(|key| Some((key, self.get(key)?)))
        })
    }

    /// The number of calls that leave before one that has `own` calls before it in its line.
    ///
    /// An upper bound if the line is there: the others are taken to have their turns first. For a new
    /// line, which gets this `turn`, it is exact.
    pub fn calls_before(&self, key: &K, own: usize, turn: u64) -> usize {
        match self.len(key) {
            0 => self.order.len() - self.order.range(turn..).count(),
            len => own + self.lengths.iter().take(own + 1).sum::<usize>() - len.min(own + 1),
        }
    }

    /// The number of calls in all lines.
    pub fn total(&self) -> usize {
        self.lengths.iter().sum()
    }

    /// The number of calls in a line.
    pub fn len(&self, key: &K) -> usize {
        self.lines.get(key).map_or(0, |line| line.len)
    }
}

impl<K, L> Default for Rotation<K, L> {
    fn default() -> Self {
        Self { lines: BTreeMap::new(), order: BTreeMap::new(), lengths: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Adds calls of these lines in order.
    fn rotation(keys: &[u8]) -> Rotation<u8, usize> {
        let mut rotation = Rotation::default();
        for (turn, key) in keys.iter().enumerate() {
            *rotation.add(key, 2 * turn as u64) += 1;
        }
        rotation
    }

    /// The lines in the order in which they are served until all are empty.
    fn served(mut rotation: Rotation<u8, usize>) -> Vec<u8> {
        let mut order = Vec::new();
        for turn in 1000.. {
            let Some((key, _)) = rotation.next() else { break };
            let key = *key;
            order.push(key);
            rotation.remove(&key, |calls| *calls -= 1);
            rotation.rotate(&key, turn);
        }
        order
    }

    #[test]
    fn lines_are_served_by_turns_in_the_order_of_arrival() {
        assert_eq!(served(rotation(&[7, 7, 7, 3, 5, 5])), [7, 3, 5, 7, 5, 7]);
    }

    #[test]
    fn lines_are_listed_by_length_with_the_preferred_one_first_among_equals() {
        let listed = |keys: &[u8], preferred| -> Vec<_> {
            rotation(keys).longest_first(&preferred).map(|(key, _)| *key).collect()
        };
        assert_eq!(listed(&[1, 1, 2, 2, 3], 1), [1, 2, 3]);
        assert_eq!(listed(&[1, 1, 2, 2, 3], 3), [2, 1, 3]);
        assert!(listed(&[], 3).is_empty());
    }

    proptest! {
        #[test]
        fn calls_before_an_arrival_are_bounded_and_exact_for_a_new_line(
            keys in prop::collection::vec(0u8..6, 0..40), key in 0u8..7, turn in 0u64..50,
        ) {
            let (mut rotation, turn) = (rotation(&keys), 2 * turn + 1);
            let own = rotation.get(&key).copied().unwrap_or_default();
            let estimate = rotation.calls_before(&key, own, turn);
            *rotation.add(&key, turn) += 1;
            let order = served(rotation);
            let before = (0..order.len()).filter(|place| order[*place] == key).nth(own).expect("it is served");
            prop_assert!(before <= estimate, "{} calls, {} estimate", before, estimate);
            prop_assert!(own > 0 || before == estimate);
        }
    }
}

//! Work on several threads.

use std::num::NonZero;
use std::sync::mpsc;
use std::{io, thread};

use parking_lot::Mutex;

/// The most threads that work: with more of them, what they share is the slowest.
const MOST: usize = 8;
/// How many items or results of a thread wait at most.
const WAITING: usize = 2;

/// Calls `work` with each item on several threads, in no order, until it returns false for one.
pub fn for_each<T>(items: impl Iterator<Item = T> + Send, work: impl Fn(T) -> bool + Sync) {
    let items = Mutex::new(Some(items));
    let run = || {
        loop {
            let Some(item) = items.lock().as_mut().and_then(Iterator::next) else { return };
            if !work(item) {
                *items.lock() = None;
            }
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads() {
            // Without another thread, this one does all the work.
            let _ = thread::Builder::new().name("store-load".to_owned()).spawn_scoped(scope, run);
        }
        run();
    });
}

fn threads() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get).min(MOST)
}

/// Calls `work` with each item on several threads, and `take` with each result on this one, in the order of the items.
///
/// Another thread calls the iterator. All end when there are no more items, or when `take` returns false.
pub fn for_each_in_order<T: Send, R: Send>(
    items: impl Iterator<Item = T> + Send,
    work: impl Fn(T) -> R + Sync,
    mut take: impl FnMut(R) -> bool,
) -> io::Result<()> {
    let spawn = || thread::Builder::new().name("store-load".to_owned());
    let work = &work;
    thread::scope(|scope| {
        // Each thread has channels of its own, which are used in turn: that keeps the order.
        let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
        for _ in 0..threads() {
            let (input, waiting) = mpsc::sync_channel(WAITING);
            let (done, output) = mpsc::sync_channel(WAITING);
            // Sending fails when the receiver is gone, which means to stop.
            spawn().spawn_scoped(scope, move || waiting.into_iter().try_for_each(|item| done.send(work(item))))?;
            inputs.push(input);
            outputs.push(output);
        }
        spawn().spawn_scoped(scope, move || {
            items.zip(inputs.iter().cycle()).try_for_each(|(item, input)| input.send(item))
        })?;
        let mut results = outputs.iter().cycle().map_while(|output| output.recv().ok());
        while results.next().is_some_and(&mut take) {}
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_item_is_worked_on_once_until_one_is_refused() {
        let worked = Mutex::new(Vec::new());
        for_each(0..1000, |item| {
            worked.lock().push(item);
            true
        });
        let mut all = worked.into_inner();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..1000));
        for_each(0.., |item: u64| item < 100);
    }

    #[test]
    fn results_come_in_order_until_the_last_or_the_first_refused() {
        for (items, refused) in [(0, 100), (1, 100), (100, 100), (1000, 100), (100_000, 7)] {
            let mut taken = Vec::new();
            let take = |result: u64| {
                taken.push(result);
                result < refused
            };
            for_each_in_order(0..items, |item| item * 2, take).expect("threads");
            let expected: Vec<_> = (0..items).map(|item| item * 2).collect();
            let last = expected.iter().position(|result| *result >= refused).map_or(expected.len(), |place| place + 1);
            assert_eq!(taken, expected[..last]);
        }
    }
}

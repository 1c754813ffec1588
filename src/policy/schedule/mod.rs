//! The schedule of due times: a timer wheel.

mod nodes;

pub use self::nodes::Ticket;
use self::nodes::{Home, List, Nodes};
use crate::clock::Moment;

/// A hierarchical timer wheel for millions of items (Varghese and Lauck, 1987, scheme 7).
///
/// Adding, removing and popping take constant time: each pop cascades at most a few hundred
/// items to a finer level, so no call waits for all of them. The wheel is given the time and
/// holds no clock: [`Schedule::next`] says when to pop again, and an early pop is harmless. No
/// item comes out before it is due, and at most a tick (about a millisecond) after it, if `pop`
/// is called until `next` is in the future.
#[derive(Debug)]
pub struct Schedule<T> {
    /// The tick up to which the wheel has turned.
    turned: u64,
    levels: [Level; LEVELS],
    /// The slot whose time has come, while its items are cascaded.
    moving: Option<Home>,
    /// Items that are due, in that order.
    ready: List,
    nodes: Nodes<T>,
    len: usize,
}

/// 64 slots, each as wide as the whole level below it.
#[derive(Debug)]
struct Level {
    /// A bit for each slot that is not empty.
    occupied: u64,
    slots: [List; SLOTS],
}

/// 2^20 nanoseconds: a tick is 1.05 ms.
const TICK_BITS: u32 = 20;
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
/// Eight levels hold every tick that a [`Moment`] can name.
const LEVELS: usize = (u64::BITS - TICK_BITS).div_ceil(SLOT_BITS) as usize;

/// The most nodes that a pop cascades: about 0.1 ms under the schedule's lock. Few in tests, so
/// that slots are often half cascaded.
const STEP: usize = if cfg!(test) { 3 } else { 256 };

impl<T> Schedule<T> {
    /// An empty schedule.
    pub const fn new() -> Self {
        Self {
            turned: 0,
            levels: [const { Level { occupied: 0, slots: [List::EMPTY; SLOTS] } }; LEVELS],
            moving: None,
            ready: List::EMPTY,
            nodes: Nodes::new(),
            len: 0,
        }
    }

    /// Schedules an item.
    pub fn add(&mut self, due: Moment, item: T) -> Ticket {
        let due = (due.as_nanos() >> TICK_BITS).saturating_add(1);
        let node = self.nodes.add(due, item);
        self.len += 1;
        self.place(node);
        self.nodes.ticket(node)
    }

    /// Removes an item before it is due; `None` if it is out already.
    pub fn remove(&mut self, ticket: Ticket) -> Option<T> {
        let node = self.nodes.find(ticket)?;
        self.unlink(node);
        self.release(node)
    }

    /// Takes out the next item that is due by `now`, with its due time to the tick.
    ///
    /// `None` if there is none, or none was found yet: then [`Schedule::next`] is not after `now`.
    pub fn pop(&mut self, now: Moment) -> Option<(Moment, T)> {
        self.pop_with_ticket(now).map(|(due, _, item)| (due, item))
    }

    /// Takes out the next item that is due by `now`, as [`Schedule::pop`] does, with its ticket, which is void now.
    pub fn pop_with_ticket(&mut self, now: Moment) -> Option<(Moment, Ticket, T)> {
        self.turn(now.as_nanos() >> TICK_BITS);
        let node = self.ready.first()?;
        let due = Moment::from_nanos(self.nodes.due(node) << TICK_BITS);
        let ticket = self.nodes.ticket(node);
        self.unlink(node);
        Some((due, ticket, self.release(node)?))
    }

    /// Takes out the next item that is due by `now`, however many nodes must be cascaded for it.
    pub fn take(&mut self, now: Moment) -> Option<T> {
        while self.next().is_some_and(|next| next <= now) {
            if let Some((_, item)) = self.pop(now) {
                return Some(item);
            }
        }
        None
    }

    /// When to call [`Schedule::pop`] next: at the next due time or earlier.
    ///
    /// `None` if the schedule is empty and nothing is left to cascade.
    pub fn next(&self) -> Option<Moment> {
        if !self.ready.is_empty() || self.moving.is_some() {
            return Some(Moment::from_nanos(self.turned << TICK_BITS));
        }
        let (level, slot) = self.first_slot()?;
        Some(Moment::from_nanos(self.start(level, slot).saturating_mul(1 << TICK_BITS)))
    }

    /// The number of scheduled items.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is scheduled.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Turns the wheel by one step: due items go to `ready`, others cascade to a finer level.
    fn turn(&mut self, now: u64) {
        let mut moved = 0;
        loop {
            while let Some(home) = self.moving {
                match self.list(home).0.first() {
                    None => self.moving = None,
                    Some(_) if moved == STEP => return,
                    Some(node) => {
                        self.unlink(node);
                        self.place(node);
                        moved += 1;
                    }
                }
            }
            let Some((level, slot)) = self.first_slot() else { break };
            let start = self.start(level, slot);
            if start > now {
                break;
            }
            self.turned = start;
            self.moving = Some(Home::Slot { level: level as u8, slot: slot as u8 });
        }
        self.turned = self.turned.max(now);
    }

    /// The slot whose time comes first. A coarser level's slots all begin after
    /// the finer level's have ended.
    fn first_slot(&self) -> Option<(usize, usize)> {
        let level = self.levels.iter().position(|level| level.occupied != 0)?;
        Some((level, self.levels[level].occupied.trailing_zeros() as usize))
    }

    /// The first tick of a slot that lies ahead.
    const fn start(&self, level: usize, slot: usize) -> u64 {
        let below = level as u32 * SLOT_BITS;
        let turn = self.turned & !((1u64 << (below + SLOT_BITS)) - 1);
        turn | (slot as u64) << below
    }

    /// The list for a due time: the level of the highest group of bits in which it differs from
    /// the present, and the slot that this group names.
    const fn home(&self, due: u64) -> Home {
        if due <= self.turned {
            return Home::Ready;
        }
        let level = (u64::BITS - 1 - (due ^ self.turned).leading_zeros()) / SLOT_BITS;
        let slot = (due >> (level * SLOT_BITS)) as usize % SLOTS;
        Home::Slot { level: level as u8, slot: slot as u8 }
    }

    const fn list(&mut self, home: Home) -> (&mut List, &mut Nodes<T>) {
        let list = match home {
            Home::Ready => &mut self.ready,
            Home::Slot { level, slot } => &mut self.levels[level as usize].slots[slot as usize],
        };
        (list, &mut self.nodes)
    }

    /// Links a node into the list for its due time.
    fn place(&mut self, node: u32) {
        let home = self.home(self.nodes.due(node));
        if let Home::Slot { level, slot } = home {
            self.levels[level as usize].occupied |= 1 << slot;
        }
        let (list, nodes) = self.list(home);
        nodes.link(node, list, home);
    }

    /// Unlinks a node from its list.
    fn unlink(&mut self, node: u32) {
        let home = self.nodes.home(node);
        let (list, nodes) = self.list(home);
        nodes.unlink(node, list);
        if list.is_empty()
            && let Home::Slot { level, slot } = home
        {
            self.levels[level as usize].occupied &= !(1 << slot);
        }
    }

    fn release(&mut self, node: u32) -> Option<T> {
        self.len -= 1;
        self.nodes.release(node)
    }
}

impl<T> Default for Schedule<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn at(seconds: f64) -> Moment {
        Moment::from_nanos(0) + Duration::from_secs_f64(seconds)
    }

    #[test]
    fn item_comes_out_when_it_is_due_and_not_before() {
        let mut schedule = Schedule::new();
        schedule.add(at(3600.0), "hour");
        schedule.add(at(1.0), "second");
        schedule.add(at(2_592_000.0), "month");
        assert_eq!(schedule.take(at(0.999)), None);
        assert_eq!(schedule.take(at(1.002)), Some("second"));
        assert_eq!(schedule.take(at(3599.9)), None);
        assert_eq!(schedule.take(at(3_000_000.0)), Some("hour"));
        assert_eq!(schedule.take(at(3_000_000.0)), Some("month"));
        assert_eq!(schedule.take(at(3_000_000.0)), None);
        assert!(schedule.is_empty());
        assert_eq!(schedule.next(), None);
    }

    #[test]
    fn overdue_items_come_out_at_once_in_order_of_insertion() {
        let mut schedule = Schedule::new();
        assert_eq!(schedule.pop(at(100.0)), None);
        schedule.add(at(50.0), 1);
        schedule.add(at(20.0), 2);
        let order: Vec<_> = std::iter::from_fn(|| schedule.pop(at(100.1))).map(|(_, item)| item).collect();
        assert_eq!(order, [1, 2]);
    }

    #[test]
    fn removed_item_never_comes_out_and_its_ticket_is_void() {
        let mut schedule = Schedule::new();
        let ticket = schedule.add(at(5.0), "old");
        assert_eq!(schedule.remove(ticket), Some("old"));
        assert_eq!(schedule.remove(ticket), None);
        let other = schedule.add(at(5.0), "new");
        assert_ne!(ticket, other);
        assert_eq!(schedule.remove(ticket), None);
        assert_eq!(schedule.pop_with_ticket(at(6.0)).map(|(_, ticket, item)| (ticket, item)), Some((other, "new")));
        assert_eq!(schedule.remove(other), None);
    }

    #[test]
    fn schedule_accepts_the_end_of_the_clock() {
        let mut schedule = Schedule::new();
        schedule.add(Moment::NEVER, ());
        assert_eq!(schedule.pop(at(1e9)), None);
        assert!(schedule.next() > Some(at(1e9)));
    }

    #[test]
    fn pop_cascades_one_step_at_most_and_loses_no_item() {
        let (mut schedule, many) = (Schedule::new(), 10 * STEP);
        let tickets: Vec<_> = (0..many).map(|n| schedule.add(at(5000.0 + n as f64 / 100.0), n)).collect();
        let placed =
            |schedule: &Schedule<_>| (0..many as u32).map(|node| schedule.nodes.home(node)).collect::<Vec<_>>();
        let (mut pops, mut came) = (0, vec![1, many - 2]);
        while schedule.next().is_some_and(|next| next <= at(6000.0)) {
            let before = placed(&schedule);
            came.extend(schedule.pop(at(6000.0)).map(|(_, n)| n));
            let moved = placed(&schedule).iter().zip(before).filter(|(now, before)| *now != before).count();
            assert!(moved <= STEP, "{moved}");
            pops += 1;
            if pops == 3 {
                assert!(schedule.remove(tickets[1]).is_some() && schedule.remove(tickets[many - 2]).is_some());
                schedule.add(at(5000.0), many);
            }
        }
        came.sort_unstable();
        assert!(came.into_iter().eq(0..=many) && schedule.is_empty());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Add(u64),
        Remove(prop::sample::Index),
        Advance(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        // Times of every magnitude, so that every level is used.
        let nanos = || (0u32..62, any::<u64>()).prop_map(|(bits, noise)| noise % (1 << bits));
        prop_oneof![
            4 => nanos().prop_map(Step::Add),
            1 => any::<prop::sample::Index>().prop_map(Step::Remove),
            2 => nanos().prop_map(|by| Step::Advance(by / 64)),
        ]
    }

    /// The resolution: the most that an item comes out late.
    const TICK: Duration = Duration::from_nanos(1 << TICK_BITS);

    proptest! {
        /// Against a list that is searched: same items, none early, none more
        /// than a tick late, and `next` never oversleeps.
        #[test]
        fn wheel_behaves_as_a_sorted_list(steps in prop::collection::vec(step(), 1..120)) {
            let mut schedule = Schedule::new();
            let mut model: Vec<(Ticket, (Moment, usize))> = Vec::new();
            let mut now = Moment::from_nanos(0);
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Add(after) => {
                        let due = now + Duration::from_nanos(after);
                        model.push((schedule.add(due, (due, number)), (due, number)));
                    }
                    Step::Remove(which) if !model.is_empty() => {
                        let (ticket, item) = model.swap_remove(which.index(model.len()));
                        prop_assert_eq!(schedule.remove(ticket), Some(item));
                    }
                    Step::Remove(_) => {}
                    Step::Advance(by) => now = now + Duration::from_nanos(by),
                }
                if let Some(first) = model.iter().map(|(_, (due, _))| *due).min() {
                    let next = schedule.next();
                    prop_assert!(next.is_some_and(|next| next <= first.max(now) + TICK));
                }
                while schedule.next().is_some_and(|next| next <= now) {
                    let Some((since, item)) = schedule.pop(now) else { continue };
                    let due = item.0;
                    prop_assert!(due <= since && since <= now && since <= due + TICK);
                    let place = model.iter().position(|(_, other)| *other == item);
                    prop_assert!(place.is_some());
                    model.swap_remove(place.unwrap_or_default());
                }
                for (_, (due, _)) in &model {
                    prop_assert!(*due + TICK > now);
                }
                prop_assert_eq!(schedule.len(), model.len());
            }
        }
    }
}

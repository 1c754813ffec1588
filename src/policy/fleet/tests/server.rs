//! The store's half of one budget, as its scripts have it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::rule::{Rule, Rules};
use crate::policy::fleet::member::{BeatAnswer, LIVE, MISSING, Request, UP};
use crate::policy::fleet::permits::{PurseAnswer, PurseRequest};
use crate::policy::fleet::{ServerTime, Share};

/// The bucket and the members. Each method is one script, and is given the store's clock.
#[derive(Debug)]
pub struct Server {
    rules: Rules,
    /// The bucket's theoretical arrival time, and the tolerance that it was counted with, in microseconds.
    bucket: Option<(u64, u64)>,
    members: BTreeMap<usize, Entry>,
    /// When the list of members was made.
    founded: u64,
    /// The members that the brokers remember from before.
    remembered: u32,
    /// The largest share of one of them that the brokers remember.
    largest: u32,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// The last join or beat, in microseconds.
    seen: u64,
    has_beaten: bool,
    /// It was a member before the list was made. Others take nobody's place among those that the brokers remember.
    is_remembered: bool,
    /// The share that was answered last, and the one before: the member uses one of them.
    shares: [u32; 2],
}

impl Entry {
    fn share(&self) -> u32 {
        self.shares[0].max(self.shares[1])
    }
}

impl Server {
    pub const fn new(rules: Rules) -> Self {
        Self { rules, bucket: None, members: BTreeMap::new(), founded: 0, remembered: 0, largest: 0 }
    }

    /// Whether no member is known.
    pub fn is_new(&self) -> bool {
        self.members.is_empty()
    }

    /// Takes permits out of the bucket, as many as it has of those that are wanted.
    pub fn take(&mut self, request: &PurseRequest, now: ServerTime) -> PurseAnswer {
        let now = now.as_micros();
        let period = u64::try_from(request.period.as_nanos()).expect("a period");
        let budget = micros(request.tolerance);
        let tolerance = budget.max(period.div_ceil(1000));
        let absent = if self.rules.hold(Rule::AbsentIsEmpty) { now + tolerance } else { now };
        let arrival = self.arrival(now, budget).unwrap_or(absent).max(now);
        let room = |arrival: u64| ((now + tolerance).saturating_sub(arrival) * 1000 / period) as u32;
        let permits = room(arrival).min(request.permits);
        let arrival = arrival + (u64::from(permits) * period).div_ceil(1000);
        self.bucket = Some((arrival, budget));
        let wait = (arrival + period.div_ceil(1000)).saturating_sub(now + tolerance);
        PurseAnswer { permits, left: room(arrival), wait: Duration::from_micros(wait) }
    }

    /// Empties the bucket.
    pub fn empty(&mut self, tolerance: Duration, now: ServerTime) {
        if self.rules.hold(Rule::JoinEmpties) {
            let (now, tolerance) = (now.as_micros(), micros(tolerance));
            let arrival = self.arrival(now, tolerance).unwrap_or_default().max(now + tolerance);
            self.bucket = Some((arrival, tolerance));
        }
    }

    /// The arrival time for this tolerance. For another budget the same part of the burst is left.
    fn arrival(&self, now: u64, tolerance: u64) -> Option<u64> {
        let (arrival, counted) = self.bucket?;
        let used = arrival.saturating_sub(now).min(counted);
        let part = || (used as f64 * tolerance as f64 / counted as f64).ceil() as u64;
        Some(if counted == tolerance { arrival } else { now + part() })
    }

    /// Executes a join, a beat or a goodbye. `None` to a beat says that it is void.
    pub fn member(&mut self, id: usize, request: Request, now: ServerTime) -> Option<BeatAnswer> {
        match request {
            Request::Join { share, members, largest } => {
                self.join(id, share.parts(), (members, largest.parts()), now.as_micros());
                Some(BeatAnswer { seen: now, members: 0, largest, share, live: Share::NONE })
            }
            Request::Beat { seen } => self.beat(id, seen.as_micros(), now.as_micros()),
            Request::Leave { seen } => {
                if self.members.get(&id).is_some_and(|entry| entry.seen == seen.as_micros()) {
                    self.members.remove(&id);
                }
                None
            }
        }
    }

    fn join(&mut self, id: usize, share: u32, (members, largest): (u32, u32), now: u64) {
        if self.members.is_empty() {
            (self.founded, self.remembered, self.largest) = (now, 0, 0);
        }
        if self.is_young(now) && self.rules.hold(Rule::RememberedCounted) {
            (self.remembered, self.largest) = (self.remembered.max(members), self.largest.max(largest));
        }
        let is_remembered = members > 0 || self.members.get(&id).is_some_and(|entry| entry.is_remembered);
        self.members.insert(id, Entry { seen: now, has_beaten: false, is_remembered, shares: [share; 2] });
    }

    fn beat(&mut self, id: usize, seen: u64, now: u64) -> Option<BeatAnswer> {
        let entry = self.members.get_mut(&id)?;
        let is_late = entry.seen != seen || now < seen || now - seen > micros(UP);
        if is_late && self.rules.hold(Rule::LateBeatIsVoid) {
            return None;
        }
        (entry.seen, entry.has_beaten, entry.shares[1]) = (now, true, entry.shares[0]);
        self.members.retain(|_, entry| entry.seen.abs_diff(now) <= micros(MISSING));
        let known = self.members.len() as u32;
        let back = self.members.values().filter(|entry| entry.is_remembered).count() as u32;
        let forgotten = if self.is_young(now) { self.remembered.saturating_sub(back) } else { 0 };
        let equal = Share::of_each(self.remembered).parts();
        let each = if self.rules.hold(Rule::LargestCounted) { self.largest } else { equal };
        let is_live = |entry: &Entry| entry.has_beaten && entry.seen <= now && now - entry.seen <= micros(LIVE);
        let missing = self.members.values().filter(|entry| !is_live(entry)).map(Entry::share).sum::<u32>();
        let missing = missing + forgotten * each;
        let members = known + forgotten;
        let others =
            self.members.iter().filter(|(other, _)| **other != id).map(|(_, entry)| entry.share()).sum::<u32>();
        let left = Share::from_parts(Share::WHOLE.parts().saturating_sub(others + forgotten * each));
        let share = Share::of_each(members).min(if self.rules.hold(Rule::ShareLeft) { left } else { Share::WHOLE });
        let whole = Share::WHOLE.parts();
        let live = if self.rules.hold(Rule::MissingCounted) { whole.saturating_sub(missing) } else { whole };
        self.members.get_mut(&id)?.shares[0] = share.parts();
        let largest = self.members.values().map(Entry::share).max()?.max(if forgotten > 0 { each } else { 0 });
        let (largest, live) = (Share::from_parts(largest), Share::from_parts(live));
        Some(BeatAnswer { seen: ServerTime::from_micros(now), members, largest, share, live })
    }

    /// Whether the list of members is younger than the oldest member that it would count.
    fn is_young(&self, now: u64) -> bool {
        self.founded.abs_diff(now) < micros(MISSING)
    }
}

fn micros(length: Duration) -> u64 {
    u64::try_from(length.as_micros()).expect("a short time")
}

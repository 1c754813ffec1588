//! The state machine of admission.

mod limits;

use std::collections::VecDeque;
use std::time::Duration;

use super::breaker::{Breaker, Change, Hold, ProbeScope, RateChange, State};
use super::budget::Budget;
use super::queue::{Class, Place, Queue, Rank};
use super::rate_limit::RateLimit;
use super::response::{EndedCall, Origin, Rejection, Response};
use super::retry::{self, CALL_TIME};
use super::waiting::{Event, Queued, WaitingCall};
use crate::clock::Moment;

/// Decides which calls leave and when, for clients `C` and waiting calls `T`.
///
/// After each operation the driver takes out all events with [`Admission::poll`], and polls again at
/// [`Admission::next_wakeup`]. Moments never decrease from one operation to the next.
///
/// In any window of t seconds it admits at most `rate * t + burst` calls.
#[derive(Debug)]
pub struct Admission<C, T> {
    queue: Queue<C, Queued<T>>,
    /// `None` is unlimited.
    limit: Option<RateLimit>,
    max_wait: Duration,
    breaker: Breaker,
    events: VecDeque<Event<T>>,
}

impl<C: Ord + Clone, T: WaitingCall> Admission<C, T> {
    /// An empty queue with a closed breaker and the full rate; without a budget calls never queue.
    ///
    /// A user's call that would wait longer than `max_wait` is refused.
    pub fn new(budget: Option<Budget>, max_wait: Duration) -> Self {
        Self {
            queue: Queue::default(),
            limit: budget.map(RateLimit::new),
            max_wait,
            breaker: Breaker::new(budget.map_or(Duration::ZERO, |budget| budget.period())),
            events: VecDeque::new(),
        }
    }

    /// Admits a new call if it may leave at once; `false` if it has to queue.
    pub fn admit_now(&mut self, class: Class, origin: &Origin, now: Moment) -> Result<bool, Rejection> {
        self.check(class, origin, now)?;
        if class == Class::Waiting && self.passes_pause(origin, now) {
            return Ok(true);
        }
        let is_next = if class == Class::Waiting {
            // First the calls that go before this one and may leave now. A wait is computed from the rest.
            while self.has_next() && !self.queue.is_new_user_next() && self.permit_at() <= now {
                self.end_next(now);
            }
            self.queue.is_new_user_next()
        } else {
            !self.has_next() && self.reserve_free_at() <= now
        };
        let admitted = is_next && self.take_permit(now);
        if admitted {
            self.breaker.on_admit(class, origin, now);
            if class == Class::Waiting {
                self.queue.on_user_admitted();
            }
        }
        Ok(admitted)
    }

    /// Queues the call of a client's user that [`Admission::admit_now`] did not admit at this moment.
    ///
    /// It is refused if its turn would come after `deadline` or after the longest wait, however many
    /// calls others have queued. If the whole queue would then last for longer, the call that would
    /// leave last is refused instead.
    pub fn queue_user(
        &mut self,
        client: C,
        origin: &Origin,
        call: T,
        deadline: Moment,
        now: Moment,
    ) -> Result<Place, Rejection> {
        let Origin { user, is_retry, .. } = *origin;
        self.check_wait(self.queue.calls_before_new(&client, user, is_retry), deadline, now)?;
        let end = self.check_wait(self.queue.calls_before_last(), Moment::NEVER, now);
        let queued = self.queued(Class::Waiting, origin, call, now);
        let place = self.queue.push_user(client, user, is_retry, queued);
        if let Err(rejection) = end
            && let Some((last, Queued { call, .. })) = self.queue.shed(place)
        {
            if last == place {
                return Err(rejection);
            }
            self.events.push_back(Event::Rejected { call, rejection });
        }
        Ok(place)
    }

    /// Queues a renewal that [`Admission::admit_now`] did not admit at this moment.
    pub fn queue_renewal(&mut self, rank: Rank, origin: &Origin, call: T, now: Moment) -> Place {
        let queued = self.queued(rank.class(), origin, call, now);
        self.queue.push_renewal(rank, origin.user, queued)
    }

    fn queued(&mut self, class: Class, origin: &Origin, call: T, now: Moment) -> Queued<T> {
        let is_settled = self.breaker.on_admit(class, origin, now) || class != Class::Waiting;
        Queued { call, since: now, origin: *origin, joined: Vec::new(), is_settled }
    }

    /// Adds a user of this client to those who wait for a queued call; `false` if it is queued no more.
    ///
    /// The call then also has a place in this client's line, and leaves by the turn that comes first. It is
    /// held back only if both parties are. The place is refused as in [`Admission::queue_user`], and the call keeps
    /// those that it had.
    pub fn add_line(
        &mut self,
        place: Place,
        client: C,
        party: u64,
        deadline: Moment,
        now: Moment,
    ) -> Result<bool, Rejection> {
        let Some(calls_before) = self.queue.calls_before_joined(place, &client) else { return Ok(false) };
        self.check_wait(calls_before, deadline, now)?;
        if let Some(queued) = self.queue.add_line(place, client)
            && queued.origin.party != party
            && !queued.joined.contains(&party)
        {
            queued.joined.push(party);
        }
        Ok(true)
    }

    /// Drops all queued renewals, without an event.
    pub fn drop_renewals(&mut self) {
        drop(self.queue.drop_renewals());
    }

    /// Takes out the next event: a call that leaves now, or one that is refused.
    pub fn poll(&mut self, now: Moment) -> Option<Event<T>> {
        if self.events.is_empty() && self.has_next() && self.next_wakeup() <= now {
            self.end_next(now);
        }
        self.events.pop_front()
    }

    /// When to poll next, at the earliest; [`Moment::NEVER`] while no call waits.
    ///
    /// It is after `now` once `poll(now)` returned `None`.
    pub fn next_wakeup(&self) -> Moment {
        let next_at = self.permit_at();
        if !self.events.is_empty() {
            PAST
        } else if self.queue.is_empty() {
            Moment::NEVER
        } else if self.queue.is_idle() {
            next_at.max(self.reserve_free_at())
        } else {
            next_at
        }
    }

    /// Records the response to a call; refuses queued calls that can't succeed any more.
    pub fn on_response(&mut self, call: &EndedCall) -> Option<Change> {
        let effect = self.breaker.record(call);
        let EndedCall { response, sent, now, .. } = *call;
        if let Some(limit) = &mut self.limit {
            if response == Response::Issued {
                limit.throttle.on_success(sent, now);
            }
            match effect.rate {
                Some(RateChange::Lower) => limit.throttle.on_throttled(sent, now),
                Some(RateChange::Pause(pause)) => {
                    limit.throttle.on_throttled(sent, now);
                    limit.throttle.pause(pause, now);
                }
                Some(RateChange::Restart) => limit.throttle.restart(now),
                None => {}
            }
        }
        if matches!(effect.rate, Some(RateChange::Pause(_))) && self.paused_for(now) > self.max_wait {
            // Users who would wait too long are refused at once. Renewals can wait.
            let rejection = Rejection::Throttled(self.paused_for(now));
            self.events.extend(
                self.queue.drop_users().into_iter().map(|queued| Event::Rejected { call: queued.call, rejection }),
            );
        }
        match effect.change {
            Some(Change::Opened) => {
                self.refuse_users(now);
                self.refuse_renewals(now);
            }
            Some(Change::Shed) => self.refuse_renewals(now),
            _ => {}
        }
        effect.change
    }

    /// Refuses the users who wait, where the calls of one party alone have ended. Of several, each is judged at its
    /// turn, and so are users who wait with a party that does not fail.
    fn refuse_users(&mut self, now: Moment) {
        if self.breaker.has_several_parties(now) {
            return;
        }
        let breaker = &self.breaker;
        let fails = |party: &u64| breaker.is_failing(*party, now);
        let is_refused = |queued: &Queued<T>| fails(&queued.origin.party) && queued.joined.iter().all(fails);
        for queued in self.queue.drop_users_if(is_refused) {
            let rejection = self.check(Class::Waiting, &queued.origin, now).err();
            let rejection = rejection.unwrap_or(Rejection::CircuitOpen(Duration::ZERO));
            self.events.push_back(Event::Rejected { call: queued.call, rejection });
        }
    }

    fn refuse_renewals(&mut self, now: Moment) {
        let rejection = Rejection::CircuitOpen(self.breaker.renewals_held_for(now));
        self.events.extend(
            self.queue.drop_renewals().into_iter().map(|queued| Event::Rejected { call: queued.call, rejection }),
        );
    }

    /// When to retry a call that failed `tries` times, for a caller that waits until `deadline`.
    ///
    /// `None` if the time is too short. `draw` is uniform in 0..1.
    pub fn retry_at(&self, origin: &Origin, tries: u32, deadline: Moment, now: Moment, draw: f64) -> Option<Moment> {
        let at = (now + retry::pause(tries, draw)?).max(self.breaker.held_until(origin));
        let earliest = at.max(self.limit.as_ref().map_or(PAST, |limit| limit.throttle.next_at()));
        (earliest + CALL_TIME <= deadline && !self.breaker.is_open_for(origin, now)).then_some(at)
    }

    /// Takes a retry out of the party's budget; `false` if it is used up.
    pub fn withdraw_retry(&mut self, origin: &Origin) -> bool {
        self.breaker.withdraw_retry(origin)
    }

    /// Forgets what the old API key brought: breaker, pauses and a lower rate.
    pub fn reset_for_new_key(&mut self, now: Moment) {
        self.breaker.reset(now);
        if let Some(limit) = &mut self.limit {
            limit.reset();
        }
    }

    /// The circuit breaker, to ask it.
    pub const fn breaker(&self) -> &Breaker {
        &self.breaker
    }

    /// Records that the broker probes with a key, or that it has none to probe with.
    pub fn on_probe(&mut self, scope: ProbeScope, is_sent: bool, now: Moment) {
        self.breaker.on_probe(scope, is_sent, now);
    }

    /// When another renewal may be queued; `None` is now, [`Moment::NEVER`] is after one has left.
    pub fn room_at(&self, now: Moment) -> Option<Moment> {
        match self.breaker.renewals_held_for(now) {
            Duration::ZERO if self.limit.as_ref().is_none_or(|limit| self.queue.has_room(limit.budget())) => None,
            Duration::ZERO => Some(Moment::NEVER),
            rest => Some(now + rest),
        }
    }

    /// The number of waiting calls of a class.
    pub fn depth(&self, class: Class) -> usize {
        self.queue.depth(class)
    }

    /// The present rate, in calls a second.
    pub fn rate(&self) -> f64 {
        self.limit.as_ref().map_or(f64::INFINITY, |limit| limit.throttle.rate())
    }

    /// The state of the circuit breaker.
    pub fn state(&self, now: Moment) -> State {
        self.breaker.state(now)
    }

    /// Admits the next call with the permit that there is. A call that the breaker holds back by now is refused
    /// instead, and takes neither turn nor permit.
    fn end_next(&mut self, now: Moment) {
        let Some(next) = self.queue.next() else { return };
        match self.judge(next, now) {
            Err(rejection) => {
                let refused = self.queue.discard_next();
                self.events.extend(refused.map(|queued| Event::Rejected { call: queued.call, rejection }));
            }
            Ok(origin) if self.take_permit(now) => {
                let Some((class, queued)) = self.queue.pop() else { return };
                if !queued.is_settled {
                    self.breaker.on_admit(Class::Waiting, &origin, now);
                }
                let (call, waited) = (queued.call, now.since(queued.since));
                self.events.push_back(Event::Admitted { call, class, party: origin.party, waited });
            }
            Ok(_) => {}
        }
    }

    /// Judges a queued call, since the breaker may have opened: it leaves for the first party that is not held back.
    fn judge(&self, queued: &Queued<T>, now: Moment) -> Result<Origin, Rejection> {
        let first = if queued.is_settled { Ok(()) } else { self.check(Class::Waiting, &queued.origin, now) };
        let Err(rejection) = first else { return Ok(queued.origin) };
        let mut joined = queued.joined.iter().map(|party| Origin { party: *party, ..queued.origin });
        joined.find(|origin| self.check(Class::Waiting, origin, now).is_ok()).ok_or(rejection)
    }

    /// Admits the call of a party that does not fail in a pause, which may be others' alone.
    fn passes_pause(&mut self, origin: &Origin, now: Moment) -> bool {
        let may_pass = !self.paused_for(now).is_zero() && self.breaker.may_pass(origin, now);
        let passes = may_pass && self.limit.as_mut().is_some_and(|limit| limit.take_in_pause(now));
        if passes {
            self.breaker.on_pass(origin, now);
        }
        passes
    }

    /// Whether a call waits. Discards cancelled calls whose turn it is, which take neither turn nor permit.
    fn has_next(&mut self) -> bool {
        while self.queue.next().is_some_and(|queued| queued.call.is_cancelled()) {
            self.queue.discard_next();
        }
        !self.queue.is_empty()
    }

    fn take_permit(&mut self, now: Moment) -> bool {
        self.limit.as_mut().is_none_or(|limit| limit.take(now))
    }

    /// When there is a permit.
    fn permit_at(&self) -> Moment {
        self.limit.as_ref().map_or(PAST, RateLimit::next_at)
    }

    fn reserve_free_at(&self) -> Moment {
        self.limit.as_ref().map_or(PAST, RateLimit::reserve_free_at)
    }

    /// The rest of the pause that Courier asked for.
    pub fn paused_for(&self, now: Moment) -> Duration {
        self.limit.as_ref().map_or(Duration::ZERO, |limit| limit.throttle.paused_for(now))
    }

    /// Checks whether the breaker lets a call leave.
    fn check(&self, class: Class, origin: &Origin, now: Moment) -> Result<(), Rejection> {
        match self.breaker.hold(class, origin, now) {
            None => Ok(()),
            Some(Hold::Open(rest)) => Err(Rejection::CircuitOpen(rest.max(self.paused_for(now)))),
            Some(Hold::Denied(status)) => Err(Rejection::Credentials(status)),
            Some(Hold::Paused(rest)) => Err(Rejection::Throttled(rest)),
        }
    }

    /// Checks whether a call with so many calls before it would leave in time.
    fn check_wait(&self, calls_before: usize, deadline: Moment, now: Moment) -> Result<(), Rejection> {
        let wait = self.limit.as_ref().map_or(Duration::ZERO, |limit| limit.wait_behind(calls_before, now));
        match self.paused_for(now) {
            _ if wait <= self.max_wait && now + wait <= deadline => Ok(()),
            pause if pause > self.max_wait => Err(Rejection::Throttled(pause)),
            _ => Err(Rejection::Limited(wait)),
        }
    }
}

const PAST: Moment = Moment::from_nanos(0);

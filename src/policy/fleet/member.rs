//! Membership: who belongs to the fleet, and whether this broker hears from it.
//!
//! | state | until | calls |
//! |---|---|---|
//! | up | 750 ms after the last answered beat was sent, or the connection is lost | with permits of the store |
//! | doubtful | 3 s after the last answered request was sent | none |
//! | alone | a join is answered | the broker's share of the budget, from an empty bucket |
//!
//! A broker joins, which makes it a missing member with the share that it holds, and beats each half second. The answer
//! to a beat makes it up. Each state follows from the time alone, so a process that was stopped and goes on
//! finds itself doubtful or alone at once.
//!
//! The times fit together: the last beat that the store heard was in time, so it was executed at most 750 ms after
//! the one before, whose answer this broker has. The store counts it as live for 1 s more, and the others learn otherwise
//! from a beat that is at most 750 ms old: after 2.5 s, before this broker is alone. With a beat a second and twice
//! these times it is after 4.5 s, and until then both sides would use the same share.

use std::time::Duration;

use super::{ServerTime, Share};
use crate::clock::Moment;

/// The time between two beats.
pub const BEAT: Duration = Duration::from_millis(500);

/// The longest wait for the answer to a join or a beat. Later the connection is given up.
pub const DEADLINE: Duration = Duration::from_millis(250);

/// How long a member is up after it sent the last answered beat; the store takes no beat that comes later than this
/// after the one before.
pub const UP: Duration = Duration::from_millis(750);

/// For how long the store counts a member as live after its last beat.
pub const LIVE: Duration = Duration::from_secs(1);

/// How long a broker that is cut off makes no call.
pub const SILENCE: Duration = Duration::from_secs(3);

/// For how long the store counts a member as missing after its last beat.
pub const MISSING: Duration = Duration::from_secs(60);

/// This broker's membership.
///
/// The driver sends what [`Member::poll`] returns, tells of its end by `on_joined`, `on_beat` or `on_lost`, and polls again
/// at [`Member::next_wakeup`].
#[derive(Debug)]
pub struct Member {
    link: Link,
    standing: Standing,
    /// The live and missing members, as far as is known; none before the first beat.
    members: u32,
    /// The largest share that one of them may use.
    largest: Share,
}

/// The connection to the store.
#[derive(Clone, Copy, Debug)]
enum Link {
    /// There is none; the driver may connect.
    Lost,
    /// A join or a beat waits for its answer.
    Waiting { sent: Moment },
    /// The store answered at its time `seen`. The next beat is due.
    Answered { seen: ServerTime, beat_at: Moment },
}

/// A message of a member to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Connect, empty the bucket of each workspace, and become a missing member.
    Join {
        /// The share that this broker uses while it is alone.
        share: Share,
        /// The live and missing members that it remembers.
        members: u32,
        /// The largest share of one of them that it remembers.
        largest: Share,
    },
    /// Become a live member. Void if the store last heard this member at another time, or over [`UP`] ago.
    Beat {
        /// The store's time in the answer before.
        seen: ServerTime,
    },
    /// Be no member any more. Void like a beat, so that it does not end the next process of the same name.
    Leave {
        /// The store's time in the answer before.
        seen: ServerTime,
    },
}

/// The store's answer to a beat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BeatAnswer {
    /// The store's time.
    pub seen: ServerTime,
    /// The live and missing members.
    pub members: u32,
    /// The largest share that one of them may use.
    pub largest: Share,
    /// This member's share while it is alone.
    pub share: Share,
    /// The share of the live members together.
    pub live: Share,
}

/// The consequences of membership for the calls of a broker, now and later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    pub(super) up_until: Moment,
    pub(super) alone_from: Moment,
    /// The share of the budget while alone.
    pub share: Share,
    /// The share of the live members together.
    pub live: Share,
}

/// Whether a broker hears from the fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Beats are answered.
    Up,
    /// A beat was missed: no call leaves until this moment, if no beat is answered before.
    Doubtful(Moment),
    /// The broker is cut off.
    Alone,
}

impl Standing {
    /// A broker that starts at `now` and uses this share if it does not reach the store.
    pub fn new(share: Share, now: Moment) -> Self {
        Self { up_until: now, alone_from: now + SILENCE, share, live: Share::NONE }
    }

    /// The state at `now`.
    pub fn state(&self, now: Moment) -> State {
        if now < self.up_until {
            State::Up
        } else if now < self.alone_from {
            State::Doubtful(self.alone_from)
        } else {
            State::Alone
        }
    }
}

impl Member {
    /// A broker that starts at `now`. Before its first beat it is one of so many `brokers`.
    pub fn new(brokers: u32, now: Moment) -> Self {
        Self {
            link: Link::Lost,
            standing: Standing::new(Share::of_each(brokers), now),
            members: 0,
            largest: Share::NONE,
        }
    }

    /// The consequences for the calls of this broker. Pass them on after each answer and each loss.
    pub const fn standing(&self) -> Standing {
        self.standing
    }

    /// The next request to send, if one is due. A join needs a new connection.
    pub fn poll(&mut self, now: Moment) -> Option<Request> {
        let request = match self.link {
            Link::Lost => Request::Join { share: self.standing.share, members: self.members, largest: self.largest },
            Link::Answered { seen, beat_at } if beat_at <= now => Request::Beat { seen },
            Link::Waiting { .. } | Link::Answered { .. } => return None,
        };
        self.link = Link::Waiting { sent: now };
        Some(request)
    }

    /// The request with which a broker that stops says goodbye, so that nobody counts it as missing.
    pub const fn leave(&self) -> Option<Request> {
        match self.link {
            Link::Answered { seen, .. } => Some(Request::Leave { seen }),
            Link::Lost | Link::Waiting { .. } => None,
        }
    }

    /// Whether a request was not answered in time, so that the connection is lost.
    pub fn is_overdue(&self, now: Moment) -> bool {
        matches!(self.link, Link::Waiting { sent } if sent + DEADLINE <= now)
    }

    /// When to poll next; after a loss, as soon as the driver may connect again.
    pub fn next_wakeup(&self) -> Moment {
        match self.link {
            Link::Lost => Moment::from_nanos(0),
            Link::Waiting { sent } => sent + DEADLINE,
            Link::Answered { beat_at, .. } => beat_at,
        }
    }

    /// Records the answer to a join: the store's time. The first beat is due at once.
    ///
    /// The bucket was emptied, and soon the store may count this broker as live: it is alone no more.
    pub fn on_joined(&mut self, seen: ServerTime, now: Moment) {
        if let Some(sent) = self.answered(now) {
            self.link = Link::Answered { seen, beat_at: now };
            self.standing.alone_from = sent + SILENCE;
        }
    }

    /// Records the answer to a beat; `None` if the beat was void.
    pub fn on_beat(&mut self, answer: Option<BeatAnswer>, now: Moment) {
        match (self.answered(now), answer) {
            (Some(sent), Some(BeatAnswer { seen, members, largest, share, live })) => {
                self.link = Link::Answered { seen, beat_at: sent + BEAT };
                (self.members, self.largest) = (members, largest);
                self.standing = Standing { up_until: sent + UP, alone_from: sent + SILENCE, share, live };
            }
            (None, _) | (_, None) => self.on_lost(now),
        }
    }

    /// Records that the connection failed, or that a request was not answered in time. The driver drops the connection.
    pub fn on_lost(&mut self, now: Moment) {
        self.link = Link::Lost;
        self.standing.up_until = self.standing.up_until.min(now);
    }

    /// When the answered request was sent, if the answer comes in time.
    fn answered(&self, now: Moment) -> Option<Moment> {
        match self.link {
            Link::Waiting { sent } if now <= sent + DEADLINE => Some(sent),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Moment = Moment::from_nanos(1 << 40);
    const BROKERS: u32 = 10;

    fn after(millis: u64) -> Moment {
        START + Duration::from_millis(millis)
    }

    fn answer() -> BeatAnswer {
        let (share, largest) = (Share::of_each(4), Share::of_each(3));
        BeatAnswer { seen: ServerTime::from_micros(7), members: 4, largest, share, live: Share::WHOLE }
    }

    /// A member whose first beat was sent and answered at the start.
    fn member() -> Member {
        let mut member = Member::new(BROKERS, START);
        let join = Request::Join { share: Share::of_each(BROKERS), members: 0, largest: Share::NONE };
        assert_eq!(member.poll(START), Some(join));
        member.on_joined(ServerTime::from_micros(5), START);
        assert_eq!(member.poll(START), Some(Request::Beat { seen: ServerTime::from_micros(5) }));
        member.on_beat(Some(answer()), START);
        member
    }

    #[test]
    fn missed_beat_makes_a_member_doubtful_then_alone() {
        let mut member = member();
        assert_eq!(member.next_wakeup(), after(500));
        assert!(member.poll(after(500)).is_some());
        assert_eq!(member.next_wakeup(), after(750));
        member.on_lost(after(750));
        let states = [749, 750, 2999, 3000].map(|at| member.standing().state(after(at)));
        let doubtful = State::Doubtful(after(3000));
        assert_eq!(states, [State::Up, doubtful, doubtful, State::Alone]);
        assert_eq!(member.standing().share, Share::of_each(4));
    }

    #[test]
    fn join_ends_the_calls_of_a_lone_broker_until_a_beat_is_answered() {
        let mut member = Member::new(BROKERS, START);
        assert!(member.poll(START).is_some());
        member.on_lost(after(250));
        assert_eq!(member.standing().state(after(9000)), State::Alone);
        assert!(member.poll(after(9000)).is_some());
        member.on_joined(ServerTime::from_micros(5), after(9010));
        assert_eq!(member.standing().state(after(9010)), State::Doubtful(after(12_000)));
        assert!(member.poll(after(9010)).is_some());
        member.on_beat(Some(answer()), after(9020));
        assert_eq!(member.standing().state(after(9020)), State::Up);
    }

    #[test]
    fn late_or_void_answer_is_a_lost_connection() {
        for (at, answer) in [(751, Some(answer())), (600, None)] {
            let mut member = member();
            assert!(member.poll(after(500)).is_some());
            member.on_beat(answer, after(at));
            assert_eq!(member.standing().state(after(at)), State::Doubtful(after(3000)));
            let join = Request::Join { share: Share::of_each(4), members: 4, largest: Share::of_each(3) };
            assert_eq!(member.poll(after(at)), Some(join));
        }
    }
}

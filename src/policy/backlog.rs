//! What decisions that are taken late say about the budget.

use std::time::Duration;

/// By how many times a call must be worth more than its price where what has come due, for
/// a token that serves for `window`, is decided `late` for lack of budget: `late` as a multiple
/// of 2% of the window (or of 5 s, if that is more), but from 1 to 8.
///
/// What comes due waits in the schedule while the queue has no room, and is decided in the
/// order in which it came due: so all that is decided now is about as late, which is the
/// length of the backlog. If too much is bought the backlog grows, and calls become
/// dearer; what is not worth them takes no room, and so the backlog shrinks. It settles
/// where no more is bought than there are calls for, whatever the budget is. Networks judge
/// congestion in the same way, by how long a packet has queued (CoDel, RFC 8289).
pub fn surcharge(late: Duration, window: Duration) -> f32 {
    let lead = window.mul_f32(LEAD).max(LEAST_LEAD);
    (late.as_secs_f32() / lead.as_secs_f32()).clamp(1.0, MOST)
}

/// How long before a window's end its renewal comes due at the earliest, as a share of it: a
/// backlog that is longer makes renewals come too late.
const LEAD: f32 = 0.02;
/// The queue is full for moments under any budget.
const LEAST_LEAD: Duration = Duration::from_secs(5);
/// What is worth so much more is bought however late it is.
const MOST: f32 = 8.0;

#[cfg(test)]
mod tests {
    use super::*;

    use std::sync::Arc;

    use crate::policy::habit::Habit;
    use crate::policy::learner::{Learner, Verdict};
    use crate::policy::ledger::Ledger;
    use crate::token::Moment;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_is_late_by_no_more_than_a_lead_costs_no_more() {
        for (late, window) in [(0, 0), (5, 0), (5, 60), (20, 1000)] {
            assert_eq!(surcharge(SECOND * late, SECOND * window).to_bits(), 1f32.to_bits(), "{late} {window}");
        }
    }

    #[test]
    fn the_later_the_dearer_within_bounds() {
        let at = |late| surcharge(SECOND * late, SECOND * 1000);
        assert_eq!([at(40), at(60), at(160), at(u32::MAX)], [2.0, 3.0, MOST, MOST]);
    }

    /// Somebody who comes and comes is a fair bargain in time, and none when calls are short.
    #[test]
    fn what_is_decided_late_must_be_worth_more() {
        let judged = |late| {
            let (mut learner, ledger) = (Learner::new(0.25), Ledger::default());
            let now = Moment::from_nanos(0) + SECOND * 86_400;
            let habit = Arc::new(Habit::new(SECOND * 3600, now));
            habit.touch(now, &ledger);
            learner.judge(&habit, &ledger, SECOND * late, now + SECOND * 3500)
        };
        let told = |verdict| match verdict {
            Verdict::Fetch(chance) => (true, chance),
            Verdict::Look(_, chance) => (false, chance),
            Verdict::Forget => panic!("nobody is forgotten so soon"),
        };
        let [(bought, in_time), (bought_late, late)] = [0, 72 * 5].map(|late| told(judged(late)));
        assert_eq!((late.value, late.price), (in_time.value, in_time.price * 5.0));
        assert_eq!((bought, bought_late), (true, false), "{in_time:?} {late:?}");
    }
}

//! Congestion pricing: late decisions show that the budget is short.

use std::time::Duration;

/// The factor on the price of a call whose decision is `late` for lack of budget.
///
/// It is `late` as a multiple of 2% of the token's `window` (of 5 s, if that is more),
/// clamped to 1..=8.
///
/// Due keys wait in the schedule while the queue is full, and are decided in the order in
/// which they came due. So the lateness of each decision measures the backlog. A growing
/// backlog raises the price, fewer calls are queued, and the backlog shrinks: it settles
/// where the calls fit the budget, whatever the budget is. CoDel (RFC 8289) measures
/// congestion in the same way, by the time that a packet has queued.
pub fn congestion_multiplier(late: Duration, window: Duration) -> f32 {
    let lead = window.mul_f32(LEAD).max(LEAST_LEAD);
    (late.as_secs_f32() / lead.as_secs_f32()).clamp(1.0, MOST)
}

/// The longest lead of a renewal before its window's end, as a share of the window: with a
/// longer backlog renewals come too late.
const LEAD: f32 = 0.02;
/// Any budget fills the queue for short moments.
const LEAST_LEAD: Duration = Duration::from_secs(5);
/// The cap: a call worth this much more is made however late it is.
const MOST: f32 = 8.0;

#[cfg(test)]
mod tests {
    use super::*;

    use crate::clock::Moment;
    use crate::policy::refresh::learned::demand::DemandHistory;
    use crate::policy::refresh::learned::learner::{Learner, PrefetchAction};

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn lateness_within_the_lead_does_not_raise_the_price() {
        for (late, window) in [(0, 0), (5, 0), (5, 60), (20, 1000)] {
            assert_eq!(
                congestion_multiplier(SECOND * late, SECOND * window).to_bits(),
                1f32.to_bits(),
                "{late} {window}"
            );
        }
    }

    #[test]
    fn multiplier_grows_with_lateness_up_to_the_cap() {
        let at = |late| congestion_multiplier(SECOND * late, SECOND * 1000);
        assert_eq!([at(40), at(60), at(160), at(u32::MAX)], [2.0, 3.0, MOST, MOST]);
    }

    /// A key in constant use is fetched in time, and not when its decision is late.
    #[test]
    fn late_decision_needs_a_higher_value() {
        let now = Moment::from_nanos(0) + SECOND * 86_400;
        let mut history = DemandHistory::new(SECOND * 3600, now);
        let (learner, counts, now) = (Learner::<()>::new(0.25), history.record(now), now + SECOND * 3500);
        history.advance(now);
        let [in_time, late] = [0, 72 * 5].map(|late| learner.decide(&history, &counts, SECOND * late, now));
        assert_eq!((in_time.action, late.action == PrefetchAction::Fetch), (PrefetchAction::Fetch, false));
        let [in_time, late] = [in_time, late].map(|decision| decision.estimate);
        assert_eq!((late.value, late.price), (in_time.value, in_time.price * 5.0));
    }
}

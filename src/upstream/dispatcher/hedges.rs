//! Hedges: calls beside late ones.

use super::{Dispatcher, State};
use crate::clock::Moment;
use crate::policy::admission::Origin;
use crate::policy::admission::queue::Class;
use crate::policy::admission::retry::HEDGE_GAP;
use crate::upstream::permit::Permit;

impl Dispatcher {
    /// Admits a hedge if it may leave at once; otherwise returns when to ask again.
    ///
    /// So it takes no permit from calls that queue. There is one in [`HEDGE_GAP`] for all keys together, which is why it
    /// needs nothing from a retry budget.
    pub fn admit_hedge(&self, origin: Origin) -> Result<Permit, Moment> {
        self.drive(|State { admission, next_hedge, .. }, now| {
            if *next_hedge <= now {
                let is_admitted = admission.admit_now(Class::Waiting, &origin, now) == Ok(true);
                *next_hedge = now + if is_admitted { HEDGE_GAP } else { HEDGE_GAP / 8 };
                if is_admitted {
                    return Ok(Permit::new(Class::Waiting, origin));
                }
            }
            // The jitter gives each of several flights its turn.
            Err(*next_hedge + (HEDGE_GAP / 16).mul_f64(fastrand::f64()))
        })
    }
}

//! Token keys that no client and no session may ask for any more are not renewed.

use std::sync::{Arc, PoisonError, RwLock};

use super::Broker;
use crate::token::TokenKey;

/// The rule that says whether a key may still be asked for. Without a rule every key may.
#[derive(Default)]
pub struct Entitled(RwLock<Option<Arc<Rule>>>);

type Rule = dyn Fn(&TokenKey) -> bool + Send + Sync;

impl Entitled {
    /// May the key still be asked for? Checked when a key is due, not for a hit.
    pub fn include(&self, key: &TokenKey) -> bool {
        let rule = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        rule.is_none_or(|rule| rule(key))
    }
}

impl Broker {
    /// Restricts renewals to keys that some caller `may` ask for, from now on.
    ///
    /// Other keys are dropped when they are due. Their queued calls without followers are cancelled.
    pub fn renew_only(&self, may: impl Fn(&TokenKey) -> bool + Send + Sync + 'static) {
        *self.0.entitled.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(may));
        self.0.flights.lock().detach(|key| !self.0.entitled.include(key));
    }
}

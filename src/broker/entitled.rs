//! Token keys that no client and no session may ask for any more are not renewed.

use std::sync::Arc;

use arc_swap::ArcSwapOption;

use crate::token::TokenKey;

/// The rule that says whether a key may still be asked for. Without a rule every key may.
#[derive(Default)]
pub struct Entitled(ArcSwapOption<Rule>);

type Rule = Box<dyn Fn(&TokenKey) -> bool + Send + Sync>;

impl Entitled {
    /// May the key still be asked for? Checked when a key is due, not for a hit.
    pub fn include(&self, key: &TokenKey) -> bool {
        self.0.load().as_ref().is_none_or(|rule| rule(key))
    }

    /// Sets the rule.
    pub fn set(&self, rule: impl Fn(&TokenKey) -> bool + Send + Sync + 'static) {
        self.0.store(Some(Arc::new(Box::new(rule))));
    }
}

//! Scopes that a client was found to be allowed.

use std::sync::OnceLock;

use crate::token::{ScopeClaim, ScopeSet};

/// Scopes that one client may request, by their text in its requests.
///
/// Most clients request one or two sets of scopes, always in the same order. With it their scopes are parsed, sorted and
/// checked once. It begins anew when the settings change.
#[derive(Clone, Debug, Default)]
pub struct AllowedScopes([OnceLock<Allowed>; MOST]);

#[derive(Clone, Debug)]
struct Allowed {
    text: Box<str>,
    scopes: ScopeSet,
}

/// The most texts of a client. Scopes in further ones are parsed in each request.
const MOST: usize = 8;

impl AllowedScopes {
    /// The scopes in this text, if they were added.
    pub fn find(&self, text: &str) -> Option<&ScopeSet> {
        let mut known = self.0.iter().map_while(OnceLock::get);
        known.find(|allowed| *allowed.text == *text).map(|allowed| &allowed.scopes)
    }

    /// Adds scopes that the client may request, and their text, if it is not too long and there is room.
    pub fn add(&self, text: &str, scopes: &ScopeSet) {
        if text.len() > ScopeClaim::MAX_BYTES {
            return;
        }
        for place in &self.0 {
            let allowed = place.get_or_init(|| Allowed { text: text.into(), scopes: scopes.clone() });
            if *allowed.text == *text {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::Scope;

    #[test]
    fn scopes_are_found_by_their_exact_text_and_bounded() {
        let allowed = AllowedScopes::default();
        let set = |text: &'static str| ScopeSet::new(text.split(' ').map(|scope| Scope::new(scope).expect("a scope")));
        allowed.add("b a", &set("b a"));
        allowed.add("b a", &set("b a"));
        assert_eq!(allowed.find("b a").map(ScopeSet::as_str), Some("a b"));
        assert_eq!(allowed.find("a b"), None);
        let texts: Vec<_> = (0..20).map(|number| format!("s:{number}")).collect();
        texts.iter().for_each(|text| allowed.add(text, &set("s")));
        assert_eq!(texts.iter().filter(|text| allowed.find(text).is_some()).count(), MOST - 1);
        assert!(allowed.find("b a").is_some());
    }
}

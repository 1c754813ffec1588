//! The parts of token keys that the keys of many users share.

use std::borrow::Borrow;
use std::cell::RefCell;
use std::collections::HashSet;
use std::hash::{Hash, Hasher};

use triomphe::ThinArc;

use super::lifetime::Lifetime;

/// The workspace, lifetime and scopes of a token key, as its text without the users. Cheap to clone.
///
/// Millions of keys differ in their users alone, so most of their memory would be copies of these parts.
#[derive(Clone, PartialEq, Eq)]
pub struct CommonParts(ThinArc<Layout, u8>);

/// The places of the parts in the text.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    pub lifetime: Lifetime,
    pub workspace_end: u8,
    pub claim_start: u8,
    /// Where the users are inserted.
    pub users_start: u8,
}

/// The most parts that a thread knows: the parts of clients that make up scopes must not fill the memory.
const MOST_KNOWN: usize = 256;

thread_local! {
    /// The parts that this thread made since it last knew too many.
    static KNOWN: RefCell<HashSet<CommonParts>> = RefCell::default();
}

impl CommonParts {
    /// The parts of this text, shared with equal ones that the thread knows.
    pub fn new(layout: Layout, text: &str) -> Self {
        KNOWN.with_borrow_mut(|known| {
            if let Some(parts) = known.get(text.as_bytes()) {
                return parts.clone();
            }
            if known.len() == MOST_KNOWN {
                known.clear();
            }
            let parts = Self(ThinArc::from_header_and_slice(layout, text.as_bytes()));
            known.insert(parts.clone());
            parts
        })
    }

    /// The places of the parts.
    pub fn layout(&self) -> &Layout {
        &self.0.header.header
    }

    /// The text.
    pub fn text(&self) -> &[u8] {
        &self.0.slice
    }
}

impl Borrow<[u8]> for CommonParts {
    fn borrow(&self) -> &[u8] {
        &self.0.slice
    }
}

// The places follow from the text.
impl Hash for CommonParts {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.slice.hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::TokenKey;

    #[test]
    fn keys_share_their_common_parts_until_the_thread_knew_too_many() {
        let key = |user: &str, scope: u32| {
            TokenKey::parse(&format!("default 60 user_id:{user} read:x:{scope:03}")).expect("a key")
        };
        let holders = |key: &TokenKey| ThinArc::strong_count(&key.common().0);
        let (jane, joe) = (key("jane", 0), key("joe", 0));
        assert_eq!((holders(&jane), holders(&joe)), (3, 3), "two keys and the thread");
        let others: Vec<_> = (1..=MOST_KNOWN as u32).map(|scope| key("jane", scope)).collect();
        assert_eq!((holders(&jane), holders(&others[0])), (2, 1), "the keys alone");
        assert_eq!((key("jane", 0), KNOWN.with_borrow(HashSet::len)), (jane, 2));
    }
}

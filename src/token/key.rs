//! Token keys: the cache keys of tokens.

use std::borrow::Borrow;
use std::cell::Cell;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::sync::Arc;

use triomphe::ThinArc;

use super::claim::ScopeClaim;
use super::lifetime::Lifetime;
use super::scope_set::ScopeSet;
use super::user::UserId;

/// The name of a workspace: one Courier API key and base URL.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkspaceName(Arc<str>);

impl WorkspaceName {
    /// The longest name, in bytes.
    pub const MAX_BYTES: usize = 64;

    /// Parses a name: lower-case letters, digits, `-` and `_`.
    pub fn new(name: &str) -> Result<Self, WorkspaceNameError> {
        let fits = (1..=Self::MAX_BYTES).contains(&name.len());
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
        if fits && name.bytes().all(plain) { Ok(Self(name.into())) } else { Err(WorkspaceNameError) }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for WorkspaceName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WorkspaceName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// The error for an invalid workspace name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a workspace name has 1 to {} lower-case letters, digits, `-` and `_`", WorkspaceName::MAX_BYTES)]
pub struct WorkspaceNameError;

/// The cache key of a token: workspace, users in their order, set of scopes, lifetime.
///
/// A token answers a request only if it was issued for an equal key. The key is one string,
/// `workspace seconds claim`. Only the last part can contain a space, so different keys are
/// different strings. Cheap to clone: the text and the places of its parts are one allocation.
#[derive(Clone)]
pub struct TokenKey(ThinArc<Layout, u8>);

/// The places of the parts in the text of a key.
#[derive(Clone, Copy)]
struct Layout {
    lifetime: Lifetime,
    users_end: u16,
    workspace_end: u8,
    claim_start: u8,
}

// The longest text must not exceed its offsets.
const LONGEST_CLAIM_START: usize = WorkspaceName::MAX_BYTES + " 4294967295 ".len();
const _: () = assert!(LONGEST_CLAIM_START <= u8::MAX as usize);
const _: () = assert!(LONGEST_CLAIM_START + ScopeClaim::MAX_BYTES <= u16::MAX as usize);

/// The text of a token key, for a look-up. Its buffer is reused by the thread, so that a look-up allocates nothing.
pub struct KeyText {
    text: String,
    layout: Layout,
}

thread_local! {
    static BUFFER: Cell<String> = const { Cell::new(String::new()) };
}

impl KeyText {
    /// The text of a request's key.
    pub fn new(workspace: &WorkspaceName, claim: &ScopeClaim<'_>, lifetime: Lifetime) -> Self {
        Self::build(workspace, lifetime, |text| claim.write(text))
    }

    /// The same for one user; `None` if that is too long for a token.
    pub fn of_user(workspace: &WorkspaceName, user: UserId<'_>, scopes: &ScopeSet, lifetime: Lifetime) -> Option<Self> {
        scopes.fits(user).then(|| Self::build(workspace, lifetime, |text| scopes.write(user, text)))
    }

    /// `write` appends the claim, and returns where its users end in the text.
    fn build(workspace: &WorkspaceName, lifetime: Lifetime, write: impl FnOnce(&mut String) -> usize) -> Self {
        let mut text = BUFFER.take();
        text.clear();
        text.push_str(workspace.as_str());
        text.push(' ');
        text.push_str(itoa::Buffer::new().format(lifetime.as_secs()));
        text.push(' ');
        let claim_start = text.len() as u8;
        let users_end = write(&mut text) as u16;
        let workspace_end = workspace.as_str().len() as u8;
        Self { text, layout: Layout { lifetime, users_end, workspace_end, claim_start } }
    }

    /// The text, which is that of an equal [`TokenKey`].
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The key of this text.
    pub fn to_key(&self) -> TokenKey {
        TokenKey(ThinArc::from_header_and_slice(self.layout, self.text.as_bytes()))
    }
}

impl Drop for KeyText {
    fn drop(&mut self) {
        BUFFER.set(std::mem::take(&mut self.text));
    }
}

impl TokenKey {
    /// The key of a request.
    pub fn new(workspace: &WorkspaceName, claim: &ScopeClaim<'_>, lifetime: Lifetime) -> Self {
        KeyText::new(workspace, claim, lifetime).to_key()
    }

    /// Parses the text of a key; `None` unless it is exactly that of a key.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, ' ');
        let [workspace, seconds, claim] = [parts.next()?, parts.next()?, parts.next()?];
        let (workspace, claim) = (WorkspaceName::new(workspace).ok()?, ScopeClaim::parse(claim).ok()?);
        let lifetime = Lifetime::from_seconds(seconds.parse::<u32>().ok()?.into()).ok()?;
        // Another order of the scopes or `+60` would parse too, but be the text of another key.
        Some(Self::new(&workspace, &claim, lifetime)).filter(|key| key.as_bytes() == text.as_bytes())
    }

    /// The text of the key, from which [`TokenKey::parse`] makes it again.
    pub fn as_str(&self) -> &str {
        self.part(0..self.as_bytes().len())
    }

    /// The bytes of the text, which are looked at without a check that they are text.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0.slice
    }

    /// The name of the workspace.
    pub fn workspace(&self) -> &str {
        self.part(0..self.layout().workspace_end.into())
    }

    /// The lifetime that is requested from Courier.
    pub fn lifetime(&self) -> Lifetime {
        self.layout().lifetime
    }

    /// The scope string that is requested from Courier.
    pub fn claim(&self) -> &str {
        self.part(self.layout().claim_start.into()..self.as_bytes().len())
    }

    /// The part of the scope string that names the users, for logs.
    pub fn users(&self) -> impl Iterator<Item = &str> {
        let users = self.part(self.layout().claim_start.into()..self.layout().users_end.into());
        users.split(' ').filter_map(|part| part.strip_prefix("user_id:"))
    }

    /// The scopes alone, as one string, for logs.
    pub fn scopes(&self) -> &str {
        self.part(usize::from(self.layout().users_end) + 1..self.as_bytes().len())
    }

    fn layout(&self) -> &Layout {
        &self.0.header.header
    }

    fn part(&self, range: Range<usize>) -> &str {
        // The bytes come from a `str`, and the parts are between spaces.
        std::str::from_utf8(&self.as_bytes()[range]).unwrap_or_default()
    }
}

// All else follows from the text.
impl PartialEq for TokenKey {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for TokenKey {}

impl Hash for TokenKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

/// Shows the whole key: it holds no secret.
impl fmt::Debug for TokenKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "TokenKey({:?})", self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::{Scope, UserId};
    use proptest::prelude::*;

    fn key(workspace: &str, claim: &str, lifetime: &str) -> TokenKey {
        TokenKey::new(
            &WorkspaceName::new(workspace).expect("a name"),
            &ScopeClaim::parse(claim).expect("a claim"),
            Lifetime::parse(lifetime).expect("a lifetime"),
        )
    }

    #[test]
    fn key_returns_the_parts_it_was_made_of() {
        let key = key("eu-1", "write:x user_id:a:b user_id:c read:x", "1d");
        assert_eq!(key.workspace(), "eu-1");
        assert_eq!(key.lifetime().as_secs(), 86_400);
        assert_eq!(key.claim(), "user_id:a:b user_id:c read:x write:x");
        assert_eq!(key.users().collect::<Vec<_>>(), ["a:b", "c"]);
        assert_eq!(key.scopes(), "read:x write:x");
        assert_eq!((size_of_val(&key), size_of::<Layout>()), (size_of::<usize>(), 8));
    }

    #[test]
    fn longest_key_returns_its_parts() {
        let name = "w".repeat(WorkspaceName::MAX_BYTES);
        let users: Vec<_> = (10..ScopeClaim::MAX_USERS + 10).map(|n| format!("{n}{}", "u".repeat(244))).collect();
        let users: Vec<_> = users.iter().map(|id| UserId::new(id).expect("an id")).collect();
        let claim = ScopeClaim::new(users, vec![Scope::new("s").expect("a scope")]).expect("a claim");
        let key = TokenKey::new(&WorkspaceName::new(&name).expect("a name"), &claim, Lifetime::MAX);
        assert_eq!((key.workspace(), key.lifetime(), key.scopes()), (&*name, Lifetime::MAX, "s"));
        assert!(key.users().eq(claim.users().iter().map(|user| user.as_str())));
        assert_eq!(key.claim(), claim.to_string());
    }

    #[test]
    fn equal_requests_share_a_key_and_all_others_differ() {
        let base = key("default", "user_id:a read:x write:x", "1d");
        assert_eq!(base, key("default", "write:x read:x user_id:a user_id:a", "24 hours"));
        for other in [
            key("other", "user_id:a read:x write:x", "1d"),
            key("default", "user_id:b read:x write:x", "1d"),
            key("default", "user_id:a user_id:b read:x write:x", "1d"),
            key("default", "user_id:a read:x", "1d"),
            key("default", "user_id:a read:x write:x read:y", "1d"),
            key("default", "user_id:a read:x write:x", "2d"),
        ] {
            assert_ne!(base, other);
        }
        assert_ne!(
            key("default", "user_id:a user_id:b read:x", "1d"),
            key("default", "user_id:b user_id:a read:x", "1d"),
        );
    }

    #[test]
    fn text_that_is_not_exactly_that_of_a_key_is_rejected() {
        let text = "default 60 user_id:a read:x write:x";
        assert_eq!(TokenKey::parse(text).map(|key| key.as_str().to_owned()).as_deref(), Some(text));
        for text in [
            "",
            "default",
            "default 60",
            "default 60 ",
            "default 60 user_id:a",
            "default +60 user_id:a read:x",
            "default 060 user_id:a read:x",
            "default 0 user_id:a read:x",
            "default 4294967296 user_id:a read:x",
            "default 60 user_id:a write:x read:x",
            "default 60 read:x user_id:a",
            "default 60  user_id:a read:x",
            "default 60 user_id:a read:x ",
            "Default 60 user_id:a read:x",
        ] {
            assert_eq!(TokenKey::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn workspace_name_with_a_separator_is_rejected() {
        for name in ["", "a b", "A", "a/b", "ä", "a\n", &"x".repeat(65)] {
            assert_eq!(WorkspaceName::new(name), Err(WorkspaceNameError), "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn keys_are_equal_only_if_their_parts_are(
            one in ("[ab]{1,2}", "[ab0-9 :]{1,4}", 1u32..3),
            two in ("[ab]{1,2}", "[ab0-9 :]{1,4}", 1u32..3),
        ) {
            let make = |(workspace, text, seconds): &(String, String, u32)| {
                let text = format!("user_id:u {text}");
                let claim = ScopeClaim::parse(&text).ok()?;
                let lifetime = Lifetime::from_seconds(f64::from(*seconds)).ok()?;
                let name = WorkspaceName::new(workspace).ok()?;
                Some((TokenKey::new(&name, &claim, lifetime), (workspace.clone(), claim.to_string(), *seconds)))
            };
            if let (Some((first, first_parts)), Some((second, second_parts))) = (make(&one), make(&two)) {
                prop_assert_eq!(first == second, first_parts == second_parts);
                prop_assert_eq!(TokenKey::parse(first.as_str()), Some(first));
            }
        }
    }
}

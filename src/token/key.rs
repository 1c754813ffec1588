//! Token keys: the cache keys of tokens.

use std::borrow::Borrow;
use std::cell::Cell;
use std::fmt;
use std::sync::Arc;

use triomphe::ThinArc;

use super::claim::ScopeClaim;
use super::common_parts::{CommonParts, Layout};
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
/// A token answers a request only if it was issued for an equal key. The text of a key is
/// `workspace seconds claim`. Only the last part can contain a space, so different keys have
/// different texts. Cheap to clone: one allocation has the users and points to the other parts.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TokenKey(ThinArc<CommonParts, u8>);

/// The beginning of the first user in a claim.
const FIRST_USER: &str = "user_id:";
/// The text between two users of a claim.
const NEXT_USER: &str = " user_id:";

// The longest text must not exceed its offsets.
const _: () = assert!(WorkspaceName::MAX_BYTES + " 4294967295 ".len() + FIRST_USER.len() <= u8::MAX as usize);

/// The text of a token key, for a look-up. Its buffer is reused by the thread, so that a look-up allocates nothing.
pub struct KeyText {
    text: String,
    layout: Layout,
    users_end: usize,
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
        let claim_start = text.len();
        let users_end = write(&mut text);
        let [workspace_end, claim_start, users_start] =
            [workspace.as_str().len(), claim_start, claim_start + FIRST_USER.len()].map(|place| place as u8);
        Self { text, layout: Layout { lifetime, workspace_end, claim_start, users_start }, users_end }
    }

    /// The text, which is that of an equal [`TokenKey`].
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The key of this text.
    pub fn to_key(&self) -> TokenKey {
        let users_start = self.layout.users_start.into();
        let common = [&self.text[..users_start], &self.text[self.users_end..]].concat();
        let common = CommonParts::new(self.layout, &common);
        TokenKey(ThinArc::from_header_and_slice(common, &self.text.as_bytes()[users_start..self.users_end]))
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
        Some(Self::new(&workspace, &claim, lifetime)).filter(|key| key.has_text(text.as_bytes()))
    }

    /// The text of the key, from which [`TokenKey::parse`] makes it again.
    pub fn to_text(&self) -> String {
        self.pieces().map(as_text).concat()
    }

    /// Whether this is the text of the key.
    pub fn has_text(&self, text: &[u8]) -> bool {
        let [start, users, end] = self.pieces();
        text.strip_prefix(start).and_then(|rest| rest.strip_suffix(end)) == Some(users)
    }

    /// The length of the text.
    pub fn text_len(&self) -> usize {
        self.pieces().iter().map(|piece| piece.len()).sum()
    }

    /// The name of the workspace.
    pub fn workspace(&self) -> &str {
        as_text(&self.common().text()[..self.layout().workspace_end.into()])
    }

    /// The lifetime that is requested from Courier.
    pub fn lifetime(&self) -> Lifetime {
        self.layout().lifetime
    }

    /// The scope string that is requested from Courier.
    pub fn claim(&self) -> impl fmt::Display {
        let pieces = self.claim_pieces();
        fmt::from_fn(move |out| pieces.iter().try_for_each(|piece| out.write_str(piece)))
    }

    /// The scope string up to the first user's name, from there to the end of the last one's, and from there on.
    pub fn claim_pieces(&self) -> [&str; 3] {
        let [start, users, end] = self.pieces();
        [&start[self.layout().claim_start.into()..], users, end].map(as_text)
    }

    /// The users, for logs.
    pub fn users(&self) -> impl Iterator<Item = &str> {
        let [_, users, _] = self.pieces();
        as_text(users).split(NEXT_USER)
    }

    /// The scopes alone, as one string, for logs.
    pub fn scopes(&self) -> &str {
        let [_, _, end] = self.pieces();
        as_text(&end[" ".len()..])
    }

    pub(super) fn common(&self) -> &CommonParts {
        &self.0.header.header
    }

    fn layout(&self) -> &Layout {
        self.common().layout()
    }

    /// The text up to the first user's name, from there to the end of the last one's, and from there on.
    fn pieces(&self) -> [&[u8]; 3] {
        let (start, end) = self.common().text().split_at(self.layout().users_start.into());
        [start, &self.0.slice, end]
    }
}

/// A part of a key's text: it comes from a `str`, and is between spaces or colons.
fn as_text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

/// Shows the whole key: it holds no secret.
impl fmt::Debug for TokenKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "TokenKey({:?})", self.to_text())
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
        assert_eq!(key.claim().to_string(), "user_id:a:b user_id:c read:x write:x");
        assert_eq!(key.users().collect::<Vec<_>>(), ["a:b", "c"]);
        assert_eq!(key.scopes(), "read:x write:x");
        assert_eq!((key.text_len(), key.to_text().len()), (47, 47));
        assert_eq!((size_of_val(&key), size_of::<CommonParts>()), (size_of::<usize>(), size_of::<usize>()));
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
        assert_eq!(key.claim().to_string(), claim.to_string());
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
        assert_eq!(TokenKey::parse(text).map(|key| key.to_text()).as_deref(), Some(text));
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
                prop_assert_eq!(TokenKey::parse(&first.to_text()), Some(first));
            }
        }
    }
}

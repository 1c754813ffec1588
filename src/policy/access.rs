//! Who may ask for what.

use crate::token::{Lifetime, ScopeClaim};

/// What one client may ask for.
#[derive(Clone, Debug)]
pub struct Access {
    /// The scopes that its tokens may carry.
    pub scopes: Vec<Pattern>,
    /// The users that its tokens may be for.
    pub users: Vec<Pattern>,
    /// The longest lifetime that it may ask for.
    pub max_lifetime: Lifetime,
}

/// Which rule refused. What else exists is not said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// A scope that none of the patterns matches.
    #[error("this client may not ask for one of these scopes (`scopes` in the client's settings says which it may)")]
    Scope,
    /// A user that none of the patterns matches.
    #[error("this client may not ask for one of these users (`users` in the client's settings says which it may)")]
    User,
    /// A longer lifetime than the client may ask for.
    #[error("this client may ask for at most {} seconds (`max_lifetime` in the client's settings)", .0.as_secs())]
    Lifetime(Lifetime),
}

impl Denial {
    /// What logs call it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Scope => "client-scopes",
            Self::User => "client-users",
            Self::Lifetime(_) => "client-lifetime",
        }
    }
}

impl Access {
    /// May a client ask for this user at all?
    pub fn may_speak_for(&self, user: &str) -> bool {
        matched(&self.users, user)
    }

    /// Decides whether a client may have this token.
    pub fn judge(&self, claim: &ScopeClaim<'_>, lifetime: Lifetime) -> Result<(), Denial> {
        if !claim.users().iter().all(|user| self.may_speak_for(user.as_str())) {
            Err(Denial::User)
        } else if !claim.scopes().iter().all(|scope| matched(&self.scopes, scope.as_str())) {
            Err(Denial::Scope)
        } else if lifetime > self.max_lifetime {
            Err(Denial::Lifetime(self.max_lifetime))
        } else {
            Ok(())
        }
    }
}

fn matched(patterns: &[Pattern], text: &str) -> bool {
    patterns.iter().any(|pattern| pattern.matches(text))
}

/// A text in which `*` stands for any run of characters, also none; every other
/// character stands for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    text: Box<str>,
    /// Where its first `*` is.
    star: Option<usize>,
}

impl Pattern {
    /// The longest pattern, in bytes.
    pub const MAX_BYTES: usize = 256;

    /// Reads a pattern; `None` where it is empty or too long.
    pub fn new(pattern: &str) -> Option<Self> {
        let fits = (1..=Self::MAX_BYTES).contains(&pattern.len());
        fits.then(|| Self { text: pattern.into(), star: pattern.find('*') })
    }

    /// Does the whole text match?
    pub fn matches(&self, text: &str) -> bool {
        let Some(star) = self.star else {
            return *self.text == *text;
        };
        let (first, rest) = (&self.text[..star], &self.text[star + 1..]);
        let Some(mut text) = text.strip_prefix(first) else {
            return false;
        };
        // Each piece between stars is taken at its earliest place, which leaves
        // the most for the others, so there is nothing to go back to.
        let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
        for piece in middle.split('*') {
            match text.find(piece) {
                Some(place) => text = &text[place + piece.len()..],
                None => return false,
            }
        }
        text.ends_with(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn patterns(texts: &[&str]) -> Vec<Pattern> {
        texts.iter().filter_map(|text| Pattern::new(text)).collect()
    }

    fn judge(claim: &str, lifetime: &str) -> Result<(), Denial> {
        let access = Access {
            scopes: patterns(&["inbox:*", "read:brands"]),
            users: patterns(&["shop-*"]),
            max_lifetime: Lifetime::parse("1d").expect("a day"),
        };
        access.judge(&ScopeClaim::parse(claim).expect("a claim"), Lifetime::parse(lifetime).expect("a lifetime"))
    }

    #[test]
    fn a_refusal_names_the_rule() {
        assert_eq!(judge("user_id:shop-1 inbox:read:messages read:brands", "1d"), Ok(()));
        assert_eq!(judge("user_id:shop-1 inbox:read:messages write:brands", "1d"), Err(Denial::Scope));
        assert_eq!(judge("user_id:shop-1 user_id:bank-1 read:brands", "1d"), Err(Denial::User));
        assert!(matches!(judge("user_id:shop-1 read:brands", "25h"), Err(Denial::Lifetime(_))));
    }

    #[test]
    fn a_pattern_matches_the_whole_text() {
        for (pattern, text, wanted) in [
            ("*", "", true),
            ("*", "anything", true),
            ("read:brands", "read:brands", true),
            ("read:brands", "read:brands:x", false),
            ("inbox:*", "inbox:read:messages", true),
            ("inbox:*", "xinbox:read", false),
            ("tenant:*:read", "tenant:a:b:read", true),
            ("tenant:*:read", "tenant:read", false),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("*b*b", "ab", false),
            ("*ab*cd*", "xabycdz", true),
            ("**", "x", true),
        ] {
            let pattern = Pattern::new(pattern).expect("a pattern");
            assert_eq!(pattern.matches(text), wanted, "{pattern:?} {text:?}");
        }
    }

    /// The definition, without any care for speed.
    fn slow(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern, text) {
            ([], []) => true,
            ([b'*', rest @ ..], _) => (0..=text.len()).any(|skip| slow(rest, &text[skip..])),
            ([one, pattern @ ..], [other, text @ ..]) => one == other && slow(pattern, text),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn matching_follows_the_definition(pattern in "[ab*]{1,6}", text in "[ab]{0,8}") {
            let wanted = slow(pattern.as_bytes(), text.as_bytes());
            let pattern = Pattern::new(&pattern).expect("not empty");
            prop_assert_eq!(pattern.matches(&text), wanted);
        }
    }
}

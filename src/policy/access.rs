//! Access rules: the scopes, users and lifetimes that a client may request.

use crate::token::{Lifetime, Profile, ScopeClaim};

/// The requests that one client may make.
#[derive(Clone, Debug)]
pub struct Access {
    /// The scopes that its tokens may carry.
    pub scopes: Vec<Pattern>,
    /// The users that its tokens may be for.
    pub users: Vec<Pattern>,
    /// The longest lifetime that it may ask for.
    pub max_lifetime: Lifetime,
    /// Where this is set, so that a refusal can say what to change.
    pub set_by: SetBy,
}

/// Where the access of a client is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SetBy {
    /// The client's entry in the settings.
    #[default]
    Entry,
    /// Variables of the environment.
    Environment,
    /// The sandbox, which has no settings.
    Sandbox,
}

/// Which rule refused a request, and everything in it that the rule refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denial {
    /// Scopes that none of the patterns matches.
    Scopes(Vec<String>),
    /// Users that none of the patterns matches.
    Users(Vec<String>),
    /// A longer lifetime than the client may ask for.
    Lifetime(Lifetime),
}

impl Denial {
    /// The rule's name in logs.
    pub const fn rule(&self) -> &'static str {
        match self {
            Self::Scopes(_) => "client-scopes",
            Self::Users(_) => "client-users",
            Self::Lifetime(_) => "client-lifetime",
        }
    }

    /// The scopes, users or lifetime that were refused, as logs show them.
    pub fn refused(&self) -> String {
        match self {
            Self::Scopes(texts) | Self::Users(texts) => texts.join(" "),
            Self::Lifetime(asked) => asked.to_string(),
        }
    }
}

impl Access {
    /// Whether the client may request tokens for this user at all.
    pub fn allows_user(&self, user: &str) -> bool {
        matched(&self.users, user)
    }

    /// Whether the client may request all scopes of this profile.
    pub fn allows_profile(&self, profile: &Profile) -> bool {
        profile.scopes().all(|scope| matched(&self.scopes, scope.as_str()))
    }

    /// Decides whether a client may have this token.
    pub fn check(&self, claim: &ScopeClaim<'_>, lifetime: Lifetime) -> Result<(), Denial> {
        let users = unmatched(&self.users, claim.users().iter().map(|user| user.as_str()));
        if !users.is_empty() {
            return Err(Denial::Users(users));
        }
        let scopes = unmatched(&self.scopes, claim.scopes().iter().map(|scope| scope.as_str()));
        if !scopes.is_empty() {
            return Err(Denial::Scopes(scopes));
        }
        if lifetime > self.max_lifetime { Err(Denial::Lifetime(lifetime)) } else { Ok(()) }
    }
}

/// The texts that no pattern matches. Allocates nothing if all match.
fn unmatched<'a>(patterns: &[Pattern], texts: impl Iterator<Item = &'a str>) -> Vec<String> {
    texts.filter(|text| !matched(patterns, text)).map(str::to_owned).collect()
}

fn matched(patterns: &[Pattern], text: &str) -> bool {
    patterns.iter().any(|pattern| pattern.matches(text))
}

/// A pattern in which `*` matches any run of characters, also none; all others match literally.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    text: Box<str>,
    /// The position of the first `*`.
    star: Option<usize>,
}

impl Pattern {
    /// The longest pattern, in bytes.
    pub const MAX_BYTES: usize = 256;

    /// Parses a pattern of 1 to [`Pattern::MAX_BYTES`] bytes.
    ///
    /// ```
    /// use courier_token_broker::policy::access::{Pattern, PatternError};
    ///
    /// let pattern = Pattern::new("tenant:*:read")?;
    /// assert!(pattern.matches("tenant:acme:read") && !pattern.matches("tenant:acme:write"));
    /// assert_eq!(Pattern::new(""), Err(PatternError));
    /// # Ok::<(), PatternError>(())
    /// ```
    pub fn new(pattern: &str) -> Result<Self, PatternError> {
        let fits = (1..=Self::MAX_BYTES).contains(&pattern.len());
        if fits { Ok(Self { text: pattern.into(), star: pattern.find('*') }) } else { Err(PatternError) }
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the whole text matches.
    pub fn matches(&self, text: &str) -> bool {
        let Some(star) = self.star else {
            return *self.text == *text;
        };
        let (first, rest) = (&self.text[..star], &self.text[star + 1..]);
        let Some(mut text) = text.strip_prefix(first) else {
            return false;
        };
        if rest.is_empty() {
            return true;
        }
        // Matching each piece at its earliest position leaves the most for the others, so no
        // backtracking is needed.
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

/// The error for an empty pattern, and for one longer than [`Pattern::MAX_BYTES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a pattern of 1 to {} bytes", Pattern::MAX_BYTES)]
pub struct PatternError;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn patterns(texts: &[&str]) -> Vec<Pattern> {
        texts.iter().map(|text| Pattern::new(text).expect("a pattern")).collect()
    }

    fn check(claim: &str, lifetime: &str) -> Result<(), Denial> {
        let access = Access {
            scopes: patterns(&["inbox:*", "read:brands"]),
            users: patterns(&["shop-*"]),
            max_lifetime: Lifetime::parse("1d").expect("a day"),
            set_by: SetBy::Entry,
        };
        access.check(&ScopeClaim::parse(claim).expect("a claim"), Lifetime::parse(lifetime).expect("a lifetime"))
    }

    #[test]
    fn refusal_names_the_rule_and_everything_that_it_refused() {
        let scopes = |scopes: &[&str]| Err(Denial::Scopes(scopes.iter().map(|&scope| scope.to_owned()).collect()));
        let users = |users: &[&str]| Err(Denial::Users(users.iter().map(|&user| user.to_owned()).collect()));
        assert_eq!(check("user_id:shop-1 inbox:read:messages read:brands", "1d"), Ok(()));
        assert_eq!(check("user_id:shop-1 inbox:read:messages write:brands", "1d"), scopes(&["write:brands"]));
        assert_eq!(check("user_id:shop-1 z:z read:brands a:a", "1d"), scopes(&["a:a", "z:z"]));
        assert_eq!(check("user_id:bank-2 user_id:shop-1 user_id:bank-1 z:z", "25h"), users(&["bank-2", "bank-1"]));
        let asked = Lifetime::parse("25h").expect("a lifetime");
        assert_eq!(check("user_id:shop-1 read:brands", "25h"), Err(Denial::Lifetime(asked)));
        let shown = |claim, lifetime| check(claim, lifetime).map_err(|denial| (denial.rule(), denial.refused()));
        let refused = |rule, refused: &str| Err((rule, refused.to_owned()));
        assert_eq!(shown("user_id:b user_id:a z:z", "1d"), refused("client-users", "b a"));
        assert_eq!(shown("user_id:shop-1 z:z a:a", "1d"), refused("client-scopes", "a:a z:z"));
        assert_eq!(shown("user_id:shop-1 read:brands", "25h"), refused("client-lifetime", "90000s"));
    }

    #[test]
    fn empty_or_long_pattern_is_rejected() {
        for (pattern, is_valid) in [(0, false), (1, true), (256, true), (257, false)] {
            assert_eq!(Pattern::new(&"*".repeat(pattern)).is_ok(), is_valid, "{pattern}");
        }
    }

    #[test]
    fn pattern_matches_the_whole_text() {
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

    /// The definition, without regard to speed.
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

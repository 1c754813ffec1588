//! Why sessions are not accepted.

/// Why a session is invalid or not sufficient. Responses do not show it, since it would help forgers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionDenial {
    /// Longer than the limit.
    TooLong,
    /// Not three parts in base64url.
    Malformed,
    /// The header is no JSON object, or has a forbidden field.
    Header,
    /// The settings don't allow the algorithm.
    Algorithm,
    /// No key has its `kid`, or it has no `kid` and there are several keys.
    UnknownKey,
    /// The signature is wrong.
    Signature,
    /// The claims are no JSON object, are duplicate or have a wrong type.
    Claims,
    /// The issuer is another one.
    Issuer,
    /// The audience is another one.
    Audience,
    /// It has no `exp`.
    NoExpiry,
    /// It has expired.
    Expired,
    /// It is not valid yet.
    NotYetValid,
    /// It names no user, or the id is invalid.
    User,
    /// The request names another user than the session.
    OtherUser,
    /// The remaining life is too short for any token.
    NearExpiry,
    /// The cookie appears more than once.
    DuplicateCookie,
}

impl SessionDenial {
    /// The name in logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TooLong => "too-long",
            Self::Malformed => "malformed",
            Self::Header => "header",
            Self::Algorithm => "algorithm",
            Self::UnknownKey => "unknown-key",
            Self::Signature => "signature",
            Self::Claims => "claims",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
            Self::NoExpiry => "no-expiry",
            Self::Expired => "expired",
            Self::NotYetValid => "not-yet",
            Self::User => "user",
            Self::OtherUser => "other-user",
            Self::NearExpiry => "near-its-end",
            Self::DuplicateCookie => "cookie-twice",
        }
    }
}

/// Why a session is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionError {
    /// The session is invalid.
    Denied(SessionDenial),
    /// The issuer's keys are not loaded yet.
    NoKeys,
    /// No known key has its `kid`, and the issuer's present keys could not be fetched in time.
    Undecided,
}

impl SessionError {
    /// The same before the issuer's present keys are known: a denial may be wrong.
    pub fn or_undecided(self) -> Self {
        match self {
            Self::Denied(_) => Self::Undecided,
            other => other,
        }
    }
}

impl From<SessionDenial> for SessionError {
    fn from(denial: SessionDenial) -> Self {
        Self::Denied(denial)
    }
}

//! What Prometheus' labels may say.

/// A route of the app listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// `POST /auth/issue-token`
    IssueToken,
    /// `POST` and `GET /api/generate-courier-jwt`
    Frontend,
    /// `POST /v1/tokens`
    Tokens,
    /// `POST /v1/tokens/rejected`
    Rejected,
    /// `DELETE /v1/users/{id}/tokens`
    SignOut,
    /// Every other path.
    Other,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Answered from memory.
    Hit,
    /// Waited for a call to Courier of its own.
    Miss,
    /// Waited for a call that another request had begun.
    Collapsed,
    /// Found a token that was too old.
    Stale,
    /// Done; no token was asked for.
    Done,
    /// Refused: who asked, or what for (401, 403).
    Denied,
    /// Refused: the request made no sense (other 4xx).
    Invalid,
    /// Refused: the budget could not serve it in time (429), or too many requests
    /// were under way (503).
    Limited,
    /// Courier or the broker failed (5xx).
    Failed,
}

/// How a call to Courier ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallOutcome {
    /// A token.
    Issued,
    /// Courier refused the request (400).
    Refused,
    /// Courier refused the broker's API key (401, 402, 403).
    Credentials,
    /// Courier asked to slow down (429).
    Throttled,
    /// Courier failed (5xx) or answered what no API answers.
    Unavailable,
    /// No connection could be made, or it broke.
    Connect,
    /// No answer in time.
    Timeout,
    /// The answer could not be read.
    Malformed,
    /// The token was not what was asked for.
    Mismatch,
}

/// Why a connection was closed before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// Its peer's address had too many.
    PerIp,
    /// Its TLS handshake failed, or took too long.
    Handshake,
    /// It gave up too many of its requests.
    Resets,
}

/// Why a token left the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// It ran out.
    Expired,
    /// A newer one took its place.
    Replaced,
    /// The cache was full.
    Evicted,
    /// It was taken out on purpose.
    Removed,
}

/// What was read again while the broker runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reloaded {
    /// The settings, and all secrets with them.
    Settings,
    /// A workspace's API key.
    ApiKey,
    /// The certificate of TLS.
    Certificate,
}

/// A closed set of label values.
pub trait Label: Copy + 'static {
    /// All of them.
    const ALL: &'static [Self];
    /// The word for Prometheus.
    fn as_str(self) -> &'static str;
}

macro_rules! label {
    ($type:ty { $($variant:ident = $text:literal),+ $(,)? }) => {
        impl Label for $type {
            const ALL: &'static [Self] = &[$(Self::$variant),+];
            fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }
    };
}

label!(Route {
    IssueToken = "/auth/issue-token",
    Frontend = "/api/generate-courier-jwt",
    Tokens = "/v1/tokens",
    Rejected = "/v1/tokens/rejected",
    SignOut = "/v1/users/{id}/tokens",
    Other = "other",
});
label!(Outcome {
    Hit = "hit",
    Miss = "miss",
    Collapsed = "collapsed",
    Stale = "stale",
    Done = "done",
    Denied = "denied",
    Invalid = "invalid",
    Limited = "limited",
    Failed = "failed",
});
label!(CallOutcome {
    Issued = "issued",
    Refused = "refused",
    Credentials = "credentials",
    Throttled = "throttled",
    Unavailable = "unavailable",
    Connect = "connect",
    Timeout = "timeout",
    Malformed = "malformed",
    Mismatch = "mismatch",
});
label!(Dropped { PerIp = "per_ip", Handshake = "handshake", Resets = "resets" });
label!(Removal { Expired = "expired", Replaced = "replaced", Evicted = "evicted", Removed = "removed" });

label!(Reloaded { Settings = "settings", ApiKey = "api_key", Certificate = "certificate" });

impl Reloaded {
    /// The word for logs.
    pub fn as_str(self) -> &'static str {
        Label::as_str(self)
    }
}

impl CallOutcome {
    /// The word for logs.
    pub fn as_str(self) -> &'static str {
        Label::as_str(self)
    }
}

//! Label values.

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

/// The outcome of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Served from the cache.
    Hit,
    /// Waited for a call to Courier of its own.
    Miss,
    /// Waited for another request's call.
    Collapsed,
    /// The cached token was too old.
    Stale,
    /// Succeeded; no token was asked for.
    Done,
    /// Refused: authentication or access (401, 403).
    Denied,
    /// Refused: invalid request (other 4xx).
    Invalid,
    /// Refused: the budget could not serve it in time (429), or too many requests were in flight (503).
    Limited,
    /// Courier or the broker failed (5xx).
    Failed,
}

/// The outcome of a call to Courier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallOutcome {
    /// A token was issued.
    Issued,
    /// Courier refused the request (400).
    Refused,
    /// Courier refused the broker's API key (401, 402, 403).
    Credentials,
    /// Courier limited the rate (429).
    Throttled,
    /// Courier failed (5xx) or sent an unexpected answer.
    Unavailable,
    /// The connection failed or broke.
    Connect,
    /// No answer in time.
    Timeout,
    /// The answer could not be read.
    Malformed,
    /// The token does not match the request.
    Mismatch,
}

/// Why a connection was closed early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// The address had too many connections.
    PerIp,
    /// The TLS handshake failed or timed out.
    Handshake,
    /// The peer cancelled too many requests.
    Resets,
}

/// Why a token left the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// It expired.
    Expired,
    /// A newer token replaced it.
    Replaced,
    /// The cache was full.
    Evicted,
    /// A sign-out, a purge or a rejection removed it.
    Removed,
}

/// The subject of a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reloaded {
    /// The settings, and all secrets with them.
    Settings,
    /// A workspace's API key.
    ApiKey,
    /// The TLS certificate.
    Certificate,
}

/// A closed set of label values.
pub trait Label: Copy + 'static {
    /// All values.
    const ALL: &'static [Self];
    /// The value for Prometheus.
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
    /// The name in logs.
    pub fn as_str(self) -> &'static str {
        Label::as_str(self)
    }
}

impl CallOutcome {
    /// The name in logs.
    pub fn as_str(self) -> &'static str {
        Label::as_str(self)
    }
}

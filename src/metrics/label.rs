//! Labels of metrics: closed sets of values.

use crate::policy::admission::queue::Class;
use crate::policy::refresh::Reason;

/// A label with a closed set of values.
pub trait Label: Copy + 'static {
    /// The label's name.
    const NAME: &'static str;
    /// Every value, in the order of their declaration.
    const ALL: &'static [Self];

    /// The value for Prometheus.
    fn as_str(self) -> &'static str;

    /// The place in [`Self::ALL`].
    fn place(self) -> usize;
}

macro_rules! label {
    ($type:ident $name:literal $all:expr) => {
        impl Label for $type {
            const NAME: &'static str = $name;
            const ALL: &'static [Self] = $all;

            fn as_str(self) -> &'static str {
                self.as_str()
            }

            fn place(self) -> usize {
                self as usize
            }
        }
    };
}

macro_rules! labels {
    ($($(#[$doc:meta])* $type:ident $name:literal { $($(#[$of:meta])* $variant:ident = $text:expr),+ $(,)? })+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $type {
            $($(#[$of])* $variant),+
        }

        impl $type {
            /// The value in metrics and logs.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        label!($type $name &[$(Self::$variant),+]);
    )+};
}

label!(Class "class" &Self::ALL);
label!(Reason "reason" &Self::ALL);

labels! {
    /// A route of the app listener.
    Route "route" {
        /// `POST /auth/issue-token`
        IssueToken = "/auth/issue-token",
        /// `POST` and `GET /api/generate-courier-jwt`
        Frontend = "/api/generate-courier-jwt",
        /// `POST /v1/tokens`
        Tokens = "/v1/tokens",
        /// `POST /v1/tokens/rejected`
        Rejected = "/v1/tokens/rejected",
        /// `DELETE /v1/users/{id}/tokens`
        SignOut = "/v1/users/{id}/tokens",
        /// `GET /openapi.json`
        OpenApi = "/openapi.json",
        /// Every other path.
        Other = "other",
    }

    /// The outcome of a request.
    RequestOutcome "outcome" {
        /// Served from the cache.
        Hit = "hit",
        /// Waited for a call to Courier of its own.
        Miss = "miss",
        /// Waited for another request's call.
        Collapsed = "collapsed",
        /// The cached token was too old.
        Stale = "stale",
        /// Succeeded; no token was asked for.
        Done = "done",
        /// Refused: authentication or access (401, 403).
        Denied = "denied",
        /// Refused: invalid request (other 4xx).
        Invalid = "invalid",
        /// Refused: the budget could not serve it in time (429), or too many requests were in flight (503).
        Limited = "limited",
        /// Courier or the broker failed (5xx).
        Failed = "failed",
    }

    /// The outcome of a call to Courier.
    CallOutcome "outcome" {
        /// A token was issued.
        Issued = "issued",
        /// Courier refused the request (400).
        Refused = "refused",
        /// Courier refused the broker's API key (401, 402, 403).
        Credentials = "credentials",
        /// Courier limited the rate (429).
        Throttled = "throttled",
        /// Courier failed (5xx) or sent an unexpected answer.
        Unavailable = "unavailable",
        /// The connection failed or broke.
        Connect = "connect",
        /// No answer in time.
        Timeout = "timeout",
        /// The answer could not be read.
        Malformed = "malformed",
        /// The token does not match the request.
        Mismatch = "mismatch",
        /// Given up: another call for the same token was answered first.
        Cancelled = "cancelled",
    }

    /// The kind of a caller, as in the audit log.
    #[derive(PartialOrd, Ord)]
    Who "who" {
        /// A client of the settings.
        Client = "client",
        /// A user with a session.
        Session = "session",
        /// An unauthenticated caller.
        Nobody = "nobody",
    }

    /// A listener.
    ListenerKind "listener" {
        /// The listeners for apps.
        App = "app",
        /// The admin listener.
        Admin = "admin",
    }

    /// A part of the broker that may be not ready.
    Part "part" {
        /// It serves requests and does not stop.
        Serving = "serving",
        /// The circuit breakers of all workspaces are closed.
        Courier = "courier",
        /// The store works.
        Store = "store",
        /// The issuer's keys are loaded.
        Sessions = "sessions",
    }

    /// Why a connection was closed early.
    Dropped "cause" {
        /// The address had too many connections.
        PerIp = "per_ip",
        /// The TLS handshake failed or timed out.
        Handshake = "handshake",
        /// The peer cancelled too many requests.
        Resets = "resets",
        /// It was idle, and was closed for a new one where there were too many.
        Idle = "idle",
    }

    /// Why a token left the cache.
    Removal "cause" {
        /// It expired.
        Expired = "expired",
        /// A newer token replaced it.
        Replaced = "replaced",
        /// The cache was full.
        Evicted = "evicted",
        /// A sign-out, a purge or a rejection removed it.
        Removed = "removed",
    }

    /// The subject of a reload.
    Reloaded "what" {
        /// The settings, and all secrets with them.
        Settings = "settings",
        /// A workspace's API key.
        ApiKey = "api_key",
        /// The TLS certificate.
        Certificate = "certificate",
    }

    /// The outcome of a reload.
    ReloadOutcome "outcome" {
        /// The new configuration is in use.
        Applied = "applied",
        /// The running configuration stays in use.
        Refused = "refused",
    }

    /// The outcome of a renewal.
    RenewalOutcome "outcome" {
        /// A token was issued.
        Issued = "issued",
        /// No token was issued.
        Failed = "failed",
    }

    /// The outcome of a JWKS fetch.
    FetchOutcome "outcome" {
        /// The keys were fetched.
        Fetched = "fetched",
        /// The keys before it stay in use.
        Failed = "failed",
    }

    /// An operation of a store.
    StoreOperation "operation" {
        /// Reading all at the start.
        Load = "load",
        /// Appending what changed.
        Write = "write",
        /// Making it outlive the machine.
        Sync = "sync",
        /// Writing all that is in memory.
        Snapshot = "snapshot",
        /// Looking for a token and taking its lease.
        Open = "open",
        /// Storing a token.
        Land = "land",
        /// Renewing a lease.
        Renew = "renew",
        /// Giving a lease back.
        Release = "release",
        /// Telling other brokers of a sign-out, a rejection or a 429.
        Tell = "tell",
        /// Taking permits of the fleet's budget.
        Permits = "permits",
        /// Counting a call that a fleet without renewals would have made.
        Count = "count",
    }

    /// The outcome of an operation of a store.
    StoreOutcome "outcome" {
        /// It was done.
        Done = "done",
        /// It failed.
        Failed = "failed",
    }

    /// The duration of an outage.
    Horizon "horizon" { Short = "5m", Medium = "15m", Long = "60m" }

    /// Whether a broker of the fleet is heard.
    MemberState "state" {
        /// It is.
        Live = "live",
        /// It was, within the last minute.
        Missing = "missing",
    }

    /// The outcome of a look for a token in the fleet's store.
    LookOutcome "outcome" {
        /// A token of another broker, or of this one before its restart.
        Found = "found",
        /// None, and this broker may call.
        Leased = "leased",
        /// None, and another broker calls.
        Held = "held",
        /// No answer in time: this broker calls on its own.
        Away = "away",
    }

    /// The program's version.
    Version "version" { Running = env!("CARGO_PKG_VERSION") }
}

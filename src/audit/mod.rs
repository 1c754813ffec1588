//! The audit log's events: actor, action and subject.
//!
//! All are declared here, so that their fields have the same names everywhere; docs/operations.md has a
//! table of them. A cache hit is no event: it does no I/O.
//!
//! Callers' data is included only after validation: user ids and scopes have no white space and no
//! control characters. No event has a key, a session or a token.

use std::borrow::Cow;
use std::net::IpAddr;

/// The target of these events, which separates them from the rest of the log.
pub const TARGET: &str = "audit";

/// The name of the line of all sessions, under which a store also keeps their entries. No client has it.
pub const SESSIONS: &str = "";

/// The actor of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actor<'a> {
    /// The app with this name in the settings.
    Client(Cow<'a, str>),
    /// A user with a session.
    Session,
    /// The broker itself, for renewals.
    Broker,
    /// An operator, at the admin listener or at the machine.
    Operator,
    /// An unauthenticated caller.
    Unauthenticated,
}

impl Actor<'_> {
    /// Clones borrowed data.
    pub fn into_owned(self) -> Actor<'static> {
        match self {
            Self::Client(name) => Actor::Client(name.into_owned().into()),
            Self::Session => Actor::Session,
            Self::Broker => Actor::Broker,
            Self::Operator => Actor::Operator,
            Self::Unauthenticated => Actor::Unauthenticated,
        }
    }

    /// The client's name, if the actor is a client.
    pub fn client(&self) -> Option<&str> {
        match self {
            Self::Client(name) => Some(name),
            _ => None,
        }
    }

    /// The name of the line that its calls queue in: the client's, or [`SESSIONS`].
    pub fn line(&self) -> &str {
        self.client().unwrap_or(SESSIONS)
    }

    const fn as_str(&self) -> &'static str {
        match self {
            Self::Client(_) => "client",
            Self::Session => "session",
            Self::Broker => "broker",
            Self::Operator => "operator",
            Self::Unauthenticated => "nobody",
        }
    }
}

/// The subject of an event, as far as known. Users and scopes are one text each, separated by spaces,
/// which no id or scope contains.
#[derive(Clone, Copy, Debug, Default)]
pub struct Subject<'a> {
    /// The workspace.
    pub workspace: Option<&'a str>,
    /// The users.
    pub users: Option<&'a str>,
    /// The scopes.
    pub scopes: Option<&'a str>,
    /// The requested lifetime, in seconds.
    pub lifetime_seconds: Option<u32>,
}

/// A refused request.
#[derive(Clone, Debug)]
pub struct Refusal<'a> {
    /// The caller.
    pub actor: Actor<'a>,
    /// The request.
    pub subject: Subject<'a>,
    /// The rule that refused.
    pub rule: &'static str,
    /// The refused part of the request: scopes, users or a lifetime.
    pub refused: Option<&'a str>,
    /// The id of the request, which its caller was told.
    pub request_id: Option<&'a str>,
}

impl<'a> Refusal<'a> {
    /// A refusal of a request without an id.
    pub const fn new(actor: Actor<'a>, subject: Subject<'a>, rule: &'static str, refused: Option<&'a str>) -> Self {
        Self { actor, subject, rule, refused, request_id: None }
    }

    /// Logs the refusal. `peer` is the caller's address, given where nothing else identifies the caller;
    /// behind a proxy it is the proxy's.
    pub fn log(&self, peer: Option<IpAddr>) {
        let Self { rule, refused, subject, request_id, .. } = *self;
        let details = Details { rule: Some(rule), refused, peer, request_id, ..Details::default() };
        emit("refused", &self.actor, subject, details);
    }
}

/// Logs an issued token. `expires_at` is RFC 3339; the reason is "asked" or the reason of the renewal.
pub fn issued(actor: &Actor<'_>, subject: Subject<'_>, expires_at: &str, reason: &'static str) {
    emit(
        "issued",
        actor,
        subject,
        Details { expires_at: Some(expires_at), reason: Some(reason), ..Details::default() },
    );
}

/// Logs a sign-out, which removed this many tokens.
pub fn signed_out(actor: &Actor<'_>, subject: Subject<'_>, tokens: usize) {
    emit("signed-out", actor, subject, Details { tokens: Some(tokens), ..Details::default() });
}

/// Logs the removal of a token that a client reported as rejected by Courier.
pub fn rejected(actor: &Actor<'_>, subject: Subject<'_>) {
    emit("rejected", actor, subject, Details::default());
}

/// Logs a purge of a workspace, which removed this many tokens.
pub fn purged(workspace: &str, tokens: usize) {
    let subject = Subject { workspace: Some(workspace), ..Subject::default() };
    emit("purged", &Actor::Operator, subject, Details { tokens: Some(tokens), ..Details::default() });
}

/// Logs an applied reload of `what`, such as "settings" or "api_key". `changed` has the names of the
/// settings.
pub fn reloaded(what: &'static str, workspace: Option<&str>, changed: &str) {
    let subject = Subject { workspace, ..Subject::default() };
    let details = Details { what: Some(what), outcome: Some("applied"), changed: Some(changed), ..Details::default() };
    emit("reload", &Actor::Operator, subject, details);
}

/// Logs a rejected reload and its error.
pub fn reload_rejected(what: &'static str, error: &str) {
    let details = Details { what: Some(what), outcome: Some("refused"), error: Some(error), ..Details::default() };
    emit("reload", &Actor::Operator, Subject::default(), details);
}

/// Logs how many refusals by this rule (and of this client, if known) were left out in the last window.
pub fn left_out(rule: &'static str, client: Option<&str>, count: u64) {
    let actor = client.map_or(Actor::Unauthenticated, |name| Actor::Client(name.into()));
    emit(
        "left-out",
        &actor,
        Subject::default(),
        Details { rule: Some(rule), left_out: Some(count), ..Details::default() },
    );
}

/// Logs how many lines were not written to the file.
pub fn lost(count: u64) {
    emit("left-out", &Actor::Broker, Subject::default(), Details { left_out: Some(count), ..Details::default() });
}

/// The fields that not all events have; empty ones are left out.
#[derive(Default)]
struct Details<'a> {
    peer: Option<IpAddr>,
    expires_at: Option<&'a str>,
    reason: Option<&'static str>,
    rule: Option<&'static str>,
    refused: Option<&'a str>,
    tokens: Option<usize>,
    what: Option<&'static str>,
    outcome: Option<&'static str>,
    changed: Option<&'a str>,
    error: Option<&'a str>,
    left_out: Option<u64>,
    request_id: Option<&'a str>,
}

fn emit(event: &'static str, actor: &Actor<'_>, subject: Subject<'_>, details: Details<'_>) {
    let Subject { workspace, users, scopes, lifetime_seconds } = subject;
    tracing::info!(
        target: TARGET,
        event,
        who = actor.as_str(),
        client = actor.client(),
        peer = details.peer.map(tracing::field::display),
        workspace,
        users,
        scopes,
        lifetime_seconds,
        expires_at = details.expires_at,
        reason = details.reason,
        rule = details.rule,
        refused = details.refused,
        tokens = details.tokens,
        what = details.what,
        outcome = details.outcome,
        changed = details.changed,
        error = details.error,
        left_out = details.left_out,
        request_id = details.request_id,
    );
}

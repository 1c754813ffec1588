//! Who had what done, for whom: the audit log's events.
//!
//! They are declared here alone, so that their fields have the same names
//! everywhere; docs/operations.md has a table of them. A hit is no event: it does no IO.
//!
//! What callers sent is in them only as it was checked: user ids and scopes have
//! no white space and no control characters. Keys, sessions and tokens are in
//! none.

use std::borrow::Cow;
use std::net::IpAddr;

/// The target of all these events, by which they are told from the rest of the
/// log.
pub const TARGET: &str = "audit";

/// Who had it done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who<'a> {
    /// The app with this name in the settings.
    Client(Cow<'a, str>),
    /// A user, with a session.
    Session,
    /// The broker itself, which renews.
    Broker,
    /// Somebody at the admin listener, or at the machine.
    Operator,
    /// Somebody who showed nothing that counts.
    Nobody,
}

impl Who<'_> {
    /// The same, for longer than what it was made of.
    pub fn into_owned(self) -> Who<'static> {
        match self {
            Self::Client(name) => Who::Client(name.into_owned().into()),
            Self::Session => Who::Session,
            Self::Broker => Who::Broker,
            Self::Operator => Who::Operator,
            Self::Nobody => Who::Nobody,
        }
    }

    /// The client's name, if it is a client.
    pub fn client(&self) -> Option<&str> {
        match self {
            Self::Client(name) => Some(name),
            _ => None,
        }
    }

    const fn as_str(&self) -> &'static str {
        match self {
            Self::Client(_) => "client",
            Self::Session => "session",
            Self::Broker => "broker",
            Self::Operator => "operator",
            Self::Nobody => "nobody",
        }
    }
}

/// What it was about, as far as that is known. Users and scopes stand in one
/// text each, with spaces between them: none has a space in it.
#[derive(Clone, Copy, Debug, Default)]
pub struct About<'a> {
    /// The workspace.
    pub workspace: Option<&'a str>,
    /// The users.
    pub users: Option<&'a str>,
    /// The scopes.
    pub scopes: Option<&'a str>,
    /// The lifetime that was asked for, in seconds.
    pub lifetime_seconds: Option<u32>,
}

/// A refusal.
#[derive(Clone, Debug)]
pub struct Refusal<'a> {
    /// Who was refused.
    pub who: Who<'a>,
    /// What was asked for.
    pub about: About<'a>,
    /// The rule that refused.
    pub rule: &'static str,
    /// The part of the request that the rule refused: scopes, users or a lifetime.
    pub refused: Option<&'a str>,
}

impl Refusal<'_> {
    /// Tells of the refusal. `peer` is the address that the request came from, to be
    /// found where nothing else tells who called; behind a proxy it is the proxy's.
    pub fn tell(&self, peer: Option<IpAddr>) {
        let Self { rule, refused, about, .. } = *self;
        Line { rule: Some(rule), refused, peer, ..Line::new("refused", &self.who, about) }.tell();
    }
}

/// A call to Courier brought a token. `expires_at` is RFC 3339; the reason is
/// "asked" or why the token was renewed.
pub fn issued(who: &Who<'_>, about: About<'_>, expires_at: &str, reason: &'static str) {
    Line { expires_at: Some(expires_at), reason: Some(reason), ..Line::new("issued", who, about) }.tell();
}

/// A user's tokens were forgotten: so many.
pub fn signed_out(who: &Who<'_>, about: About<'_>, tokens: usize) {
    Line { tokens: Some(tokens), ..Line::new("signed-out", who, about) }.tell();
}

/// A token was taken out, since somebody says that Courier rejects it.
pub fn rejected(who: &Who<'_>, about: About<'_>) {
    Line::new("rejected", who, about).tell();
}

/// A workspace's tokens were forgotten: so many.
pub fn purged(workspace: &str, tokens: usize) {
    let about = About { workspace: Some(workspace), ..About::default() };
    Line { tokens: Some(tokens), ..Line::new("purged", &Who::Operator, about) }.tell();
}

/// Something was read again while the broker runs and holds now: `what`, such as
/// "settings" or "api_key". `changed` are the names of the settings.
pub fn reloaded(what: &'static str, workspace: Option<&str>, changed: &str) {
    let about = About { workspace, ..About::default() };
    let line = Line::new("reload", &Who::Operator, about);
    Line { what: Some(what), outcome: Some("applied"), changed: Some(changed), ..line }.tell();
}

/// Something was read again, and changes nothing since this is wrong with it.
pub fn reload_rejected(what: &'static str, error: &str) {
    let line = Line::new("reload", &Who::Operator, About::default());
    Line { what: Some(what), outcome: Some("refused"), error: Some(error), ..line }.tell();
}

/// So many refusals by this rule, of this client if it was one, were not told:
/// they were too many in a moment.
pub fn left_out(rule: &'static str, client: Option<&str>, count: u64) {
    let who = client.map_or(Who::Nobody, |name| Who::Client(name.into()));
    Line { rule: Some(rule), left_out: Some(count), ..Line::new("left-out", &who, About::default()) }.tell();
}

/// So many lines did not get into the file.
pub fn lost(count: u64) {
    Line { left_out: Some(count), ..Line::new("left-out", &Who::Broker, About::default()) }.tell();
}

/// An event with all the fields that there are; those that say nothing are left
/// out.
struct Line<'a> {
    event: &'static str,
    who: &'a Who<'a>,
    peer: Option<IpAddr>,
    about: About<'a>,
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
}

impl<'a> Line<'a> {
    const fn new(event: &'static str, who: &'a Who<'a>, about: About<'a>) -> Self {
        Self {
            event,
            who,
            peer: None,
            about,
            expires_at: None,
            reason: None,
            rule: None,
            refused: None,
            tokens: None,
            what: None,
            outcome: None,
            changed: None,
            error: None,
            left_out: None,
        }
    }

    fn tell(self) {
        let About { workspace, users, scopes, lifetime_seconds } = self.about;
        tracing::info!(
            target: TARGET,
            event = self.event,
            who = self.who.as_str(),
            client = self.who.client(),
            peer = self.peer.map(tracing::field::display),
            workspace,
            users,
            scopes,
            lifetime_seconds,
            expires_at = self.expires_at,
            reason = self.reason,
            rule = self.rule,
            refused = self.refused,
            tokens = self.tokens,
            what = self.what,
            outcome = self.outcome,
            changed = self.changed,
            error = self.error,
            left_out = self.left_out,
        );
    }
}

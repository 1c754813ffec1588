//! Refused tokens and sign-outs, as the caller and the audit log see them.

use crate::audit::Actor;
use crate::auth::Client;
use crate::policy::access::{Access, Denial, Pattern, SetBy};
use crate::token::{Lifetime, ScopeClaim};

/// A request beyond its client's access.
#[derive(Debug)]
pub struct Denied {
    /// The rule that refused.
    pub rule: &'static str,
    /// The part of the request that the rule refused.
    pub refused: String,
    /// The request.
    pub request: DeniedRequest,
    /// The explanation for the caller.
    pub message: String,
}

impl Denied {
    /// Explains a denial: what was refused, what would be allowed, and which setting says so.
    pub fn new(denial: &Denial, access: &Access, request: DeniedRequest) -> Self {
        // The operator's patterns are shown to the client that they belong to, never to a user.
        let message = match &request.actor {
            Actor::Client(_) => explain(denial, access),
            _ => "the settings do not allow this token".to_owned(),
        };
        Self { rule: denial.rule(), refused: denial.refused(), request, message }
    }
}

/// The request that was refused.
#[derive(Debug)]
pub struct DeniedRequest {
    /// The caller.
    pub actor: Actor<'static>,
    /// The workspace.
    pub workspace: String,
    /// The users, separated by spaces.
    pub users: String,
    /// The scopes, separated by spaces; `None` for a sign-out.
    pub scopes: Option<String>,
    /// The lifetime in seconds.
    pub lifetime_seconds: Option<u32>,
}

impl DeniedRequest {
    /// Describes the request for a token.
    pub fn new(actor: Actor<'_>, client: &Client, claim: &ScopeClaim<'_>, lifetime: Lifetime) -> Self {
        let users: Vec<_> = claim.users().iter().map(|user| user.as_str()).collect();
        let scopes: Vec<_> = claim.scopes().iter().map(|scope| scope.as_str()).collect();
        Self {
            actor: actor.into_owned(),
            workspace: client.workspace.to_string(),
            users: users.join(" "),
            scopes: Some(scopes.join(" ")),
            lifetime_seconds: Some(lifetime.as_secs()),
        }
    }
}

fn explain(denial: &Denial, access: &Access) -> String {
    match denial {
        Denial::Scopes(scopes) => {
            let (noun, allowed) = (noun("scope", scopes), list(access.scopes.iter().map(Pattern::as_str)));
            let setting = setting(access.set_by, "scopes");
            format!("this client may not ask for the {noun}; it may ask for {allowed}; {setting}")
        }
        Denial::Users(users) => {
            let (noun, allowed) = (noun("user", users), list(access.users.iter().map(Pattern::as_str)));
            // Only an entry limits users.
            let setting = setting(SetBy::Entry, "users");
            format!("this client may not act for the {noun}; it may act for {allowed}; {setting}")
        }
        Denial::Lifetime(requested) => {
            let (requested, longest) = (lifetime_text(*requested), lifetime_text(access.max_lifetime));
            let setting = setting(access.set_by, "max_lifetime");
            format!(
                "this client may not ask for a lifetime of {requested}; it may ask for at most {longest}; {setting}"
            )
        }
    }
}

fn setting(set_by: SetBy, key: &str) -> String {
    match set_by {
        SetBy::Entry => format!("`{key}` in the client's settings sets this"),
        SetBy::Environment => format!("COURIER_TOKEN_BROKER_CLIENT_{} sets this", key.to_uppercase()),
        SetBy::Sandbox => "the sandbox cannot change this".to_owned(),
    }
}

fn noun(noun: &str, refused: &[String]) -> String {
    let plural = if refused.len() == 1 { "" } else { "s" };
    format!("{noun}{plural} {}", list(refused.iter().map(String::as_str)))
}

/// The first few of these texts, each of at most 256 bytes, and the number of the others.
pub(super) fn list<'a>(mut texts: impl ExactSizeIterator<Item = &'a str>) -> String {
    const MOST_BYTES: usize = 320;
    let Some(first) = texts.next() else { return "none".to_owned() };
    let mut shown = format!("`{first}`");
    while let Some(text) = texts.next() {
        if shown.len() + text.len() > MOST_BYTES {
            return format!("{shown} and {} more", texts.len() + 1);
        }
        shown.push_str(&format!(", `{text}`"));
    }
    shown
}

/// A lifetime in seconds, and in the largest unit of which it is a whole number.
pub(super) fn lifetime_text(lifetime: Lifetime) -> String {
    let seconds = lifetime.as_secs();
    let all = if seconds == 1 { "1 second".to_owned() } else { format!("{seconds} seconds") };
    let units = [(86_400, "day"), (3600, "hour"), (60, "minute")];
    match units.into_iter().find(|(unit, _)| seconds.is_multiple_of(*unit)) {
        Some((unit, name)) => {
            let (count, plural) = (seconds / unit, if seconds == unit { "" } else { "s" });
            format!("{all} ({count} {name}{plural})")
        }
        None => all,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(texts: &[String]) -> Vec<Pattern> {
        texts.iter().filter_map(|text| Pattern::new(text).ok()).collect()
    }

    fn message(actor: Actor<'static>, denial: &Denial, allowed: &[String], set_by: SetBy) -> String {
        let access = Access {
            scopes: patterns(allowed),
            users: patterns(allowed),
            max_lifetime: Lifetime::parse("1d").expect("a day"),
            set_by,
        };
        let (workspace, users) = ("default".to_owned(), "jane".to_owned());
        let request = DeniedRequest { actor, workspace, users, scopes: None, lifetime_seconds: None };
        Denied::new(denial, &access, request).message
    }

    fn scopes(count: usize, length: usize) -> Vec<String> {
        (0..count).map(|index| format!("{index:0length$}")).collect()
    }

    #[test]
    fn refusal_stays_short_however_much_is_refused_and_allowed() {
        let client = || Actor::Client("app".into());
        for (count, length) in [(1, 256), (64, 256), (64, 3), (1000, 20)] {
            let all = scopes(count, length);
            for denial in [Denial::Scopes(all.clone()), Denial::Users(all.clone())] {
                let text = message(client(), &denial, &all, SetBy::Entry);
                assert!(text.len() < 1000, "{} bytes: {text}", text.len());
                assert!(text.contains(&all[0]), "{text}");
                assert_eq!(text.matches(" more").count(), if count > 1 { 2 } else { 0 }, "{text}");
            }
        }
        let few = scopes(3, 10);
        let text = message(client(), &Denial::Scopes(few[..2].to_vec()), &few, SetBy::Entry);
        let expected = "this client may not ask for the scopes `0000000000`, `0000000001`; it may ask for `0000000000`, \
                      `0000000001`, `0000000002`; `scopes` in the client's settings sets this";
        assert_eq!(text, expected);
        let counted = message(client(), &Denial::Scopes(few.clone()), &scopes(300, 26), SetBy::Entry);
        assert!(counted.contains(" and 290 more; "), "{counted}");
        assert!(message(client(), &Denial::Users(few), &[], SetBy::Entry).contains("it may act for none;"));
    }

    #[test]
    fn session_denial_hides_the_allowed_patterns() {
        let allowed = ["secret-pattern".to_owned()];
        for denial in [Denial::Scopes(scopes(1, 5)), Denial::Users(scopes(1, 5)), Denial::Lifetime(Lifetime::MAX)] {
            let text = message(Actor::Session, &denial, &allowed, SetBy::Entry);
            assert_eq!(text, "the settings do not allow this token");
        }
    }

    #[test]
    fn lifetime_is_spelled_in_seconds_and_in_its_largest_whole_unit() {
        for (text, expected) in [
            ("1s", "1 second"),
            ("60s", "60 seconds (1 minute)"),
            ("3601s", "3601 seconds"),
            ("90m", "5400 seconds (90 minutes)"),
            ("1h", "3600 seconds (1 hour)"),
            ("25h", "90000 seconds (25 hours)"),
            ("30d", "2592000 seconds (30 days)"),
        ] {
            assert_eq!(lifetime_text(Lifetime::parse(text).expect("a lifetime")), expected);
        }
    }
}

//! Authentication of users by their login sessions.

use std::sync::Arc;

use hyper::Request;
use hyper::header::{AUTHORIZATION, COOKIE, HeaderMap};

use super::allowed_headers::{AllowedHeaders, is_token};
use super::cors::{Origins, Page};
use super::problem::Problem;
use super::request::header_text;
use super::user_rates::UserRates;
use crate::auth::{AllowedScopes, Client, Session, SessionDenial, SessionError, Sessions, has_jwt_shape};
use crate::clock::Moment;
use crate::metrics::{CallerLabels, CallerRequests};
use crate::policy::session::longest_within;
use crate::token::{Lifetime, Profile};

/// The settings of the front-end route for users.
#[derive(Clone, Debug)]
pub struct SessionRoute {
    /// Where the session is in a request.
    pub source: SessionSource,
    /// The pages that may call.
    pub origins: Origins,
    /// The headers that those pages may send.
    pub allowed_headers: AllowedHeaders,
    /// The scopes of the issued tokens.
    pub profile: Profile,
    /// The workspace and the longest lifetime; its rate is that of each user.
    pub client: Client,
    /// Whether a token must end before the session does.
    pub within_session: bool,
}

/// Where the session is in a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionSource {
    /// `Authorization: Bearer SESSION`.
    Authorization,
    /// The cookie of this name. Browsers send it for every page, so it is accepted only with an
    /// allowed origin.
    Cookie(String),
}

impl SessionRoute {
    /// All sessions in the metrics.
    pub fn caller(&self) -> CallerLabels {
        CallerLabels::sessions(self.client.workspace.as_str())
    }
}

impl SessionSource {
    /// Reads `authorization` or `cookie:NAME`.
    pub fn parse(text: &str) -> Option<Self> {
        if text == "authorization" {
            return Some(Self::Authorization);
        }
        let name = text.strip_prefix("cookie:").filter(|name| (1..=128).contains(&name.len()))?;
        is_token(name).then(|| Self::Cookie(name.to_owned()))
    }
}

/// Authenticates users by their sessions.
pub struct SessionAuth {
    pub sessions: Sessions,
    pub route: SessionRoute,
    /// The rates of users, if they are limited.
    pub rates: Option<Arc<UserRates>>,
    /// The counters of requests with a session.
    pub requests: CallerRequests,
    /// The scopes that a session may request, once one has.
    pub allowed: AllowedScopes,
}

impl SessionAuth {
    /// The session in the request; `None` where the client key must be checked instead.
    pub fn session_token<'a, B>(&self, request: &'a Request<B>) -> Result<Option<&'a str>, Problem> {
        match &self.route.source {
            SessionSource::Authorization => {
                // The check of the client key refuses more than one header.
                let mut values = request.headers().get_all(AUTHORIZATION).iter();
                let (Some(value), None) = (values.next(), values.next()) else { return Ok(None) };
                let bearer = header_text(value).and_then(|text| text.split_once(' '));
                let bearer = bearer.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
                Ok(bearer.map(|(_, bearer)| bearer.trim()).filter(|bearer| has_jwt_shape(bearer)))
            }
            // With an `Authorization` header it is an app, which may pass on a user's cookie.
            SessionSource::Cookie(_) if request.headers().contains_key(AUTHORIZATION) => Ok(None),
            SessionSource::Cookie(name) => cookie(request, name),
        }
    }

    /// Checks a session and the origin of the call.
    pub async fn check(&self, token: &str, headers: &HeaderMap) -> Result<Session, Problem> {
        match (self.route.origins.from(headers), &self.route.source) {
            (Page::Allowed, _) | (Page::NoOrigin, SessionSource::Authorization) => {}
            (Page::NoOrigin, SessionSource::Cookie(_)) | (Page::Disallowed, _) => return Err(Problem::Origin),
        }
        self.sessions.check(token).await.map_err(|error| match error {
            SessionError::Denied(denial) => denial.into(),
            SessionError::NoKeys => Problem::NoSessionKeys,
            SessionError::Undecided => Problem::UndecidedSession,
        })
    }

    /// Counts a request of this user, whose session is valid, and refuses it beyond the user's rate.
    pub fn limit_rate(&self, user: &str, now: Moment) -> Result<(), Problem> {
        let Some(rates) = &self.rates else { return Ok(()) };
        rates.admit(user, now).map_err(|wait| Problem::UserRateLimited(user.to_owned(), wait))
    }

    /// Goes on with the users' rates of the check that this one replaces, if the limit is the same.
    pub fn take_over_rates(&mut self, before: &Self) {
        if let (Some(new), Some(old)) = (&self.rates, &before.rates)
            && new.rate() == old.rate()
        {
            self.rates = Some(Arc::clone(old));
        }
    }

    /// The lifetime of the token, limited to the session's if the settings require it.
    pub fn lifetime(&self, normal: Lifetime, session: &Session) -> Result<Lifetime, Problem> {
        if !self.route.within_session {
            return Ok(normal);
        }
        let denied = || Problem::Session(SessionDenial::NearExpiry, Some(session.user.to_string()));
        longest_within(session.remaining, normal).ok_or_else(denied)
    }
}

/// The value of the cookie. Two of the same name are refused: another host of the same domain may
/// have planted one.
fn cookie<'a, B>(request: &'a Request<B>, name: &str) -> Result<Option<&'a str>, Problem> {
    let lines = request.headers().get_all(COOKIE).iter();
    let pairs = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    let mut values = pairs.filter_map(|pair| {
        let pair = pair.trim_ascii();
        let equals = pair.iter().position(|byte| *byte == b'=')?;
        (&pair[..equals] == name.as_bytes()).then_some(&pair[equals + 1..])
    });
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        // A value that is not UTF-8 is no JWT.
        (Some(value), None) => Ok(Some(std::str::from_utf8(value).unwrap_or_default())),
        _ => Err(SessionDenial::DuplicateCookie.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_is_authorization_or_a_named_cookie() {
        assert_eq!(SessionSource::parse("authorization"), Some(SessionSource::Authorization));
        let cookie = SessionSource::Cookie("__Host-session".to_owned());
        assert_eq!(SessionSource::parse("cookie:__Host-session"), Some(cookie));
        for wrong in ["", "cookie", "cookie:", "cookie:a b", "cookie:a;b", "cookie:a=b", "header:x", "Authorization"] {
            assert_eq!(SessionSource::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn duplicate_cookie_is_refused() {
        let read = |lines: &[&str]| {
            let mut request = Request::builder();
            for line in lines {
                request = request.header(COOKIE, *line);
            }
            let request = request.body(()).expect("a request");
            cookie(&request, "s").map(|value| value.map(str::to_owned)).map_err(drop)
        };
        for (lines, expected) in [
            (&["s=a.b.c"][..], Ok(Some("a.b.c"))),
            (&["x=1; s=a=b; y"], Ok(Some("a=b"))),
            (&["x=1", "s=v"], Ok(Some("v"))),
            (&["S=1; xs=2; s-=3; sx=4; s"], Ok(None)),
            (&[], Ok(None)),
            (&["s=1; s=2"], Err(())),
            (&["s=1", "s=1"], Err(())),
            (&["s=1;s="], Err(())),
        ] {
            assert_eq!(read(lines).as_ref().map(Option::as_deref), expected.as_ref().map(|value| *value), "{lines:?}");
        }
    }
}

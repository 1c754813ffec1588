//! Calls of users from the app's pages, authenticated by their login sessions.

use hyper::header::{AUTHORIZATION, CONTENT_TYPE, COOKIE};
use hyper::{Method, Request, Response};

use super::body::{self, Incoming};
use super::cors::{AllowedHeaders, Origins, Page, is_token};
use super::frontend::user_in_query;
use super::id::Id;
use super::problem::Problem;
use super::{Api, TOKEN_MIN_TTL};
use crate::audit::Actor;
use crate::auth::{Client, Session, SessionDenial, SessionError, Sessions, has_jwt_shape};
use crate::broker::Answer;
use crate::http::reply::Reply;
use crate::policy::session::longest_within;
use crate::token::{Lifetime, Profile, ScopeClaim, UserId};

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
    /// The workspace and the longest lifetime.
    pub client: Client,
    /// Whether a token must end before the session does.
    pub within_session: bool,
}

/// Where the session is in a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionSource {
    /// `Authorization: Bearer SESSION`.
    Authorization,
    /// The cookie of this name. Browsers send it whichever page calls, so it is accepted only with an
    /// allowed origin.
    Cookie(String),
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
pub(super) struct SessionAuth {
    pub sessions: Sessions,
    pub route: SessionRoute,
}

impl SessionAuth {
    /// The session in the request; `None` where the client key must be checked instead.
    fn session_token<'a, B>(&self, request: &'a Request<B>) -> Result<Option<&'a str>, Problem> {
        match &self.route.source {
            SessionSource::Authorization => {
                // The check of the client key refuses more than one header.
                let mut values = request.headers().get_all(AUTHORIZATION).iter();
                let (Some(value), None) = (values.next(), values.next()) else { return Ok(None) };
                let bearer = value.to_str().ok().and_then(|text| text.split_once(' '));
                let bearer = bearer.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
                Ok(bearer.map(|(_, bearer)| bearer.trim()).filter(|bearer| has_jwt_shape(bearer)))
            }
            // With an `Authorization` header it is an app, which may pass on a user's cookie.
            SessionSource::Cookie(_) if request.headers().contains_key(AUTHORIZATION) => Ok(None),
            SessionSource::Cookie(name) => cookie(request, name),
        }
    }

    /// Checks the session and the origin of the call.
    async fn check<B>(&self, request: &Request<B>) -> Result<Option<Session>, Problem> {
        let Some(token) = self.session_token(request)? else { return Ok(None) };
        match (self.route.origins.from(request.headers()), &self.route.source) {
            (Page::Allowed, _) | (Page::NoOrigin, SessionSource::Authorization) => {}
            (Page::NoOrigin, SessionSource::Cookie(_)) | (Page::Disallowed, _) => return Err(Problem::Origin),
        }
        match self.sessions.check(token).await {
            Ok(session) => Ok(Some(session)),
            Err(SessionError::Denied(denial)) => Err(denial.into()),
            Err(SessionError::NoKeys) => Err(Problem::NoSessionKeys),
        }
    }

    /// The lifetime of the token, cut to the session's end if the settings say so.
    fn lifetime(&self, normal: Lifetime, session: &Session) -> Result<Lifetime, Problem> {
        if !self.route.within_session {
            return Ok(normal);
        }
        let denied = || Problem::Session(SessionDenial::NearExpiry, Some(session.user.clone()));
        longest_within(session.remaining, normal).ok_or_else(denied)
    }
}

/// The body of a user's request.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct RequestBody<'a> {
    #[serde(borrow, default, deserialize_with = "body::non_null")]
    user_id: Option<Id<'a>>,
}

impl Api {
    /// Serves a user's call; `None` if an app calls.
    pub(super) async fn serve_session<B>(
        &self,
        session_auth: &SessionAuth,
        request: &mut Request<B>,
    ) -> Result<Option<Answer>, Problem>
    where
        B: Incoming,
    {
        let Some(session) = session_auth.check(request).await? else { return Ok(None) };
        // A page could force a call to Courier with each request.
        if request.headers().contains_key(TOKEN_MIN_TTL) {
            return Err(Problem::Invalid("the header Token-Min-TTL is not allowed with a session".to_owned()));
        }
        if let Some(user) = self.named_user(request).await?
            && user != session.user
        {
            return Err(Problem::Session(SessionDenial::OtherUser, Some(session.user)));
        }
        let SessionRoute { client, profile, .. } = &session_auth.route;
        let normal = self.settings.default_lifetime.min(self.settings.max_lifetime).min(client.access.max_lifetime);
        let lifetime = session_auth.lifetime(normal, &session)?;
        let claim = ScopeClaim::new(vec![UserId::new(&session.user)?], profile.scopes().collect())?;
        self.serve(client, Actor::Session, &claim, Some(lifetime), None).await.map(Some)
    }

    /// The user that the request names. It is optional, since the session names the user.
    async fn named_user<B: Incoming>(&self, request: &mut Request<B>) -> Result<Option<String>, Problem> {
        if request.method() == Method::GET {
            let query = request.uri().query().unwrap_or_default();
            let is_named = query.split('&').any(|pair| pair.split('=').next() == Some("userId"));
            return if is_named { user_in_query(query).map(Some) } else { Ok(None) };
        }
        // `fetch` without a body sends no media type.
        if request.body().is_end_stream() {
            return Ok(None);
        }
        // A proxy may have re-sent an empty body as chunked.
        if !request.headers().contains_key(CONTENT_TYPE) {
            return body::expect_none(request, self.settings.body_timeout).await.map(|()| None);
        }
        let body = body::read(request, self.settings.body_bytes, self.settings.body_timeout).await?;
        if body.is_empty() {
            return Ok(None);
        }
        let fields: RequestBody<'_> = body::parse(&body)?;
        Ok(fields.user_id.map(|user| user.to_string()))
    }

    /// Answers a preflight request.
    pub(super) fn preflight<B>(&self, request: &Request<B>) -> Result<Response<Reply>, Problem> {
        let route = self.session_auth.as_ref().map(|session_auth| &session_auth.route);
        match route.map(|route| (route.origins.from(request.headers()), route)) {
            Some((Page::Allowed, route)) => Ok(route.origins.preflight(request.headers(), &route.allowed_headers)),
            Some((Page::Disallowed, _)) => Err(Problem::Origin),
            // No browser sends such a request.
            Some((Page::NoOrigin, _)) | None => Err(Problem::Method(Self::find(request.uri()).1)),
        }
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
        for (lines, wanted) in [
            (&["s=a.b.c"][..], Ok(Some("a.b.c"))),
            (&["x=1; s=a=b; y"], Ok(Some("a=b"))),
            (&["x=1", "s=v"], Ok(Some("v"))),
            (&["S=1; xs=2; s-=3; sx=4; s"], Ok(None)),
            (&[], Ok(None)),
            (&["s=1; s=2"], Err(())),
            (&["s=1", "s=1"], Err(())),
            (&["s=1;s="], Err(())),
        ] {
            assert_eq!(read(lines).as_ref().map(Option::as_deref), wanted.as_ref().map(|value| *value), "{lines:?}");
        }
    }
}

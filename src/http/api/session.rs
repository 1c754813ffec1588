//! Calls of users from the app's pages, authenticated by their login sessions.

use hyper::header::CONTENT_TYPE;
use hyper::{Method, Request, Response};

use super::Api;
use super::body::{self, Incoming};
use super::cors::Page;
use super::fields::{Id, non_null};
use super::places::Caller;
use super::problem::Problem;
use super::request::{Course, TOKEN_MIN_TTL, Terms, user_in_query};
use super::serve::{Asked, Requester};
use super::session_auth::{SessionAuth, SessionRoute};
use crate::audit::Actor;
use crate::auth::SessionDenial;
use crate::broker::Answer;
use crate::http::response_body::ResponseBody;
use crate::otlp;
use crate::token::UserId;

/// The body of a user's request.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct RequestBody<'a> {
    #[serde(borrow, default, deserialize_with = "non_null")]
    user_id: Option<Id<'a>>,
}

impl Api {
    /// Serves a user's call; `None` if an app calls.
    pub(super) async fn serve_session<'a, B: Incoming>(
        &'a self,
        session_auth: &'a SessionAuth,
        request: &mut Request<B>,
        course: &mut Course<'a>,
    ) -> Result<Option<Answer>, Problem> {
        let Some(session) = session_auth.check(request).await? else { return Ok(None) };
        course.counters = &session_auth.requests;
        otlp::note_caller(|| session_auth.route.caller());
        session_auth.limit_rate(&session.user, self.clock.now())?;
        // A page could force a call to Courier with each request.
        if request.headers().contains_key(TOKEN_MIN_TTL) {
            return Err(Problem::Invalid("the header Token-Min-TTL is not allowed with a session".to_owned()));
        }
        if let Some(user) = self.named_user(request, Caller::User(&session.user)).await?
            && *user != *session.user
        {
            return Err(Problem::Session(SessionDenial::OtherUser, Some(session.user.to_string())));
        }
        // The check and the body may have been waited for.
        course.now = self.clock.now();
        let SessionRoute { client, profile, .. } = &session_auth.route;
        let normal = self.settings.default_lifetime.min(self.settings.max_lifetime).min(client.access.max_lifetime);
        let lifetime = session_auth.lifetime(normal, &session)?;
        let asked = Asked::Profile(UserId::new(&session.user)?, profile);
        let requester = Requester { actor: Actor::Session, client, allowed: &session_auth.allowed };
        let terms = Terms { lifetime: Some(lifetime), min_ttl: None };
        self.serve(requester, asked, terms, request.headers(), course.now).await.map(Some)
    }

    /// The user that the request names. It is optional, since the session names the user.
    async fn named_user<B: Incoming>(
        &self,
        request: &mut Request<B>,
        caller: Caller<'_>,
    ) -> Result<Option<String>, Problem> {
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
            return body::expect_none(request, &self.waiting(caller)).await.map(|()| None);
        }
        let body = body::read(request, self.settings.body_bytes, &self.waiting(caller)).await?.bytes;
        if body.is_empty() {
            return Ok(None);
        }
        let fields: RequestBody<'_> = body::parse(&body)?;
        Ok(fields.user_id.map(|user| user.to_string()))
    }

    /// Answers a preflight request.
    pub(super) fn preflight<B>(&self, request: &Request<B>) -> Result<Response<ResponseBody>, Problem> {
        let route = self.session_auth.as_ref().map(|session_auth| &session_auth.route);
        match route.map(|route| (route.origins.from(request.headers()), route)) {
            Some((Page::Allowed, route)) => Ok(route.origins.preflight(request.headers(), &route.allowed_headers)),
            Some((Page::Disallowed, _)) => Err(Problem::Origin),
            // No browser sends such a request.
            Some((Page::NoOrigin, _)) | None => Err(Problem::Method(Self::find(request.uri()).1)),
        }
    }
}

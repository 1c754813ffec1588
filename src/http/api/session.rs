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
use crate::auth::{Session, SessionDenial};
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
    /// Serves the call of a user whose session is valid.
    pub(super) async fn serve_session<'a, B: Incoming>(
        &'a self,
        session_auth: &'a SessionAuth,
        session: &Session,
        request: &mut Request<B>,
        course: &mut Course<'a>,
    ) -> Result<Answer, Problem> {
        // The check may have been waited for.
        course.now = self.clock.now();
        course.counters = &session_auth.requests;
        otlp::note_caller(|| session_auth.route.caller());
        session_auth.limit_rate(&session.user, course.now)?;
        // A page could force a call to Courier with each request.
        if request.headers().contains_key(TOKEN_MIN_TTL) {
            return Err(Problem::Invalid("the header Token-Min-TTL is not allowed with a session".to_owned()));
        }
        if self.names_other_user(request, &session.user, course).await? {
            return Err(Problem::Session(SessionDenial::OtherUser, Some(session.user.to_string())));
        }
        let SessionRoute { client, profile, .. } = &session_auth.route;
        let normal = self.settings.default_lifetime.min(self.settings.max_lifetime).min(client.access.max_lifetime);
        let lifetime = session_auth.lifetime(normal, session)?;
        let asked = Asked::Profile(UserId::new(&session.user)?, profile);
        let requester = Requester { actor: Actor::Session, client, allowed: &session_auth.allowed };
        let terms = Terms { lifetime: Some(lifetime), min_ttl: None };
        self.serve(requester, asked, terms, request.headers(), course.now).await
    }

    /// Whether the request names another user than the session. It need not name one.
    async fn names_other_user<B: Incoming>(
        &self,
        request: &mut Request<B>,
        user: &str,
        course: &mut Course<'_>,
    ) -> Result<bool, Problem> {
        if request.method() == Method::GET {
            let query = request.uri().query().unwrap_or_default();
            let is_named = query.split('&').any(|pair| pair.split('=').next() == Some("userId"));
            return if is_named { Ok(user_in_query(query)? != user) } else { Ok(false) };
        }
        // `fetch` without a body sends no media type.
        if request.body().is_end_stream() {
            return Ok(false);
        }
        // A proxy may have re-sent an empty body as chunked.
        if !request.headers().contains_key(CONTENT_TYPE) {
            body::expect_none(request, &self.waiting(Caller::User(user))).await?;
            course.now = self.clock.now();
            return Ok(false);
        }
        let body = self.read_body(request, Caller::User(user), course).await?;
        if body.is_empty() {
            return Ok(false);
        }
        let fields: RequestBody<'_> = body::parse(&body)?;
        Ok(fields.user_id.is_some_and(|named| *named != *user))
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

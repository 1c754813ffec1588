//! `POST /api/generate-courier-jwt`, as Courier's guide defines it: the front-end sample works
//! against the broker unchanged.

use std::borrow::Cow;

use hyper::header::AUTHORIZATION;
use hyper::{Method, Request};
use schemars::JsonSchema;

use super::body::{self, Incoming};
use super::fields::Id;
use super::places::Caller;
use super::problem::Problem;
use super::request::{Course, Terms, header_text, min_ttl_header, user_in_query};
use super::serve::{Asked, Requester};
use super::{Answered, Api, token_response};
use crate::auth::has_jwt_shape;
use crate::broker::Answer;
use crate::http::response_body::ResponseBody;
use crate::token::{ClaimError, INBOX, UserId};

/// A request for a user's token. With a session it may be empty; a user that it names must be the session's.
#[derive(serde::Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "FrontendTokenRequest")]
pub struct RequestBody<'a> {
    /// The user.
    #[serde(borrow)]
    user_id: Id<'a>,
}

impl Api {
    pub(super) async fn frontend<'a, B: Incoming>(
        &'a self,
        request: &mut Request<B>,
        course: &mut Course<'a>,
    ) -> Result<Answered, Problem> {
        if let Some(session_auth) = &self.session_auth
            && let Some(token) = session_auth.session_token(request)?
        {
            let session = session_auth.check(token, request.headers()).await?;
            let answer = self.serve_session(session_auth, &session, request, course).await?;
            return Ok(self.frontend_response(request, &answer));
        }
        if carries_session(request) {
            return Err(Problem::NoSessions);
        }
        let client = self.client(request, course)?;
        let min_ttl = min_ttl_header(request)?;
        let body;
        let user = if request.method() == Method::GET {
            Cow::Owned(user_in_query(request.uri().query().unwrap_or_default())?)
        } else {
            body = self.read_body(request, Caller::Client(&client.name), course).await?;
            body::parse::<RequestBody<'_>>(&body)?.user_id.into_text()
        };
        let asked = match self.settings.profiles.get(INBOX) {
            Some(profile) => Asked::Profile(UserId::new(&user)?, profile),
            // Unreachable: it is always there.
            None => return Err(ClaimError::NoScope.into()),
        };
        let terms = Terms { lifetime: None, min_ttl };
        let answer = self.serve(Requester::client(client), asked, terms, request.headers(), course.now).await?;
        Ok(self.frontend_response(request, &answer))
    }

    fn frontend_response<B>(&self, request: &mut Request<B>, answer: &Answer) -> Answered {
        let mut seconds = itoa::Buffer::new();
        let seconds = seconds.format(answer.remaining.as_secs());
        let expires_at = self.expires_at(answer.remaining);
        let rest = [r#","expiresIn":""#, seconds, r#"s","expiresAt":""#, &expires_at, r#""}"#].concat();
        token_response(request, answer, ResponseBody::new(answer.grant.open_object(), rest.into()))
    }
}

/// Whether the bearer has the shape of a JWT: a user's session, never a client key.
fn carries_session<B>(request: &Request<B>) -> bool {
    let value = request.headers().get(AUTHORIZATION).and_then(header_text).unwrap_or_default();
    value.split_once(' ').is_some_and(|(_, bearer)| has_jwt_shape(bearer))
}

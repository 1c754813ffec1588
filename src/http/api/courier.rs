//! `POST /auth/issue-token`, compatible with Courier: every official server SDK works with its base
//! URL set to the broker.

use bytes::Bytes;
use hyper::Request;
use schemars::JsonSchema;

use super::body::{self, Incoming};
use super::fields::{DurationField, Text};
use super::places::Caller;
use super::problem::Problem;
use super::request::{Course, Terms, min_ttl_header};
use super::serve::{Asked, Requester};
use super::{Answered, Api, token_response};
use crate::http::response_body::ResponseBody;

/// A request for a token, as Courier's SDKs send it.
#[derive(serde::Deserialize, JsonSchema)]
#[schemars(rename = "IssueTokenRequest")]
pub struct RequestBody<'a> {
    /// Each user as `user_id:ID`, and the scopes, between spaces. At least one of each.
    #[serde(borrow)]
    #[schemars(extend("format" = "users-and-scopes"))]
    scope: Text<'a>,
    /// The lifetime.
    expires_in: DurationField,
}

impl Api {
    pub(super) async fn issue_token<'a, B: Incoming>(
        &'a self,
        request: &mut Request<B>,
        course: &mut Course<'a>,
    ) -> Result<Answered, Problem> {
        let client = self.client(request, course)?;
        let min_ttl = min_ttl_header(request)?;
        let body = self.read_body(request, Caller::Client(&client.name), course).await?;
        let fields: RequestBody<'_> = body::parse(&body)?;
        let terms = Terms { lifetime: Some(fields.expires_in.of("expires_in")?), min_ttl };
        let answer = self
            .serve(Requester::client(client), Asked::Text(&fields.scope), terms, request.headers(), course.now)
            .await?;
        Ok(token_response(request, &answer, ResponseBody::new(answer.grant.object(), Bytes::new())))
    }
}

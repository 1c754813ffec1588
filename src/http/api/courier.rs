//! `POST /auth/issue-token`, compatible with Courier: every official server SDK works with its base
//! URL set to the broker.

use hyper::Request;
use schemars::JsonSchema;

use super::body::{self, Incoming};
use super::fields::{DurationField, Text};
use super::places::Caller;
use super::problem::Problem;
use super::request::{Terms, min_ttl_header};
use super::{Answered, Api, token_response};
use crate::metrics::CallerRequests;
use crate::token::ScopeClaim;

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
        counters: &mut &'a CallerRequests,
    ) -> Result<Answered, Problem> {
        let client = self.client(request, counters)?;
        let min_ttl = min_ttl_header(request)?;
        let body = self.read_body(request, Caller::Client(&client.name)).await?;
        let fields: RequestBody<'_> = body::parse(&body)?;
        let claim = ScopeClaim::parse(&fields.scope)?;
        let lifetime = fields.expires_in.of("expires_in")?;
        let answer = self
            .serve(client, client.actor(), &claim, Terms { lifetime: Some(lifetime), min_ttl }, request.headers())
            .await?;
        Ok(token_response(request, &answer, answer.grant.object().into()))
    }
}

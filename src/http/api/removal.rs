//! `DELETE /v1/users/{id}/tokens`, `DELETE /v1/tokens` and `POST /v1/tokens/rejected`: removing tokens
//! from the cache.

use hyper::{Request, Response, StatusCode};
use schemars::JsonSchema;

use super::body::{self, Incoming};
use super::denied::{Denied, DeniedRequest};
use super::fields::{Id, Text};
use super::places::Caller;
use super::problem::Problem;
use super::request::{Course, bare_path, percent_decoded, user_in_path};
use super::{Answered, Api};
use crate::audit::{self, Subject};
use crate::auth::Client;
use crate::http::response_body::ResponseBody;
use crate::metrics::RequestOutcome;
use crate::policy::access::Denial;
use crate::token::{TokenKey, UserId};

/// A report that Courier refused a token.
#[derive(serde::Deserialize, JsonSchema)]
#[schemars(rename = "RejectedTokenReport")]
pub struct RejectedBody<'a> {
    /// The token.
    #[serde(borrow)]
    token: Text<'a>,
}

/// The user to sign out.
#[derive(serde::Deserialize, JsonSchema)]
#[schemars(rename = "SignOutRequest")]
pub struct SignOutBody<'a> {
    /// The user.
    #[serde(borrow)]
    user_id: Id<'a>,
}

impl Api {
    /// Signs out the user in the path.
    pub(super) async fn sign_out_in_path<'a, B>(
        &'a self,
        request: &mut Request<B>,
        course: &mut Course<'a>,
    ) -> Result<Answered, Problem> {
        let client = self.client(request, course)?;
        let user = user_in_path(bare_path(request.uri())).unwrap_or_default();
        let user = percent_decoded(user).map_err(|why| Problem::Invalid(format!("the user id in the path {why}")))?;
        self.sign_out(client, UserId::new(&user)?).await
    }

    /// Signs out the user in the body, for ids that proxies change in a path: many decode `%2F`.
    pub(super) async fn sign_out_in_body<'a, B: Incoming>(
        &'a self,
        request: &mut Request<B>,
        course: &mut Course<'a>,
    ) -> Result<Answered, Problem> {
        let client = self.client(request, course)?;
        let body = self.read_body(request, Caller::Client(&client.name), course).await?;
        let sign_out: SignOutBody<'_> = body::parse(&body)?;
        self.sign_out(client, UserId::new(&sign_out.user_id)?).await
    }

    /// Signs a user out. The response is the same whether there were tokens or not.
    async fn sign_out(&self, client: &Client, user: UserId<'_>) -> Result<Answered, Problem> {
        if !client.access.allows_user(user.as_str()) {
            let (workspace, users) = (client.workspace.to_string(), user.to_string());
            let request = DeniedRequest {
                actor: client.actor().into_owned(),
                workspace,
                users,
                scopes: None,
                lifetime_seconds: None,
            };
            let denial = Denial::Users(vec![user.to_string()]);
            return Err(Problem::Denied(Box::new(Denied::new(&denial, &client.access, request))));
        }
        let workspace = client.workspace.as_str();
        // First: a flight must not find a token in the store that memory has just forgotten.
        let fleet = self.broker.sign_out_of_fleet(workspace, Some(user));
        // A sign-out that changes nothing is no event: callers could make any number of them.
        if let Some(tokens) = self.broker.sign_out(workspace, user) {
            let subject = Subject { workspace: Some(workspace), users: Some(user.as_str()), ..Subject::default() };
            self.log_limit.signed_out(&client.actor(), subject, tokens);
        }
        self.broker.sign_out_of_disk(workspace, user).await;
        fleet.await;
        Ok(done())
    }

    /// Takes the report that Courier rejected a token. The response is the same whether the token was
    /// the broker's, and of this client's users, or not.
    pub(super) async fn rejected<'a, B: Incoming>(
        &'a self,
        request: &mut Request<B>,
        course: &mut Course<'a>,
    ) -> Result<Answered, Problem> {
        let client = self.client(request, course)?;
        let body = self.read_body(request, Caller::Client(&client.name), course).await?;
        let fields: RejectedBody<'_> = body::parse(&body)?;
        let is_permitted = |key: &TokenKey| {
            key.workspace() == client.workspace.as_str() && key.users().all(|user| client.access.allows_user(user))
        };
        if let Some(key) = self.broker.reject(&fields.token, is_permitted) {
            let users = key.users().collect::<Vec<_>>().join(" ");
            let subject = Subject {
                workspace: Some(key.workspace()),
                users: Some(&users),
                scopes: Some(key.scopes()),
                lifetime_seconds: Some(key.lifetime().as_secs()),
            };
            audit::rejected(&client.actor(), subject);
        }
        Ok(done())
    }
}

fn done() -> Answered {
    let mut response = Response::new(ResponseBody::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    (RequestOutcome::Done, response)
}

//! `POST /v1/tokens`: the broker's own route, with all of its options.

use hyper::Request;
use serde_json::json;

use super::body::{self, Incoming};
use super::fields::{DurationField, Id, Text, non_null};
use super::places::Caller;
use super::problem::Problem;
use super::{Answered, Api, token_response};
use crate::http::response_body::ResponseBody;
use crate::token::{Profile, Scope, ScopeClaim, UserId};

#[derive(serde::Deserialize)]
struct RequestBody<'a> {
    #[serde(borrow, default, deserialize_with = "non_null")]
    user_id: Option<Id<'a>>,
    #[serde(borrow, default, deserialize_with = "non_null")]
    user_ids: Option<Vec<Id<'a>>>,
    #[serde(borrow, default, deserialize_with = "non_null")]
    scopes: Option<Vec<Text<'a>>>,
    #[serde(borrow, default, deserialize_with = "non_null")]
    profile: Option<Text<'a>>,
    #[serde(default, deserialize_with = "non_null")]
    expires_in: Option<DurationField>,
    #[serde(default, deserialize_with = "non_null")]
    min_ttl: Option<DurationField>,
}

impl Api {
    pub(super) async fn tokens<B: Incoming>(&self, request: &mut Request<B>) -> Result<Answered, Problem> {
        let client = self.client(request)?;
        let body = self.read_body(request, Caller::Client(&client.name)).await?;
        let fields: RequestBody<'_> = body::parse(&body)?;
        let users = match (&fields.user_id, &fields.user_ids) {
            (Some(user), None) => vec![UserId::new(user)?],
            (None, Some(users)) => users.iter().map(|user| UserId::new(user)).collect::<Result<_, _>>()?,
            _ => return Err(Problem::Invalid("name either user_id or user_ids".to_owned())),
        };
        let scopes = match (&fields.scopes, &fields.profile) {
            (Some(scopes), None) => {
                let scopes = scopes.iter().map(|scope| Scope::new(scope)).collect::<Result<_, _>>();
                scopes.map_err(|error| Problem::Invalid(error.to_string()))?
            }
            (None, Some(name)) => self.profile(name)?.scopes().collect(),
            _ => return Err(Problem::Invalid("name either scopes or a profile such as \"inbox\"".to_owned())),
        };
        let claim = ScopeClaim::new(users, scopes)?;
        let lifetime = fields.expires_in.map(|span| span.of("expires_in")).transpose()?;
        let min_ttl = fields.min_ttl.map(|span| span.of("min_ttl")).transpose()?;
        let answer = self.serve(client, client.actor(), &claim, lifetime, min_ttl).await?;
        let rest = format!(
            r#","scope":{},"expires_in":{},"expires_at":"{}"}}"#,
            json!(claim.to_string()),
            answer.remaining.as_secs(),
            self.expires_at(answer.remaining),
        );
        Ok(token_response(&answer, ResponseBody::new(answer.grant.open_object(), rest.into())))
    }

    fn profile(&self, name: &str) -> Result<&Profile, Problem> {
        self.settings.profiles.get(name).ok_or_else(|| {
            let known: Vec<_> = self.settings.profiles.keys().map(String::as_str).collect();
            Problem::Invalid(format!("unknown profile: the settings have {}", known.join(", ")))
        })
    }
}

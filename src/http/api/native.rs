//! `POST /v1/tokens`: the broker's own route, with all of its options.

use std::borrow::Cow;

use hyper::Request;
use schemars::JsonSchema;
use serde_json::{Value, json};

use super::body::{self, Incoming};
use super::denied::list;
use super::fields::{DurationField, Id, ScopeText, Text, non_null};
use super::places::Caller;
use super::problem::Problem;
use super::request::{Course, Terms};
use super::serve::{Asked, Requester};
use super::{Answered, Api, token_response};
use crate::auth::Client;
use crate::http::response_body::ResponseBody;
use crate::token::{Profile, Scope, ScopeClaim, UserId};

/// A request for a token, with all options: one of `user_id` and `user_ids`, and one of `scopes` and `profile`.
#[derive(serde::Deserialize, JsonSchema)]
#[schemars(rename = "TokenRequest", extend("allOf" = one_of_each()))]
pub struct RequestBody<'a> {
    /// The user.
    #[serde(borrow, default, deserialize_with = "non_null")]
    #[schemars(with = "Id")]
    user_id: Option<Id<'a>>,
    /// Users who share a token.
    #[serde(borrow, default, deserialize_with = "non_null")]
    #[schemars(with = "Vec<Id>", length(min = 1, max = ScopeClaim::MAX_USERS))]
    user_ids: Option<Vec<Id<'a>>>,
    /// The scopes. Users and scopes have at most 4096 bytes together.
    #[serde(borrow, default, deserialize_with = "non_null")]
    #[schemars(with = "Vec<ScopeText>", length(min = 1, max = ScopeClaim::MAX_SCOPES))]
    scopes: Option<Vec<Text<'a>>>,
    /// The name of a scope set: `inbox`, `mobile`, or one of the settings.
    #[serde(borrow, default, deserialize_with = "non_null")]
    #[schemars(with = "String", extend("examples" = ["inbox", "mobile"]))]
    profile: Option<Text<'a>>,
    /// The lifetime; without it, that of the settings.
    #[serde(default, deserialize_with = "non_null")]
    #[schemars(with = "DurationField")]
    expires_in: Option<DurationField>,
    /// The least life that the token must have left: less than `expires_in`.
    #[serde(default, deserialize_with = "non_null")]
    #[schemars(with = "DurationField")]
    min_ttl: Option<DurationField>,
}

fn one_of_each() -> Value {
    let one_of = |one: &str, other: &str| json!({ "oneOf": [{ "required": [one] }, { "required": [other] }] });
    json!([one_of("user_id", "user_ids"), one_of("scopes", "profile")])
}

impl Api {
    pub(super) async fn tokens<'a, B: Incoming>(
        &'a self,
        request: &mut Request<B>,
        course: &mut Course<'a>,
    ) -> Result<Answered, Problem> {
        let client = self.client(request, course)?;
        let body = self.read_body(request, Caller::Client(&client.name), course).await?;
        let mut fields: RequestBody<'_> = body::parse(&body)?;
        let (expires_in, min_ttl) = (fields.expires_in.take(), fields.min_ttl.take());
        let asked = self.asked(client, &fields)?;
        let lifetime = expires_in.map(|span| span.of("expires_in")).transpose()?;
        let min_ttl = min_ttl.map(|span| span.of("min_ttl")).transpose()?;
        let terms = Terms { lifetime, min_ttl };
        let answer = self.serve(Requester::client(client), asked, terms, request.headers(), course.now).await?;
        let [start, users, scopes] = answer.key.claim_pieces().map(escaped);
        let mut seconds = itoa::Buffer::new();
        let seconds = seconds.format(answer.remaining.as_secs());
        let expires_at = self.expires_at(answer.remaining);
        let rest = [
            r#","scope":""#,
            &start,
            &users,
            &scopes,
            r#"","expires_in":"#,
            seconds,
            r#","expires_at":""#,
            &expires_at,
            r#""}"#,
        ]
        .concat();
        Ok(token_response(request, &answer, ResponseBody::new(answer.grant.open_object(), rest.into())))
    }

    /// The users and scopes that a request names.
    fn asked<'a>(&'a self, client: &Client, fields: &'a RequestBody<'a>) -> Result<Asked<'a>, Problem> {
        let users: &[Id<'_>] = match (&fields.user_id, &fields.user_ids) {
            (Some(user), None) => std::slice::from_ref(user),
            (None, Some(users)) => users,
            _ => return Err(Problem::Invalid("name either user_id or user_ids".to_owned())),
        };
        let profile = match (&fields.scopes, &fields.profile) {
            (Some(_), None) => None,
            (None, Some(name)) => Some(self.profile(client, name)?),
            _ => return Err(Problem::Invalid("name either scopes or a profile".to_owned())),
        };
        if let ([user], Some(profile)) = (users, profile) {
            return Ok(Asked::Profile(UserId::new(user)?, profile));
        }
        let users = users.iter().map(|user| UserId::new(user)).collect::<Result<_, _>>()?;
        let listed = fields.scopes.iter().flatten().map(|scope| Scope::new(scope));
        let listed = listed.collect::<Result<Vec<_>, _>>().map_err(|error| Problem::Invalid(error.to_string()))?;
        Ok(Asked::Lists(ScopeClaim::new(users, profile.map_or(listed, |profile| profile.scopes().collect()))?))
    }

    /// Finds a profile. The error names those that the client may use: the names of others, such as a
    /// tenant's, are not its concern.
    fn profile(&self, client: &Client, name: &str) -> Result<&Profile, Problem> {
        let profiles = &self.settings.profiles;
        profiles.get(name).ok_or_else(|| {
            let usable = profiles.iter().filter(|(_, profile)| client.access.allows_profile(profile));
            let usable: Vec<_> = usable.map(|(name, _)| name.as_str()).collect();
            Problem::Invalid(format!("unknown profile: this client may use {}", list(usable.into_iter())))
        })
    }
}

/// A text as it stands between the quotes of a JSON string. Most need no change.
fn escaped(text: &str) -> Cow<'_, str> {
    let is_plain = |byte: u8| (byte >= b' ') & (byte != b'"') & (byte != b'\\');
    // Looks at all bytes, which is faster than to stop at the first other one: then several are looked at at once.
    if text.bytes().fold(true, |plain, byte| plain & is_plain(byte)) {
        return Cow::Borrowed(text);
    }
    let quoted = Value::from(text).to_string();
    Cow::Owned(quoted[1..quoted.len() - 1].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn escaped_text_is_that_of_the_json_writer(text in "(\\PC|[\"\\\\\\x00-\\x20\\x7f]){0,40}") {
            prop_assert_eq!(format!("\"{}\"", escaped(&text)), Value::from(&*text).to_string());
        }
    }
}

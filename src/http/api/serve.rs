//! Serves a token to an authenticated caller, within its access.

use hyper::HeaderMap;

use super::Api;
use super::denied::{Denied, DeniedRequest};
use super::places::Caller;
use super::problem::Problem;
use super::request::{Terms, trace_parent};
use super::request_log;
use crate::audit::Actor;
use crate::auth::{AllowedScopes, Client, KnownClient};
use crate::broker::{Answer, TokenRequest};
use crate::clock::Moment;
use crate::token::{KeyText, Lifetime, Profile, ScopeClaim, ScopeSet, UserId};

/// An authenticated caller, and what it may request.
pub struct Requester<'a> {
    /// The caller.
    pub actor: Actor<'a>,
    /// The client whose access it has.
    pub client: &'a Client,
    /// The scopes that it may request, as far as it has.
    pub allowed: &'a AllowedScopes,
}

impl<'a> Requester<'a> {
    /// An app.
    pub fn client(known: &'a KnownClient) -> Self {
        Self { actor: known.actor(), client: known.client(), allowed: &known.allowed }
    }
}

/// The users and scopes of a request, as it names them.
pub enum Asked<'a> {
    /// All in one text, as Courier takes them.
    Text(&'a str),
    /// A user, and a named scope set.
    Profile(UserId<'a>, &'a Profile),
    /// Lists.
    Lists(ScopeClaim<'a>),
}

impl<'a> Asked<'a> {
    /// The only user and the text of the scopes, where they are told apart without parsing.
    fn user_and_scopes(&self) -> Option<(UserId<'a>, &'a str)> {
        match self {
            Self::Text(text) => {
                let (user, scopes) = text.strip_prefix("user_id:")?.split_once(' ')?;
                Some((UserId::new(user).ok()?, scopes))
            }
            Self::Profile(user, profile) => Some((*user, profile.set().as_str())),
            Self::Lists(_) => None,
        }
    }

    fn into_claim(self) -> Result<ScopeClaim<'a>, Problem> {
        Ok(match self {
            Self::Text(text) => ScopeClaim::parse(text)?,
            Self::Profile(user, profile) => ScopeClaim::new(vec![user], profile.scopes().collect())?,
            Self::Lists(claim) => claim,
        })
    }
}

impl Api {
    /// Issues or serves a token within the caller's access.
    pub(super) async fn serve(
        &self,
        requester: Requester<'_>,
        asked: Asked<'_>,
        terms: Terms,
        headers: &HeaderMap,
        now: Moment,
    ) -> Result<Answer, Problem> {
        let Requester { actor, client, .. } = &requester;
        let min_ttl = terms.min_ttl.map(Lifetime::as_duration);
        let key = {
            let key = self.key(&requester, asked, terms)?;
            // A hit waits for nothing, so it needs no place.
            if let Some(answer) = self.broker.get_cached(key.as_str(), actor.client(), min_ttl, now) {
                request_log::log(self.settings.log_requests, actor, headers, &answer);
                return Ok(answer);
            }
            key.to_key()
        };
        let request = TokenRequest { key, min_ttl, actor: actor.clone(), trace: trace_parent(headers) };
        // Boxed, to keep the future of a hit small.
        Box::pin(async {
            let answer = self.wait_for_token(client, &request).await?;
            request_log::log(self.settings.log_requests, actor, headers, &answer);
            Ok(answer)
        })
        .await
    }

    async fn wait_for_token(&self, client: &Client, request: &TokenRequest<'_>) -> Result<Answer, Problem> {
        let caller = match (&request.actor, request.key.users().next()) {
            (Actor::Session, Some(user)) => Caller::User(user),
            _ => Caller::Client(&client.name),
        };
        let _place = self.waiting_for_token.take(caller, 1).ok_or_else(|| caller.overload())?;
        Ok(self.broker.get_token(request).await?)
    }

    /// The key of a request, if the caller may have its token.
    fn key(&self, requester: &Requester<'_>, asked: Asked<'_>, terms: Terms) -> Result<KeyText, Problem> {
        let client = requester.client;
        let longest = self.settings.max_lifetime.min(client.access.max_lifetime);
        let lifetime = terms.lifetime.unwrap_or(self.settings.default_lifetime.min(longest));
        let is_min_ttl_too_long = terms.min_ttl.is_some_and(|min_ttl| min_ttl >= lifetime);
        if lifetime <= longest
            && !is_min_ttl_too_long
            && let Some(key) = requester.known_key(&asked, lifetime)
        {
            return Ok(key);
        }
        let text = asked.user_and_scopes().map(|(_, text)| text);
        let claim = asked.into_claim()?;
        // A client with a lower limit gets an error with its own limit, below.
        if lifetime > longest && longest == self.settings.max_lifetime {
            return Err(Problem::LifetimeTooLong(lifetime, longest));
        }
        if is_min_ttl_too_long {
            return Err(Problem::MinTtlTooLong);
        }
        if let Err(denial) = client.access.check(&claim, lifetime) {
            let request = DeniedRequest::new(requester.actor.clone(), client, &claim, lifetime);
            return Err(Problem::Denied(Box::new(Denied::new(&denial, &client.access, request))));
        }
        if let Some(text) = text {
            requester.remember(text);
        }
        Ok(KeyText::new(&client.workspace, &claim, lifetime))
    }
}

impl Requester<'_> {
    /// The key of a request of one user, if the caller may have the token, as far as that is known without parsing scopes.
    fn known_key(&self, asked: &Asked<'_>, lifetime: Lifetime) -> Option<KeyText> {
        let (user, text) = asked.user_and_scopes()?;
        let scopes = self.allowed.find(text)?;
        let may_act = self.client.access.allows_user(user.as_str());
        if may_act { KeyText::of_user(&self.client.workspace, user, scopes, lifetime) } else { None }
    }

    /// Remembers scopes that were allowed.
    fn remember(&self, text: &str) {
        // A text that names users too, even the same one again, is not one of scopes.
        if let Ok(scopes) = ScopeSet::parse(text) {
            self.allowed.add(text, &scopes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::access::{Access, Pattern, SetBy};
    use crate::token::WorkspaceName;
    use proptest::prelude::*;

    fn client() -> Client {
        let patterns = |texts: &[&str]| texts.iter().map(|text| Pattern::new(text).expect("a pattern")).collect();
        Client {
            name: "app".to_owned(),
            workspace: WorkspaceName::new("default").expect("a name"),
            access: Access {
                scopes: patterns(&["r:*"]),
                users: patterns(&["a*"]),
                max_lifetime: Lifetime::MAX,
                set_by: SetBy::Entry,
            },
            rate: None,
        }
    }

    proptest! {
        #[test]
        fn known_key_is_that_of_the_parsed_and_checked_claim(
            texts in prop::collection::vec("(user_id:(a|ab|b) ?|user_id:)?(r:x ?|r:y ?|w:x ?|user_id:a[bc]? ?|  ){0,3}", 1..12),
        ) {
            let (client, allowed) = (client(), AllowedScopes::default());
            let requester = Requester { actor: Actor::Session, client: &client, allowed: &allowed };
            for text in &texts {
                let asked = Asked::Text(text);
                let claim = ScopeClaim::parse(text).ok().filter(|claim| client.access.check(claim, Lifetime::MAX).is_ok());
                let key = claim.map(|claim| KeyText::new(&client.workspace, &claim, Lifetime::MAX).to_key());
                if let Some(known) = requester.known_key(&asked, Lifetime::MAX) {
                    prop_assert_eq!(Some(known.to_key()), key, "{}", text);
                } else if key.is_some() && let Some((_, scopes)) = asked.user_and_scopes() {
                    requester.remember(scopes);
                }
            }
        }
    }
}

//! The log of requests for tokens, of a share of the users.

use std::hash::{DefaultHasher, Hash, Hasher};

use hyper::HeaderMap;

use super::request::request_id;
use crate::audit::Actor;
use crate::broker::Answer;
use crate::token::TokenKey;

/// Logs a request that got a token, if its users are among the share.
///
/// Users are sampled instead of requests, so that the log of each is whole: `plan` predicts their returns.
pub fn log(share: f64, actor: &Actor<'_>, headers: &HeaderMap, answer: &Answer) {
    if share > 0.0 && is_sampled(&answer.key, share) {
        write(actor, headers, answer);
    }
}

/// Whether the users of a key are among the share, on each broker and after each start.
fn is_sampled(key: &TokenKey, share: f64) -> bool {
    // Its keys are constants.
    let mut hasher = DefaultHasher::new();
    key.users().for_each(|user| user.hash(&mut hasher));
    hasher.finish() as f64 <= share * u64::MAX as f64
}

#[cold]
fn write(actor: &Actor<'_>, headers: &HeaderMap, answer: &Answer) {
    let key = &answer.key;
    let id = request_id(headers);
    tracing::info!(
        workspace = key.workspace(),
        client = actor.client(),
        session = matches!(actor, Actor::Session),
        users = key.users().collect::<Vec<_>>().join(" "),
        scopes = key.scopes(),
        lifetime_seconds = key.lifetime().as_secs(),
        outcome = answer.source.outcome().as_str(),
        remaining_seconds = answer.remaining.as_secs(),
        request_id = id.as_ref().and_then(|id| id.to_str().ok()),
        "request"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::{Lifetime, ScopeClaim, WorkspaceName};

    #[test]
    fn share_of_users_is_sampled_and_always_the_same() {
        let key = |user: usize, scope: &str| {
            let claim = format!("user_id:user-{user} {scope}");
            let claim = ScopeClaim::parse(&claim).expect("a claim");
            TokenKey::new(&WorkspaceName::new("default").expect("a name"), &claim, Lifetime::MAX)
        };
        for (share, expected) in [(0.0, 0..=0), (0.1, 850..=1150), (1.0, 10_000..=10_000)] {
            let sampled = |scope| (0..10_000).filter(|user| is_sampled(&key(*user, scope), share)).collect::<Vec<_>>();
            let users = sampled("read:a");
            assert!(expected.contains(&users.len()), "{share}: {}", users.len());
            assert_eq!(users, sampled("read:b"), "{share}");
        }
    }
}

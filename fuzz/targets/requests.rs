//! Requests in sequence or at once: each gets exactly the requested token, within its
//! client's access, or a documented error.
//!
//! An input is texts like HTTP's own with 0x1f between them. `$TOKEN` in a body
//! is the last token. With 0x1f at the beginning the requests come at once.

#![no_main]

use std::collections::{BTreeMap, BTreeSet};

use courier_token_broker_fuzz::broker::{Issued, TestBroker, run};
use courier_token_broker_fuzz::message::{Answer, Pieces, request};
use courier_token_broker_fuzz::oracle::{Caller, Claim, allowed_token, path, signed_out_user};
use hyper::{Method, Request};
use libfuzzer_sys::{Corpus, fuzz_target};
use tokio::task::JoinSet;

const BETWEEN: u8 = 0x1f;
const MOST: usize = 8;

fuzz_target!(|input: &[u8]| -> Corpus {
    let at_once = input.first() == Some(&BETWEEN);
    let texts: Vec<_> = input.split(|byte| *byte == BETWEEN).filter(|text| !text.is_empty()).collect();
    if texts.is_empty() || texts.len() > MOST || texts.iter().any(|text| request(text).is_none()) {
        return Corpus::Reject;
    }
    run(async {
        let broker = TestBroker::new(|api, _| api);
        if at_once { all_at_once(broker, &texts).await } else { one_by_one(&broker, &texts).await }
    });
    Corpus::Keep
});

async fn one_by_one(broker: &TestBroker, texts: &[&[u8]]) {
    let mut last = "none-yet".to_owned();
    // Signed-out users, with the tokens issued to them since: no other token of theirs
    // may come from memory.
    let mut gone = BTreeMap::<_, BTreeSet<_>>::new();
    for text in texts {
        let text = replaced(text, b"$TOKEN", last.as_bytes());
        let Some(request) = request(&text) else { return };
        let answer = broker.answer(request.clone()).await;
        if let Some((token, issued)) = check_answer(&request, &answer) {
            let claim = Claim::split(&issued.claim).expect("the answer was checked");
            let from_memory = answer.header("cache-status").is_some_and(|how| !how.contains("stored"));
            for user in claim.users {
                let what = (issued.claim.clone(), issued.lifetime);
                let Some(since) = gone.get_mut(&(issued.workspace.clone(), user)) else { continue };
                let is_new = since.insert(what);
                assert!(!(from_memory && is_new), "{issued:?} of a user who has signed out");
            }
            last = token;
        } else if answer.status == 204 && *request.method() == Method::DELETE {
            let caller = Caller::of(&request).expect("the answer was checked");
            let user = signed_out_user(&request).expect("the answer was checked");
            gone.insert((caller.workspace().to_owned(), user), BTreeSet::new());
        }
    }
}

async fn all_at_once(broker: TestBroker, texts: &[&[u8]]) {
    let broker = std::sync::Arc::new(broker);
    let mut answers = JoinSet::new();
    for request in texts.iter().filter_map(|text| request(text)) {
        let broker = std::sync::Arc::clone(&broker);
        answers.spawn(async move { (request.clone(), broker.answer(request).await) });
    }
    while let Some(answered) = answers.join_next().await {
        let (request, answer) = answered.expect("it never panics");
        check_answer(&request, &answer);
    }
}

/// Checks an answer against its request.
fn check_answer(request: &Request<Pieces>, answer: &Answer) -> Option<(String, Issued)> {
    let path = path(request);
    match answer.status {
        200 if path == "openapi.json" => {
            assert_eq!(*request.method(), Method::GET);
            assert_eq!(answer.json()["openapi"], "3.1.0");
        }
        200 => {
            let token = answer.token(path);
            let issued = Issued::read(&token);
            let allowed = allowed_token(request).unwrap_or_else(|| panic!("{request:?} must not get {issued:?}"));
            assert_eq!(Claim::split(&issued.claim).as_ref(), Some(&allowed.claim), "{request:?}");
            assert_eq!(
                (&*issued.workspace, issued.lifetime),
                (allowed.caller.workspace(), allowed.lifetime),
                "{request:?}"
            );
            if path == "v1/tokens" {
                assert_eq!(answer.json()["scope"], issued.claim);
                assert!(answer.json()["expires_in"].as_u64().is_some_and(|left| left <= issued.lifetime.into()));
            }
            return Some((token, issued));
        }
        204 => {
            assert!(answer.body.is_empty());
            let caller = Caller::of(request).unwrap_or_else(|| panic!("{request:?} has no key"));
            if *request.method() == Method::DELETE {
                let user = signed_out_user(request).unwrap_or_else(|| panic!("{request:?} names no user"));
                assert!(caller.may_act_for(&user), "{request:?}");
            } else {
                assert_eq!((path, request.method()), ("v1/tokens/rejected", &Method::POST));
            }
        }
        status => {
            answer.is_a_refusal(path == "api/generate-courier-jwt");
            // A request for no token does not depend on Courier.
            assert!(status < 500 || allowed_token(request).is_some(), "{request:?}: {answer:?}");
        }
    }
    None
}

fn replaced(text: &[u8], what: &[u8], with: &[u8]) -> Vec<u8> {
    match text.windows(what.len()).position(|part| part == what) {
        Some(place) => [&text[..place], with, &text[place + what.len()..]].concat(),
        None => text.to_vec(),
    }
}

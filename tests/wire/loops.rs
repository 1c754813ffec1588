//! A broker whose base URL is another broker.

use crate::support::broker::{Broker, CLIENT_KEY, Setup};
use crate::support::http::HttpRequest;
use crate::support::refusal::{GOOD, is_a_refusal};
use courier_token_broker::secrets::Secret;

#[tokio::test]
async fn broker_that_calls_a_broker_is_refused_at_once_and_does_not_retry() {
    for path in ["", "/behind/a/prefix"] {
        let inner = Broker::start().await;
        let outer = Setup::new().settings(|raw| {
            let workspace = raw.workspaces.get_mut("default").expect("it is there");
            workspace.base_url = format!("http://{}{path}", inner.address);
            // The inner broker refuses the call even if it knows the key.
            workspace.api_key = Secret::new(CLIENT_KEY).ok();
        });
        let outer = outer.start().await;
        for (route, body) in &GOOD[..2] {
            let answer = outer.ask(&HttpRequest::post(route, *body)).await;
            assert_eq!((answer.status, answer.header("x-should-retry")), (502, Some("false")), "{answer:?}");
            is_a_refusal(&answer, *route == GOOD[1].0);
            assert!(answer.body.contains("the broker calls a broker instead of Courier"), "{answer:?}");
        }
        assert_eq!(inner.courier.call_count(), 0);
        let labels = "class=\"waiting\",outcome=\"unavailable\",workspace=\"default\"";
        assert_eq!(outer.metric(&format!("courier_token_broker_upstream_requests_total{{{labels}}}")).await, 2.0);
    }
}

#[tokio::test]
async fn request_of_a_broker_is_refused_by_its_user_agent() {
    let broker = Broker::start().await;
    let ask = HttpRequest::issue(GOOD[0].1);
    let answer = broker.ask(&ask.clone().header("User-Agent", "courier-token-broker/9.9.9")).await;
    assert_eq!(answer.status, 508, "{answer:?}");
    is_a_refusal(&answer, false);
    assert!(answer.body.contains("base_url"), "{answer:?}");
    for agent in ["my-app (like courier-token-broker/1)", "courier-token-broker-client", "Courier/Python"] {
        assert_eq!(broker.ask(&ask.clone().header("User-Agent", agent)).await.status, 200, "{agent}");
    }
}

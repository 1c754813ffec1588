//! Isolation: a storm of one client or an outage of one workspace does not affect the others.

use courier_token_broker::audit::Actor;
use courier_token_broker::broker::TokenRequest;
use courier_token_broker::config::RawClient;
use serde_json::json;

use crate::support::broker::{Setup, client};
use crate::support::http;
use crate::support::test_broker::{MS, SECOND, TestBroker, TestSetup, ask, join_all};

fn ask_of(client: &'static str, user: &str) -> TokenRequest<'static> {
    TokenRequest { actor: Actor::Client(client.into()), ..ask(user, "1h") }
}

#[tokio::test(start_paused = true)]
async fn storm_of_one_client_does_not_starve_another() {
    let test = TestBroker::new(&TestSetup { rate: 20.0, burst: 1, ..TestSetup::default() });
    let storm: Vec<_> = (0..500).map(|user| test.spawn(ask_of("storm", &format!("storm-{user}")))).collect();
    test.pass(SECOND).await;
    for user in 0..10 {
        let asked = test.clock.now();
        test.broker.get_token(&ask_of("calm", &user.to_string())).await.expect("a token");
        // At most: the next permit, one call of the storm, and Courier's latency.
        let took = test.clock.now().since(asked);
        assert!(took <= 2 * (SECOND / 20) + 100 * MS + 10 * MS, "{took:?}");
    }
    // Requests that were queued in time are still served.
    assert_eq!(join_all(storm).await.iter().filter(|outcome| outcome.is_ok()).count(), 101);
}

#[tokio::test]
async fn outage_of_one_workspace_slows_no_other() {
    let (_socket, gone) = http::refusing_port();
    let broker = Setup::new()
        .settings(|raw| {
            let mut workspace = raw.workspaces["default"].clone();
            workspace.base_url = format!("http://{gone}");
            raw.workspaces.insert("other".to_owned(), workspace);
            raw.clients
                .push(RawClient { workspace: "other".to_owned(), ..client("other", "the-key-of-other", &["*"]) });
        })
        .start()
        .await;
    let ask = |user: &str| http::HttpRequest::tokens(json!({"user_id": user, "scopes": ["s"]}).to_string());
    for user in 0..20 {
        let asks = [ask(&user.to_string()), ask(&user.to_string()).key("the-key-of-other")];
        let [good, bad] = [broker.ask(&asks[0]).await, broker.ask(&asks[1]).await];
        assert_eq!((good.status, bad.status), (200, 503), "{good:?} {bad:?}");
    }
    let state = |name: &str| format!("courier_token_broker_upstream_breaker_state{{workspace=\"{name}\"}}");
    assert_eq!(broker.metric(&state("default")).await, 0.0);
    assert!(broker.metric(&state("other")).await >= 2.0);
}

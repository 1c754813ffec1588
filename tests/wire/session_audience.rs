//! Issuers whose sessions have no `aud`: another claim names the app.

use serde_json::{Value, json};

use crate::sessions::{broker_of, call, is_unauthorized};
use crate::support::broker::claims;
use crate::support::issuer::{AUDIENCE, ISSUER, Signer, at, good_claims, header};

/// An access token of Cognito.
fn cognito(more: &Value) -> Value {
    let mut claims = json!({
        "sub": "jane", "iss": ISSUER, "client_id": AUDIENCE, "token_use": "access", "scope": "openid",
        "version": 2, "auth_time": at(-5), "iat": at(-5), "exp": at(3600), "jti": "1", "username": "jane",
    });
    for (name, value) in more.as_object().expect("an object") {
        claims[name] = value.clone();
    }
    claims
}

#[tokio::test]
async fn another_claim_names_the_audience_where_the_settings_say_so() {
    let signer = Signer::ed25519();
    let session = |claims: &Value| call(&signer.jwt(&header(&signer, "k"), claims));
    let broker = broker_of(&signer, |sessions| sessions.audience_claim = "client_id".to_owned()).await;
    for wrong in [
        json!({"client_id": "another-app"}),
        json!({"client_id": null}),
        json!({"client_id": ""}),
        json!({"client_id": 5}),
        json!({"client_id": [AUDIENCE, 5]}),
        json!({"client_id": {"my-app": 1}}),
        json!({"client_id": "MY-APP"}),
        // The session names another app as well, for which the user did not mean it.
        json!({"aud": "another-api"}),
        json!({"aud": ["another-api"]}),
        json!({"aud": null}),
        // An ID token has the right name in the wrong claim.
        json!({"client_id": "another-app", "aud": AUDIENCE, "azp": AUDIENCE}),
    ] {
        is_unauthorized(&broker.ask(&session(&cognito(&wrong))).await);
    }
    is_unauthorized(&broker.ask(&session(&good_claims("jane"))).await);
    assert_eq!(broker.courier.call_count(), 0);
    for good in [json!({}), json!({"client_id": ["another-app", AUDIENCE]}), json!({"aud": ["another-api", AUDIENCE]})]
    {
        let token = broker.ask(&session(&cognito(&good))).await.token();
        assert!(claims(&token)["scope"].as_str().expect("a scope").starts_with("user_id:jane "), "{good}");
    }
    let without = broker_of(&signer, |_| {}).await;
    is_unauthorized(&without.ask(&session(&cognito(&json!({})))).await);
    assert_eq!(without.courier.call_count(), 0);
}

//! The requests and commands of apps, users and operators.

use std::fs;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

use super::leak_test::*;
use crate::support::child::{Program, settings};
use crate::support::http::{Connection, HttpRequest};
use crate::support::issuer::{Signer, at, good_claims, header};

impl LeakTest {
    /// Valid and invalid requests of apps.
    pub async fn send_requests_of_apps(&mut self) {
        let mut tokens = Vec::new();
        for (user, key) in ["jane", "bob"].into_iter().zip(KEYS) {
            for route in ["/auth/issue-token", FRONTEND, "/v1/tokens"] {
                let body = format!(
                    r#"{{"scope": "user_id:{user} read:brands", "expires_in": "2h", "userId": "{user}", "user_id": "{user}",
                         "scopes": ["read:brands"]}}"#
                );
                let ask = HttpRequest::post(route, body).key(key);
                tokens.push(self.token(&ask, None).await);
                self.token(&ask, None).await;
            }
        }
        let named = self.named.clone();
        let by_name = wants("carol").without("Authorization");
        self.token(&by_name, Some(&named)).await;
        let issue = HttpRequest::issue(r#"{"scope": "user_id:jane read:brands", "expires_in": "2h"}"#).key(KEYS[0]);
        for (ask, status) in [
            (HttpRequest::tokens(r#"{"user_id": "jane", "scopes": ["brands:x"]}"#).key(KEYS[0]), 403),
            (wants("jane").key(GUESS), 401),
            (wants("jane").with("Authorization", GUESS), 401),
            (wants("jane").header("Authorization", format!("Bearer {GUESS}")), 401),
            (wants(GUESS).with("Content-Type", GUESS), 415),
            (HttpRequest::tokens(GUESS).key(KEYS[0]), 400),
            (HttpRequest::new("DELETE", &format!("/v1/users/{GUESS}/{GUESS}")).key(GUESS), 404),
            (HttpRequest::get(&format!("/{GUESS}?key={GUESS}")).key(GUESS), 404),
            (issue.header("Cookie", format!("key={GUESS}")).header("Token-Min-TTL", GUESS), 400),
            (HttpRequest::post("/v1/tokens/rejected", json!({ "token": GUESS }).to_string()).key(KEYS[0]), 204),
            (HttpRequest::post("/v1/tokens/rejected", json!({ "token": tokens[0] }).to_string()).key(KEYS[0]), 204),
            (HttpRequest::post("/v1/tokens/rejected", json!({ "token": tokens[0] }).to_string()).key(GUESS), 401),
            (HttpRequest::new("DELETE", "/v1/users/bob/tokens").key(KEYS[1]), 204),
            (wants("jane").key(&key_of("wrong")), 502),
            (wants("jane").key(&key_of("closed")), 503),
        ] {
            self.expect_refusal(ask, status).await;
        }
        self.token_over_http2(KEYS[1]).await;
        self.token(&wants("dave").key(&key_of("slow")), None).await;
        self.expect_refusal(wants("dave").key(&key_of("slow")), 429).await;
    }

    /// A Courier that repeats the API key, issues other tokens than requested, or sends garbage.
    pub async fn provoke_hostile_answers(&mut self) {
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let claims = json!({ "scope": "user_id:mallory everything", "iat": at(0), "exp": at(7200) }).to_string();
        let stray = format!("{}.{}.{}", part(r#"{"alg":"HS256"}"#), part(&claims), part("a signature of this one"));
        self.watch.for_jwt(&stray);
        for (place, (said, body, status)) in [
            (400, json!({ "message": format!("the key Bearer {API_KEY} is bad\r\n{API_KEY}") }).to_string(), 400),
            (200, json!({ "token": stray }).to_string(), 502),
            (200, json!({ "token": format!("{stray} {API_KEY}") }).to_string(), 502),
            (200, format!("{{\"token\": {stray} {API_KEY}"), 502),
            (302, API_KEY.to_owned(), 503),
            (429, API_KEY.to_owned(), 503),
            (500, API_KEY.to_owned(), 503),
            // One refusal among other failures is not known to be that of the API key.
            (401, json!({ "message": API_KEY }).to_string(), 503),
        ]
        .into_iter()
        .enumerate()
        {
            self.hostile.say(said, &body);
            self.expect_refusal(wants(&format!("user-{place}")).key(&key_of("hostile")), status).await;
        }
    }

    /// Valid and invalid requests of users; `call` adds a session to a request.
    pub async fn send_requests_of_users(&mut self, signer: &Signer, call: impl Fn(&str) -> HttpRequest) {
        let good = signer.session(KID, "jane");
        let mut claims = good_claims("jane");
        claims["exp"] = at(-100).into();
        let old = signer.jwt(&header(signer, KID), &claims);
        claims = good_claims("jane");
        claims["iss"] = "somebody else".into();
        let others = signer.jwt(&header(signer, KID), &claims);
        let stranger = signer.session("a-kid-that-nobody-knows", "jane");
        let forged = format!("{}AAAA", &good[..good.len() - 4]);
        for session in [&good, &old, &others, &stranger, &forged] {
            self.watch.for_jwt(session);
        }
        self.token(&call(&good), None).await;
        self.token(&call(&good), None).await;
        let hmac = matches!(signer, Signer::Hmac(_));
        for (ask, status) in [
            (call(&old), 401),
            (call(&others), 401),
            (call(&forged), 401),
            (call(&good).with("Origin", "https://evil.example"), 403),
            (call(&good).with("Origin", &good), 403),
            (call(&good).header("Token-Min-TTL", &good), 400),
            (HttpRequest::get(&format!("{FRONTEND}?userId={good}&userId={good}")).key(KEYS[0]), 400),
            (HttpRequest::tokens(json!({ "user_id": good, "profile": good }).to_string()).key(&good), 401),
        ] {
            self.expect_refusal(ask, status).await;
        }
        if hmac {
            self.expect_refusal(HttpRequest::frontend(r#"{"userId": "bob"}"#).key(&good), 401).await;
        } else {
            self.watch.for_secret("a-kid-that-nobody-knows");
            self.expect_refusal(call(&stranger), 401).await;
        }
    }

    /// Requests of operators, also after all others.
    pub async fn send_requests_of_operators(&mut self) {
        for target in ["/metrics", "/healthz", "/readyz", "/status", "/", "/nothing"] {
            self.ask_admin(HttpRequest::get(target)).await;
        }
        for user in ["jane", "bob", "carol", "user-0", "user-1", GUESS] {
            // The answer repeats the requested user.
            if user != GUESS {
                self.ask_admin(HttpRequest::get(&format!("/explain?user={user}"))).await;
            }
        }
        self.ask_admin(HttpRequest::purge("default")).await;
        self.ask_admin(HttpRequest::purge(GUESS)).await;
        let file = self.file.path().to_owned();
        let check = |more: &[&str]| Program::new(["check"]).arguments(more).arguments(["--config".as_ref(), &*file]);
        let environment = |program: Program| {
            let program = program.env("COURIER_API_KEY", API_KEY);
            program.env("COURIER_TOKEN_BROKER_CLIENT_KEY", "ctb_Ey8uJi4oLk7pMn1bVc2xZ")
        };
        self.watch.for_secret("ctb_Ey8uJi4oLk7pMn1bVc2xZ");
        self.run_command(check(&[]));
        self.run_command(check(&["--probe"]));
        self.run_command(environment(check(&["--probe"])));
        self.run_command(environment(Program::new(["--help"])));
        self.run_command(environment(Program::new(["serve", "--help"])));
        self.run_command(environment(Program::new(["serve", "--admin-listen", GUESS])));
        for (key, value) in [("TOKENS__FLOOR", API_KEY), ("WORKSPACES__DEFAULT__API_KEY_FILE", "/proc/self/maps")] {
            self.run_command(environment(check(&[])).env(&format!("COURIER_TOKEN_BROKER__{key}"), value));
        }
        // Invalid TOML with a secret in the faulty line.
        let broken = settings(&format!("[workspaces.default]\napi_key = {API_KEY}\n"));
        self.run_command(Program::new(["check", "--config"]).arguments([broken.path()]));
        // A key in the place of another file.
        let key = self.folder.path().join("key");
        fs::write(&key, &self.named.key).expect("written");
        for setting in ["SERVER__TLS__CERTIFICATE_FILE", "SESSIONS__PUBLIC_KEY_FILE", "WORKSPACES__WRONG__API_KEY_FILE"]
        {
            self.run_command(check(&[]).env(&format!("COURIER_TOKEN_BROKER__{setting}"), &key));
        }
        let calls = Connection::open(self.courier).await.ask(&HttpRequest::get("/simulator/calls")).await;
        self.outputs.push(("the simulator".to_owned(), calls.whole()));
    }
}

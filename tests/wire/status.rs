//! `/status` and the files of the status page.

use serde_json::json;

use crate::support::broker::Setup;
use crate::support::http::{HttpRequest, ask, get, inbox, until};

#[tokio::test]
async fn status_tells_what_the_broker_does_and_names_no_user() {
    let broker = Setup::new().start().await;
    for user in ["jane", "john", "jane", "jane"] {
        assert_eq!(broker.ask(&inbox(user)).await.status, 200);
    }
    assert_eq!(broker.ask(&inbox("jane").key("wrong")).await.status, 401);
    until(async || broker.admin("/status").await.json()["requests"]["by_outcome"]["denied"] == 1).await;
    let answer = broker.admin("/status").await;
    assert_eq!((answer.status, answer.header("cache-control")), (200, Some("no-store")));
    assert!(!answer.body.contains("jane") && !answer.body.contains("john"), "{answer:?}");
    let status = answer.json();
    assert_eq!(
        (&status["ready"], &status["tokens"], &status["refresh_mode"]),
        (&json!(true), &json!(2), &json!("learned"))
    );
    let requests = &status["requests"];
    assert_eq!((&requests["by_outcome"]["hit"], &requests["by_outcome"]["miss"]), (&json!(2), &json!(2)));
    assert_eq!(requests["hit_ratio"], 0.5);
    let seconds = requests["hits_and_others_by_second"].as_array().expect("a list");
    assert_eq!(seconds.iter().filter_map(|second| second[0].as_u64()).sum::<u64>(), 2);
    let ends: Vec<_> =
        status["token_ends"]["counts"].as_array().expect("a list").iter().map(|one| one.as_u64()).collect();
    assert_eq!((ends.iter().flatten().sum::<u64>(), status["token_ends"]["later"].as_u64()), (2, Some(0)));
    let workspace = &status["workspaces"][0];
    assert_eq!((&workspace["name"], &workspace["breaker"]), (&json!("default"), &json!("closed")));
    assert_eq!((&workspace["calls"]["waiting"], &workspace["calls"]["failed"]), (&json!(2), &json!(0)));
    assert_eq!(workspace["budget"]["present_requests_per_second"], 20.0);
    assert_eq!((&status["store"], &status["fleet"]), (&json!({"kind": "memory", "state": "ok"}), &json!(null)));
}

#[tokio::test]
async fn operations_page_lists_each_field_of_the_status() {
    let broker = Setup::new().start().await;
    let status = broker.admin("/status").await.json();
    let page = include_str!("../../docs/operations.md");
    let (_, section) = page.split_once("\n### Status\n").expect("the section");
    let section = section.split("\n### ").next().expect("the section");
    let mut fields: Vec<_> = status.as_object().expect("an object").keys().cloned().collect();
    fields.retain(|field| field != "workspaces");
    let of_workspaces = status["workspaces"][0].as_object().expect("an object").keys().filter(|field| *field != "name");
    fields.extend(of_workspaces.map(|field| format!("workspaces[].{field}")));
    for part in ["token_ends", "requests"] {
        fields.extend(status[part].as_object().expect("an object").keys().cloned());
    }
    for field in fields {
        assert!(section.contains(&format!("`{field}`")), "{field} is not in docs/operations.md");
    }
}

#[tokio::test]
async fn status_page_loads_from_its_own_listener_alone() {
    let broker = Setup::new().start().await;
    for (path, media_type) in [
        ("/", "text/html; charset=utf-8"),
        ("/status.js", "text/javascript; charset=utf-8"),
        ("/status.css", "text/css; charset=utf-8"),
        ("/icon.svg", "image/svg+xml"),
    ] {
        let answer = get(broker.admin, path).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, Some(media_type)), "{path}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        let policy = answer.header("content-security-policy").expect("a policy");
        assert!(policy.starts_with("default-src 'none'; ") && policy.contains("frame-ancestors 'none'"), "{policy}");
        assert!(!policy.contains("unsafe") && !policy.contains("http") && !policy.contains('*'), "{policy}");
        assert!(!answer.body.contains("innerHTML") && !answer.body.contains("https://"), "{path}");
        let head = ask(broker.admin, &HttpRequest::new("HEAD", path)).await;
        assert_eq!((head.status, head.body.as_str()), (200, ""), "{path}");
        assert_eq!(ask(broker.admin, &HttpRequest::post(path, "{}")).await.status, 405, "{path}");
    }
    // A link of another page may open it, in no frame.
    let link = HttpRequest::get("/").header("Sec-Fetch-Site", "cross-site").header("Sec-Fetch-Mode", "navigate");
    let opened = |dest: &str| link.clone().header("Sec-Fetch-Dest", dest);
    assert_eq!(ask(broker.admin, &opened("document")).await.status, 200);
    assert_eq!(ask(broker.admin, &opened("iframe")).await.status, 403);
}

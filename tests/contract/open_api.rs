//! The OpenAPI document against real answers.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::support::broker::{API_KEY, Broker};
use crate::support::http::{CLIENT_KEY, HttpRequest};

/// The document of a broker.
pub async fn document(broker: &Broker) -> Value {
    broker.ask(&HttpRequest::get("/openapi.json").without("Authorization")).await.json()
}

/// Every operation: its method in capitals, its path, and what the document says of it.
pub fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let paths = document["paths"].as_object().expect("paths");
    let of = |(path, methods): (&String, &Value)| {
        let methods = methods.as_object().expect("methods").clone();
        let path = path.clone();
        methods.into_iter().map(move |(method, operation)| (method.to_uppercase(), path.clone(), operation))
    };
    paths.iter().flat_map(of).collect()
}

fn keys(value: &Value) -> BTreeSet<&String> {
    value.as_object().map(Map::keys).into_iter().flatten().collect()
}

#[tokio::test]
async fn document_is_served_to_everyone_and_may_be_cached() {
    let broker = Broker::start().await;
    let answer = broker.ask(&HttpRequest::get("/openapi.json").without("Authorization")).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    assert_eq!(answer.header("cache-control"), Some("public, max-age=3600"));
    for secret in [API_KEY, CLIENT_KEY, "/metrics", "/explain", &broker.admin.to_string()] {
        assert!(!answer.body.contains(secret), "the document has {secret}");
    }
    assert_eq!(broker.ask(&HttpRequest::post("/openapi.json", "{}")).await.status, 405);
}

#[tokio::test]
async fn every_operation_has_a_name_of_its_own() {
    let document = document(&Broker::start().await).await;
    let operations = operations(&document);
    let names: BTreeSet<_> = operations.iter().map(|(.., operation)| operation["operationId"].to_string()).collect();
    assert_eq!(names.len(), operations.len(), "two operations share an entry: {names:?}");
}

#[tokio::test]
async fn every_reference_of_the_document_resolves() {
    let document = document(&Broker::start().await).await;
    let mut open = vec![&document];
    while let Some(value) = open.pop() {
        if let Some(reference) = value["$ref"].as_str() {
            let target = reference.strip_prefix('#').and_then(|path| document.pointer(path));
            assert!(target.is_some(), "{reference}");
        }
        match value {
            Value::Array(list) => open.extend(list),
            Value::Object(object) => open.extend(object.values()),
            _ => {}
        }
    }
}

#[tokio::test]
async fn example_of_every_operation_gets_the_described_answer() {
    let broker = Broker::start().await;
    let document = document(&broker).await;
    for (method, path, operation) in operations(&document) {
        let mut target = path.replace("{id}", "jane");
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            if parameter["in"] == "query" {
                let (name, value) = (&parameter["name"], &parameter["example"]);
                target = format!("{target}?{}={}", name.as_str().expect("a name"), value.as_str().expect("a text"));
            }
        }
        let body = &operation["requestBody"]["content"]["application/json"]["example"];
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer = broker.ask(&HttpRequest::post(&target, body).method(&method)).await;
        let described = &operation["responses"][answer.status.to_string()];
        assert!((200..300).contains(&answer.status) && described.is_object(), "{method} {path}: {answer:?}");
        for (name, header) in described["headers"].as_object().into_iter().flatten() {
            let is_there = answer.header(&name.to_lowercase()).is_some();
            assert!(is_there || header["required"] == false, "{method} {path}: no {name}: {answer:?}");
        }
        let example = &described["content"]["application/json"]["example"];
        if !example.is_null() {
            assert_eq!(keys(&answer.json()), keys(example), "{method} {path}");
        }
    }
}

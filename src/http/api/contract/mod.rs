//! `GET /openapi.json`: the routes, their requests, answers and errors as OpenAPI 3.1, made from the code.

pub mod errors;
mod operation;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use bytes::Bytes;
use hyper::Response;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue};
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::problem::Problem;
use super::response::{CourierError, FrontendError, Style};
use super::retry::ClientKind;
use super::{Answered, Api};
use crate::http::response_body::JSON;
use crate::metrics::{Label, RequestOutcome, Route};
use operation::{Answer, Caller, Operation};

/// Built once.
static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| document().to_string().into());
/// The document changes only with the program.
const CACHEABLE: HeaderValue = HeaderValue::from_static("public, max-age=3600");

const ABOUT: &str = "Issues Courier's user tokens from memory. `POST /auth/issue-token` is Courier's own call: an \
    official server SDK works with its base URL set to this server. Leading and trailing slashes of a path don't \
    matter, and unknown members of a body are ignored. Each error has `x-should-retry: false`, a `Retry-After`, or \
    both. An answer has the `x-request-id` of its request, and an error always has one. Other paths are answered with \
    404, other methods with 405.";
const CACHE_STATUS: &str = "Where the token came from, as RFC 9211 has it: `hit`, `fwd=miss` or `fwd=stale`, and the \
    seconds that it has left as `ttl`.";

impl Api {
    /// The document, built when it is called for the first time.
    pub(super) fn contract() -> Bytes {
        DOCUMENT.clone()
    }

    /// Answers with the document.
    pub(super) fn open_api(&self) -> Answered {
        let mut response = Response::new(self.contract.clone().into());
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, JSON);
        headers.insert(CACHE_CONTROL, CACHEABLE);
        (RequestOutcome::Done, response)
    }
}

/// The parts of the document that operations share.
struct Components {
    schemas: SchemaGenerator,
    examples: Map<String, Value>,
}

fn document() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut shared = Components { schemas: settings.into_generator(), examples: Map::new() };
    let mut paths = Map::new();
    for route in Route::ALL {
        let mut methods = Map::new();
        for method in Api::methods(*route) {
            if let Some(operation) = Operation::of(*route, method, &mut shared.schemas) {
                let shown = shared.operation(operation, Style::of(*route));
                methods.insert(method.as_str().to_lowercase(), shown);
            }
        }
        if !methods.is_empty() {
            paths.insert(route.as_str().to_owned(), methods.into());
        }
    }
    let is_elsewhere = |problem: &Problem| matches!(problem, Problem::NotFound | Problem::Method(_));
    let elsewhere = shared.errors(Style::Courier, is_elsewhere);
    let Components { mut schemas, examples } = shared;
    let kinds: BTreeSet<_> = examples.values().filter_map(|example| example["value"]["type"].as_str()).collect();
    let mut definitions = schemas.take_definitions(true);
    definitions["CourierError"]["properties"]["type"]["enum"] = json!(kinds);
    json!({
        "openapi": "3.1.0",
        "info": { "title": "courier-token-broker", "version": "1", "description": ABOUT },
        "servers": [{ "url": "/" }],
        "paths": paths,
        "components": {
            "schemas": definitions,
            "responses": elsewhere,
            "examples": examples,
            "securitySchemes": security_schemes(),
        },
    })
}

fn security_schemes() -> Value {
    json!({
        "clientKey": { "type": "http", "scheme": "bearer", "description": "The key of a client." },
        "clientCertificate": { "type": "mutualTLS", "description": "A certificate of a client, where the settings ask for one." },
        "session": {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "JWT",
            "description": "The login session of a user, where the settings allow sessions. They may name a cookie instead.",
        },
    })
}

/// The status and the response of an operation that succeeds.
fn success(answer: &Answer) -> (&'static str, Value) {
    match answer {
        Answer::Token(schema, example) => {
            let headers = json!({
                "Cache-Control": { "schema": { "const": "no-store" }, "required": true },
                "Cache-Status": { "schema": { "type": "string" }, "required": true, "description": CACHE_STATUS },
            });
            let content = json!({ "application/json": { "schema": schema, "example": example } });
            ("200", json!({ "description": "The token.", "headers": headers, "content": content }))
        }
        Answer::Nothing => ("204", json!({ "description": "Done." })),
        Answer::Document => {
            let content = json!({ "application/json": { "schema": { "type": "object" } } });
            ("200", json!({ "description": "This document.", "content": content }))
        }
    }
}

impl Components {
    /// The operation as an object of OpenAPI.
    fn operation(&mut self, operation: Operation, style: Style) -> Value {
        let security = match operation.caller {
            Caller::Anyone => json!([]),
            Caller::Client => json!([{ "clientKey": [] }, { "clientCertificate": [] }]),
            Caller::ClientOrSession => json!([{ "clientKey": [] }, { "clientCertificate": [] }, { "session": [] }]),
        };
        let mut responses = self.errors(style, |problem| errors::entry(problem).1(&operation));
        let (status, response) = success(&operation.answer);
        responses.insert(status.to_owned(), response);
        let mut shown = json!({
            "operationId": operation.id,
            "summary": operation.summary,
            "security": security,
            "responses": responses,
        });
        if !operation.parameters.is_empty() {
            shown["parameters"] = operation.parameters.into();
        }
        if let Some((schema, example)) = operation.body {
            let content = json!({ "application/json": { "schema": schema, "example": example } });
            shown["requestBody"] = json!({ "required": true, "content": content });
        }
        shown
    }

    /// The responses of the errors that occur, by their status.
    fn errors(&mut self, style: Style, occurs: impl Fn(&Problem) -> bool) -> Map<String, Value> {
        let schema = match style {
            Style::Courier => self.schemas.subschema_for::<CourierError>(),
            Style::Frontend => self.schemas.subschema_for::<FrontendError>(),
        };
        let mut by_status: BTreeMap<u16, Vec<Problem>> = BTreeMap::new();
        for problem in errors::examples().into_iter().filter(|problem| occurs(problem)) {
            by_status.entry(problem.status().as_u16()).or_default().push(problem);
        }
        let mut responses = Map::new();
        for (status, problems) in by_status {
            let reason = problems[0].status().canonical_reason().unwrap_or_default();
            let examples: Map<_, _> = problems.iter().map(|problem| self.example(problem, style)).collect();
            let content = json!({ "application/json": { "schema": schema, "examples": examples } });
            let response =
                json!({ "description": reason, "headers": headers_of(&problems, style), "content": content });
            responses.insert(status.to_string(), response);
        }
        responses
    }

    /// The name of a problem's example, and a reference to it. A name has one status and one style.
    fn example(&mut self, problem: &Problem, style: Style) -> (String, Value) {
        let front_end = if style == Style::Frontend { "frontend-" } else { "" };
        let name = format!("{front_end}{}-{}", errors::entry(problem).0, problem.status().as_u16());
        let reference = json!({ "$ref": format!("#/components/examples/{name}") });
        self.examples.entry(&name).or_insert_with(|| json!({ "value": problem.body(style) }));
        (name, reference)
    }
}

/// The headers of these errors. Those that all of them have are required.
fn headers_of(problems: &[Problem], style: Style) -> Map<String, Value> {
    let all: Vec<HeaderMap> =
        problems.iter().map(|problem| problem.response(style, ClientKind::Any).headers().clone()).collect();
    let mut headers = Map::new();
    for name in all.iter().flat_map(HeaderMap::keys).filter(|name| *name != CONTENT_TYPE) {
        let schema = match name.as_str() {
            "retry-after" => json!({ "type": "integer", "minimum": 1, "maximum": 59 }),
            _ => json!({ "type": "string" }),
        };
        let is_required = all.iter().all(|headers| headers.contains_key(name));
        headers.insert(name.to_string(), json!({ "schema": schema, "required": is_required }));
    }
    headers
}

//! The operations: what each method of each route takes and answers.

use hyper::Method;
use schemars::{JsonSchema, SchemaGenerator};
use serde::Serialize;
use serde_json::{Value, json};

use super::super::fields::{DurationField, Id};
use super::super::{courier, frontend, native, removal};
use crate::metrics::Route;

/// One method of a route.
pub struct Operation {
    pub id: &'static str,
    pub summary: &'static str,
    pub caller: Caller,
    /// The parameters beside the body.
    pub parameters: Vec<Value>,
    /// The schema of the body, and an example.
    pub body: Option<(Value, Value)>,
    pub answer: Answer,
}

/// The callers that an operation serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    Anyone,
    Client,
    ClientOrSession,
}

/// The answer of an operation that succeeds.
pub enum Answer {
    /// 200 with a token: the schema, and an example.
    Token(Value, Value),
    /// 204.
    Nothing,
    /// 200 with the document.
    Document,
}

/// The answer of `POST /auth/issue-token`.
#[derive(Serialize, JsonSchema)]
pub struct IssuedToken {
    /// The token: a JWT, as Courier issued it.
    token: String,
}

/// The answer of `/api/generate-courier-jwt`.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FrontendToken {
    /// The token: a JWT, as Courier issued it.
    token: String,
    /// The life that it has left, in seconds.
    #[schemars(regex(pattern = "^[0-9]+s$"))]
    expires_in: String,
    /// Its end.
    #[schemars(extend("format" = "date-time"))]
    expires_at: String,
}

/// The answer of `POST /v1/tokens`.
#[derive(Serialize, JsonSchema)]
pub struct Token {
    /// The token: a JWT, as Courier issued it.
    token: String,
    /// Its users, each as `user_id:ID`, and its scopes.
    scope: String,
    /// The life that it has left, in seconds.
    expires_in: u32,
    /// Its end.
    #[schemars(extend("format" = "date-time"))]
    expires_at: String,
}

const TOKEN: &str = "eyJhbGciOiJIUzI1NiJ9.eyJzY29wZSI6InVzZXJfaWQ6amFuZSJ9.c2lnbmF0dXJl";
const ENDS_AT: &str = "2026-01-02T00:00:00Z";

impl Operation {
    /// Describes a method of a route; `None` for other paths. Schemas with names go to the generator.
    pub fn of(route: Route, method: &Method, schemas: &mut SchemaGenerator) -> Option<Self> {
        let (client, session) = (Caller::Client, Caller::ClientOrSession);
        Some(match route {
            Route::IssueToken => Self {
                parameters: vec![min_ttl()],
                body: body::<courier::RequestBody<'_>>(
                    schemas,
                    json!({ "scope": "user_id:jane inbox:read:messages", "expires_in": "1d" }),
                ),
                ..Self::new("issueToken", "Issue a token, as Courier does", client, issued_token(schemas))
            },
            Route::Frontend if *method == Method::GET => Self {
                parameters: vec![user_in_query(), min_ttl()],
                ..Self::new(
                    "getFrontendToken",
                    "Issue a token with the scopes of the inbox",
                    session,
                    frontend_token(schemas),
                )
            },
            Route::Frontend => Self {
                parameters: vec![min_ttl()],
                body: body::<frontend::RequestBody<'_>>(schemas, json!({ "userId": "jane" })),
                ..Self::new(
                    "issueFrontendToken",
                    "Issue a token with the scopes of the inbox",
                    session,
                    frontend_token(schemas),
                )
            },
            Route::Tokens if *method == Method::DELETE => Self {
                body: body::<removal::SignOutBody<'_>>(schemas, json!({ "user_id": "jane" })),
                ..Self::new("signOut", "Forget every token of a user", client, Answer::Nothing)
            },
            Route::Tokens => Self {
                body: body::<native::RequestBody<'_>>(
                    schemas,
                    json!({ "user_id": "jane", "profile": "inbox", "expires_in": "1d", "min_ttl": "20h" }),
                ),
                ..Self::new("getToken", "Get a token, with every option", client, token(schemas))
            },
            Route::Rejected => Self {
                body: body::<removal::RejectedBody<'_>>(schemas, json!({ "token": TOKEN })),
                ..Self::new("reportRejectedToken", "Report a token that Courier refused", client, Answer::Nothing)
            },
            Route::SignOut => Self {
                parameters: vec![user_in_path()],
                ..Self::new("signOutUser", "Forget every token of the user in the path", client, Answer::Nothing)
            },
            Route::OpenApi => Self::new("getContract", "Get this document", Caller::Anyone, Answer::Document),
            Route::Other => return None,
        })
    }

    const fn new(id: &'static str, summary: &'static str, caller: Caller, answer: Answer) -> Self {
        Self { id, summary, caller, parameters: Vec::new(), body: None, answer }
    }

    /// Whether a request must authenticate.
    pub fn has_caller(&self) -> bool {
        self.caller != Caller::Anyone
    }

    /// Whether a request has a body.
    pub const fn has_body(&self) -> bool {
        self.body.is_some()
    }

    /// Whether a request has anything that could be invalid.
    pub const fn has_input(&self) -> bool {
        self.has_body() || !self.parameters.is_empty()
    }

    /// Whether the answer is a token.
    pub const fn issues_token(&self) -> bool {
        matches!(self.answer, Answer::Token(..))
    }
}

fn schema<T: JsonSchema>(schemas: &mut SchemaGenerator) -> Value {
    schemas.subschema_for::<T>().to_value()
}

fn body<T: JsonSchema>(schemas: &mut SchemaGenerator, example: Value) -> Option<(Value, Value)> {
    Some((schema::<T>(schemas), example))
}

fn answer<T: JsonSchema + Serialize>(schemas: &mut SchemaGenerator, example: &T) -> Answer {
    Answer::Token(schema::<T>(schemas), json!(example))
}

fn issued_token(schemas: &mut SchemaGenerator) -> Answer {
    answer(schemas, &IssuedToken { token: TOKEN.to_owned() })
}

fn frontend_token(schemas: &mut SchemaGenerator) -> Answer {
    let (expires_in, expires_at) = ("86399s".to_owned(), ENDS_AT.to_owned());
    answer(schemas, &FrontendToken { token: TOKEN.to_owned(), expires_in, expires_at })
}

fn token(schemas: &mut SchemaGenerator) -> Answer {
    let scope = "user_id:jane inbox:read:messages inbox:write:events read:brands read:preferences write:preferences";
    let (scope, expires_at) = (scope.to_owned(), ENDS_AT.to_owned());
    answer(schemas, &Token { token: TOKEN.to_owned(), scope, expires_in: 86_399, expires_at })
}

fn min_ttl() -> Value {
    json!({
        "name": "Token-Min-TTL",
        "in": "header",
        "description": "The least life that the token must have left, with a unit: less than its lifetime. \
            Not allowed with a session.",
        "schema": DurationField::text_schema(),
        "example": "20h",
    })
}

fn user_in_query() -> Value {
    json!({
        "name": "userId",
        "in": "query",
        "required": true,
        "description": "The user. May be left out where a session names the user.",
        "schema": Id::text_schema(),
        "example": "jane",
    })
}

fn user_in_path() -> Value {
    json!({
        "name": "id",
        "in": "path",
        "required": true,
        "description": "The user. For an id with `/`, `%` or `..` use `DELETE /v1/tokens`: many proxies change it in a path.",
        "schema": Id::text_schema(),
        "example": "jane",
    })
}

//! An oracle for requests: a strict parser that shares no code with the broker.

use std::collections::{BTreeMap, BTreeSet};

use hyper::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::broker::{DAY, HOUR, INBOX_SCOPES, LONGEST};
use crate::keys::{APP, MALLORY, OTHER};
use crate::message::Pieces;
use crate::span;

/// The caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    App,
    Mallory,
    Other,
}

impl Caller {
    pub fn of(request: &Request<Pieces>) -> Option<Self> {
        let values: Vec<_> = request.headers().get_all(AUTHORIZATION).iter().collect();
        let [value] = values[..] else { return None };
        let text = value.to_str().ok()?;
        let (scheme, key) = text.split_at_checked("bearer ".len())?;
        if scheme.to_lowercase() != "bearer " {
            return None;
        }
        [(APP, Self::App), (MALLORY, Self::Mallory), (OTHER, Self::Other)]
            .into_iter()
            .find_map(|(known, caller)| (key.trim() == known).then_some(caller))
    }

    pub const fn workspace(self) -> &'static str {
        match self {
            Self::App | Self::Mallory => "default",
            Self::Other => "other",
        }
    }

    pub fn may_act_for(self, user: &str) -> bool {
        self != Self::Mallory || user == "mallory" || user.starts_with("mallory:")
    }

    fn may_have(self, scope: &str) -> bool {
        self != Self::Mallory || scope.starts_with("inbox:") || scope == "read:brands"
    }

    const fn longest(self) -> u32 {
        match self {
            Self::App | Self::Other => LONGEST,
            Self::Mallory => HOUR,
        }
    }
}

/// The users and the scopes of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The users in the order given, without duplicates.
    pub users: Vec<String>,
    pub scopes: BTreeSet<String>,
}

impl Claim {
    /// Splits a scope string at every separator that any parser uses. `None` if it has a separator that not all parsers
    /// use, or no user, or no scope.
    pub fn split(text: &str) -> Option<Self> {
        if text.contains(|char: char| char != ' ' && (char.is_whitespace() || char.is_control())) {
            return None;
        }
        let parts = || text.split_whitespace();
        let users = parts().filter_map(|part| part.strip_prefix("user_id:")).map(str::to_owned).collect();
        let scopes = parts().filter(|part| !part.starts_with("user_id:")).map(str::to_owned).collect();
        Self::new(users, scopes)
    }

    /// `None` if a part is ambiguous or missing.
    pub fn new(users: Vec<String>, scopes: BTreeSet<String>) -> Option<Self> {
        let mut once = Vec::new();
        for user in users {
            if !once.contains(&user) {
                once.push(user);
            }
        }
        let blank =
            |text: &String| text.is_empty() || text.contains(|char: char| char.is_whitespace() || char.is_control());
        let names_a_user = |scope: &String| {
            let scope = scope.to_lowercase();
            scope.starts_with("user_id") || scope.contains("user_id:")
        };
        let good = !once.is_empty()
            && !scopes.is_empty()
            && !once.iter().any(blank)
            && !scopes.iter().any(|scope| blank(scope) || names_a_user(scope) || !scope.is_ascii());
        good.then_some(Self { users: once, scopes })
    }
}

/// A token that the caller may have.
#[derive(Debug)]
pub struct AllowedToken {
    pub caller: Caller,
    pub claim: Claim,
    pub lifetime: u32,
}

/// The path without the slashes that clients add before and after it.
pub fn path(request: &Request<Pieces>) -> &str {
    request.uri().path().trim_matches('/')
}

/// The token that the request must get, if any.
pub fn allowed_token(request: &Request<Pieces>) -> Option<AllowedToken> {
    let caller = Caller::of(request)?;
    let inbox = || INBOX_SCOPES.map(str::to_owned).into();
    let normal = DAY.min(caller.longest());
    let (claim, lifetime) = match (path(request), request.method()) {
        ("auth/issue-token", &Method::POST) => {
            let body = body(request)?;
            let claim = Claim::split(body.get("scope")?.as_str()?)?;
            (claim, span::seconds(&body.get("expires_in")?)?)
        }
        ("api/generate-courier-jwt", &Method::POST) => {
            let user = id(&body(request)?.get("userId")?)?;
            (Claim::new(vec![user], inbox())?, normal.into())
        }
        ("api/generate-courier-jwt", &Method::GET) => {
            (Claim::new(vec![user_in_query(request.uri().query()?)?], inbox())?, normal.into())
        }
        ("v1/tokens", &Method::POST) => {
            let body = body(request)?;
            let texts = |value: &Value| -> Option<Vec<String>> {
                value.as_array()?.iter().map(|text| text.as_str().map(str::to_owned)).collect()
            };
            let users = match (body.has("user_id"), body.has("user_ids")) {
                (true, false) => vec![id(&body.get("user_id")?)?],
                (false, true) => body.get("user_ids")?.as_array()?.iter().map(id).collect::<Option<_>>()?,
                _ => return None,
            };
            let scopes = match (body.has("scopes"), body.has("profile")) {
                (true, false) => texts(&body.get("scopes")?)?.into_iter().collect(),
                (false, true) => match body.get("profile")?.as_str()? {
                    "inbox" => inbox(),
                    "brands" => ["read:brands".to_owned()].into(),
                    _ => return None,
                },
                _ => return None,
            };
            let lifetime = match body.has("expires_in") {
                true => span::seconds(&body.get("expires_in")?)?,
                false => normal.into(),
            };
            (Claim::new(users, scopes)?, lifetime)
        }
        _ => return None,
    };
    let may = claim.users.iter().all(|user| caller.may_act_for(user))
        && claim.scopes.iter().all(|scope| caller.may_have(scope))
        && (1.0..=f64::from(caller.longest())).contains(&lifetime);
    may.then_some(AllowedToken { caller, claim, lifetime: lifetime as u32 })
}

/// A string, or the literal text of a whole number.
pub fn id(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) if !number.is_f64() => Some(number.to_string()),
        _ => None,
    }
}

fn body(request: &Request<Pieces>) -> Option<Members> {
    let media_type = request.headers().get(CONTENT_TYPE)?.to_str().ok()?.to_lowercase();
    let is_plain = |value: &HeaderValue| {
        let mut names = value.as_bytes().split(|byte| b", \t".contains(byte));
        names.all(|name| name.is_empty() || name.eq_ignore_ascii_case(b"identity"))
    };
    if !request.headers().get_all(CONTENT_ENCODING).iter().all(is_plain) {
        return None;
    }
    let body = request.body().whole()?;
    (media_type.starts_with("application/") && media_type.contains("json")).then(|| Members::read_body(&body))?
}

/// The members of a JSON object, each parsed on use: unused members may have a lone surrogate or a number out of range.
pub struct Members(BTreeMap<String, Box<RawValue>>);

impl Members {
    pub fn read(json: &[u8]) -> Option<Self> {
        serde_json::from_str(std::str::from_utf8(json).ok()?).ok().map(Self)
    }

    /// Reads a body, which may begin with a byte order mark.
    pub fn read_body(body: &[u8]) -> Option<Self> {
        Self::read(body.strip_prefix("\u{feff}".as_bytes()).unwrap_or(body))
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The member; `None` also if it cannot be read.
    pub fn get(&self, name: &str) -> Option<Value> {
        serde_json::from_str(self.0.get(name)?.get()).ok()
    }
}

/// The only `userId` of a form-encoded query.
pub fn user_in_query(query: &str) -> Option<String> {
    let mut users = query.split('&').filter_map(|pair| pair.strip_prefix("userId="));
    let user = users.next()?;
    users.next().is_none().then(|| percent_decoded(&user.replace('+', " ")))?
}

/// Decodes percent-encoding byte by byte.
pub fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::new();
    let digit = |byte: u8| char::from(byte).to_digit(16);
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => u8::try_from(digit(bytes.next()?)? * 16 + digit(bytes.next()?)?).ok()?,
            other => other,
        });
    }
    String::from_utf8(decoded).ok()
}

/// The user that a request signs out: that of `DELETE v1/users/{id}/tokens`, or that in the body.
pub fn signed_out_user(request: &Request<Pieces>) -> Option<String> {
    match path(request).split('/').collect::<Vec<_>>()[..] {
        ["v1", "tokens"] => id(&body(request)?.get("user_id")?),
        ["v1", "users", user, "tokens"] => percent_decoded(user).filter(|user| !user.is_empty()),
        _ => None,
    }
}

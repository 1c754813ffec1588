//! The scopes that Courier documents, as a client's access and as profiles.

use std::collections::BTreeMap;

use super::raw::{Client, Raw, Tokens};
use crate::auth::Digest;
use crate::policy::access::SetBy;
use crate::token::{INBOX, MOBILE};

/// Every scope that Courier documents, as patterns: those of its API page, of its SDKs' enumerations, and of its
/// embeddable designer.
///
/// The designer's are patterns since tenants' ids are part of them, and since its documentation has several spellings
/// for one scope: `tenant:ID:notification:read`, `tenant:ID:notifications:read`, `tenants:ID:notifications:write`.
const SCOPES: [&str; 17] = [
    "inbox:read:messages",
    "inbox:write:event",
    "inbox:write:events",
    "inbox:write:messages",
    "read:brands",
    "read:brands:*",
    "read:messages",
    "read:preferences",
    "read:user-tokens",
    "tenant:*",
    "tenants:*",
    "write:brands",
    "write:brands:*",
    "write:events",
    "write:preferences",
    "write:track",
    "write:user-tokens",
];

impl Client {
    /// A client that may request every documented scope, every user and the longest lifetime.
    pub fn with_documented_scopes(name: &str, key: Digest, tokens: &Tokens, set_by: SetBy) -> Self {
        Self {
            name: name.to_owned(),
            key_sha256: key.to_string().into(),
            scopes: Some(SCOPES.map(str::to_owned).to_vec()),
            max_lifetime: tokens.max_lifetime,
            set_by,
            ..Self::default()
        }
    }
}

impl Raw {
    /// The scopes that Courier's Inbox and Toast need, and those that its mobile SDKs need for push as well.
    pub fn built_in_profiles() -> BTreeMap<String, Vec<String>> {
        let inbox =
            ["inbox:read:messages", "inbox:write:events", "read:preferences", "write:preferences", "read:brands"];
        let push = ["read:user-tokens", "write:user-tokens"];
        let owned = |scopes: &[&str]| scopes.iter().map(|&scope| scope.to_owned()).collect();
        BTreeMap::from([(INBOX.to_owned(), owned(&inbox)), (MOBILE.to_owned(), owned(&[&inbox[..], &push].concat()))])
    }
}

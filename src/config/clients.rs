//! Checks `[[clients]]`: their keys, certificate names and access.

use std::collections::BTreeSet;

use super::checker::Checker;
use super::error::SettingsError;
use super::raw::{self, OneOrMany, Raw};
use crate::auth::{Client, ClientKeys, Digest, InboundRate};
use crate::policy::access::{Access, Pattern};
use crate::token::{Scope, UserId, WorkspaceName};

impl Checker<'_> {
    /// The valid clients.
    pub(super) fn clients(&self, raw: &Raw) -> ClientKeys {
        let mut keys = ClientKeys::default();
        let mut seen = Vec::new();
        for (place, client) in raw.clients.iter().enumerate() {
            let key = |field: &str| format!("clients[{place}].{field}");
            if client.name.is_empty() {
                self.add_error(self.error(&key("name"), "must be a name for logs"));
            } else if seen.contains(&&client.name) {
                self.add_error(self.error(&key("name"), "must differ from the other clients' names"));
            }
            seen.push(&client.name);
            if !raw.workspaces.contains_key(&client.workspace) {
                self.add_error(self.error(&key("workspace"), "must be the name of one of the workspaces"));
            }
            let names = self.keep(self.certificate_names(raw, client, &keys, key));
            // With a certificate no key is needed.
            let least = usize::from(client.certificate_names.is_empty());
            let digests = self.keep(self.digests(&client.key_sha256, least, &keys, &key("key_sha256")));
            if let (Some(client), Some(digests), Some(names)) = (self.client(raw, client, key), digests, names) {
                keys.add(client, digests, names);
            }
        }
        if raw.clients.is_empty() && raw.sessions.is_none() {
            self.add_error(self.error(
                "clients",
                "there is no client, so no app could call: `courier-token-broker client-key NAME` makes one, or set \
                 COURIER_TOKEN_BROKER_CLIENT_KEY to a secret of your own",
            ));
        }
        keys
    }

    /// The keys of a client or of the operators: at least so many, two during a rotation.
    pub(super) fn digests(
        &self,
        texts: &OneOrMany,
        least: usize,
        taken: &ClientKeys,
        key: &str,
    ) -> Result<Vec<Digest>, SettingsError> {
        let parsed = texts.0.iter().map(|hex| Digest::parse(hex));
        let digests = parsed.collect::<Result<Vec<_>, _>>().map_err(|error| self.error(key, error.to_string()))?;
        if digests.iter().any(|digest| digest.is_of_empty_text()) {
            let message = "is the SHA-256 of the empty text or of a line end: hash a key, as \
                `courier-token-broker client-key NAME` does";
            return Err(self.error(key, message));
        }
        if !(least..=2).contains(&digests.len()) {
            return Err(self.error(key, "must be one key's SHA-256, or a list of two while one replaces the other"));
        }
        let twice = matches!(digests[..], [one, other] if one == other);
        if twice || digests.iter().any(|digest| taken.contains(*digest)) {
            return Err(self.error(key, "must differ from the other keys"));
        }
        Ok(digests)
    }

    fn client(&self, raw: &Raw, client: &raw::Client, key: impl Fn(&str) -> String) -> Option<Client> {
        // The default is the profiles' scopes, each once, and nothing else.
        let profiles: BTreeSet<_> = raw.profiles.values().flatten().collect();
        let scopes = match &client.scopes {
            Some(scopes) => self.patterns(&key("scopes"), scopes, |example| {
                Scope::new(example).map_err(|error| error.to_string()).map(drop)
            }),
            // Errors in profiles are reported there.
            None => Some(profiles.into_iter().filter_map(|scope| Pattern::new(scope).ok()).collect()),
        };
        let users = self.patterns(&key("users"), &client.users, |example| {
            UserId::new(example).map_err(|error| error.to_string()).map(drop)
        });
        if client.users.is_empty() {
            self.add_error(self.error(&key("users"), "matches no user: must have at least one pattern such as \"*\""));
        }
        let max_lifetime = self.lifetime(&key("max_lifetime"), client.max_lifetime);
        // The same error is reported once.
        let is_reported = client.max_lifetime == raw.tokens.max_lifetime;
        let max_lifetime = if is_reported { max_lifetime.ok() } else { self.keep(max_lifetime) };
        let rate = client.requests_per_second.map(|rate| {
            InboundRate::new(rate).ok_or_else(|| {
                let (least, most) = (InboundRate::RANGE.start(), InboundRate::RANGE.end());
                self.error(&key("requests_per_second"), format!("must be a number from {least} to {most}"))
            })
        });
        let rate = self.keep(rate.transpose());
        Some(Client {
            name: client.name.clone(),
            workspace: WorkspaceName::new(&client.workspace).ok()?,
            access: Access { scopes: scopes?, users: users?, max_lifetime: max_lifetime?, set_by: client.set_by },
            rate: rate?,
        })
    }

    /// Parses patterns, each of which must match something: `is_good` checks a text.
    fn patterns(
        &self,
        key: &str,
        texts: &[String],
        is_good: impl Fn(&str) -> Result<(), String>,
    ) -> Option<Vec<Pattern>> {
        let pattern = |(place, text): (usize, &String)| {
            let key = format!("{key}[{place}]");
            let pattern = Pattern::new(text).map_err(|error| self.error(&key, error.to_string()));
            let pattern = self.keep(pattern)?;
            // Any character can stand for the star.
            let is_good =
                is_good(&text.replace('*', "x")).map_err(|why| self.error(&key, format!("matches nothing: {why}")));
            self.keep(is_good).map(|()| pattern)
        };
        // All are checked, also after an error.
        let patterns: Vec<_> = texts.iter().enumerate().map(pattern).collect();
        patterns.into_iter().collect()
    }

    /// The names in a client's certificate, normalised for comparison.
    fn certificate_names(
        &self,
        raw: &Raw,
        client: &raw::Client,
        taken: &ClientKeys,
        key: impl Fn(&str) -> String,
    ) -> Result<Vec<String>, SettingsError> {
        let failed = |message: &str| self.error(&key("certificate_names"), message);
        if client.certificate_names.is_empty() {
            return Ok(Vec::new());
        }
        if raw.server.tls.as_ref().is_none_or(|tls| tls.client_ca_file.is_none()) {
            return Err(failed("the broker requests no certificates from clients: set server.tls.client_ca_file"));
        }
        let mut names: Vec<String> = Vec::new();
        for name in &client.certificate_names {
            if name.is_empty() || name.len() > 2048 || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(failed("must be DNS names such as \"web.internal\" or URIs such as \"spiffe://td/web\""));
            }
            // DNS names are case-insensitive.
            let name = if name.contains(':') { name.clone() } else { name.to_ascii_lowercase() };
            if taken.contains_name(&name) || names.contains(&name) {
                return Err(failed("must differ from all other clients' names"));
            }
            names.push(name);
        }
        Ok(names)
    }
}

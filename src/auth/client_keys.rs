//! Clients, and their authentication by keys and certificates.

use std::fmt;
use std::ops::Deref;
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::allowed_scopes::AllowedScopes;
use super::inbound::{Inbound, InboundRate};
use crate::audit::Actor;
use crate::clock::Clock;
use crate::metrics::{CallerLabels, CallerRequests, Callers, MetricsResult};
use crate::policy::access::Access;
use crate::token::WorkspaceName;

/// An app that may call the broker.
#[derive(Clone, Debug)]
pub struct Client {
    /// Its name in the settings.
    pub name: String,
    /// The workspace that its tokens are for.
    pub workspace: WorkspaceName,
    /// The tokens that it may request.
    pub access: Access,
    /// The limit of its request rate, if there is one; of sessions, of each user's.
    pub rate: Option<InboundRate>,
}

impl Client {
    /// The client in the audit log.
    pub fn actor(&self) -> Actor<'_> {
        Actor::Client(self.name.as_str().into())
    }

    /// The client in the metrics.
    pub fn caller(&self) -> CallerLabels {
        CallerLabels::client(&self.name, self.workspace.as_str())
    }
}

/// The SHA-256 of a client key. The broker never stores the key itself.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of a key.
    pub fn of(key: &str) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, key.as_bytes()).as_ref());
        Self(bytes)
    }

    /// Parses 64 hexadecimal digits.
    pub fn parse(hex: &str) -> Result<Self, DigestError> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(hex, &mut bytes).map_err(|_| DigestError)?;
        Ok(Self(bytes))
    }

    /// Whether it is the digest of this key, in constant time.
    pub fn is_of(&self, key: &str) -> bool {
        verify_slices_are_equal(&self.0, &Self::of(key).0).is_ok()
    }

    /// Whether it is the digest of an empty text or of a line end alone: the result of hashing the output
    /// of a failed command.
    pub fn is_of_empty_text(self) -> bool {
        ["", "\n", "\r\n"].iter().any(|nothing| self == Self::of(nothing))
    }
}

/// Writes 64 hexadecimal digits.
impl fmt::Display for Digest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Digest")
    }
}

/// A text is not a SHA-256 in hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a SHA-256 of 64 hexadecimal digits, as `courier-token-broker client-key NAME` prints it")]
pub struct DigestError;

/// The clients by their keys and certificate names.
#[derive(Clone, Debug, Default)]
pub struct ClientKeys {
    keys: Vec<(Digest, usize)>,
    names: Vec<(String, usize)>,
    clients: Vec<KnownClient>,
}

/// A client with its rate limit, its counters and what is known about its requests.
#[derive(Clone, Debug)]
pub struct KnownClient {
    client: Client,
    /// The scopes that it may request, as far as it has.
    pub allowed: AllowedScopes,
    inbound: Option<Inbound>,
    requests: Option<CallerRequests>,
}

impl Deref for KnownClient {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl KnownClient {
    /// The client.
    pub const fn client(&self) -> &Client {
        &self.client
    }

    /// The counters of its requests, once [`ClientKeys::count_requests`] has made them.
    pub const fn requests(&self) -> Option<&CallerRequests> {
        self.requests.as_ref()
    }

    /// Counts a request for its rate. The error is the time after which it may retry.
    pub fn admit(&self) -> Result<(), Duration> {
        self.inbound.as_ref().map_or(Ok(()), Inbound::admit)
    }
}

impl ClientKeys {
    /// The longest accepted key, in bytes.
    pub const MAX_BYTES: usize = 1024;

    /// Adds a client with its keys (two during a rotation) and its certificate names: DNS names in lower
    /// case, or URIs.
    pub fn add(&mut self, client: Client, keys: Vec<Digest>, names: Vec<String>) {
        let index = self.clients.len();
        let allowed = AllowedScopes::default();
        self.clients.push(KnownClient { client, allowed, inbound: None, requests: None });
        self.keys.extend(keys.into_iter().map(|key| (key, index)));
        self.names.extend(names.into_iter().map(|name| (name, index)));
    }

    /// Starts to limit the clients' rates. A client whose rate is the same as in `before` keeps its state.
    pub fn limit_rates(&mut self, clock: Clock, before: Option<&Self>) {
        for KnownClient { client, inbound, .. } in &mut self.clients {
            let mut known = before.into_iter().flat_map(|before| &before.clients);
            let same = known.find(|other| other.client.name == client.name).and_then(|known| known.inbound.clone());
            *inbound = client
                .rate
                .map(|rate| same.filter(|same| same.rate() == rate).unwrap_or_else(|| Inbound::new(rate, clock)));
        }
    }

    /// Starts to count the clients' requests here.
    pub fn count_requests(&mut self, callers: &Callers) -> MetricsResult<()> {
        for KnownClient { client, requests, .. } in &mut self.clients {
            *requests = Some(callers.requests(&client.caller())?);
        }
        Ok(())
    }

    /// The clients, in the order of the settings.
    pub fn iter(&self) -> impl Iterator<Item = &Client> {
        self.clients.iter().map(KnownClient::client)
    }

    /// Whether a client with this key exists.
    pub fn contains(&self, key: Digest) -> bool {
        self.keys.iter().any(|(digest, _)| *digest == key)
    }

    /// Whether a client with this certificate name exists.
    pub fn contains_name(&self, name: &str) -> bool {
        self.names.iter().any(|(other, _)| other == name)
    }

    /// Whether there are no clients.
    pub const fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// Finds the client by the names in its certificate; if several match, the first in the settings.
    pub fn find_by_certificate<'a>(&self, names: impl Iterator<Item = &'a str> + Clone) -> Option<&KnownClient> {
        let (_, index) = self.names.iter().find(|(known, _)| names.clone().any(|name| name == known))?;
        self.clients.get(*index)
    }

    /// Finds the client by its key. All digests are compared, each in constant time, so that timing does
    /// not reveal a near match.
    pub fn find(&self, key: &str) -> Option<&KnownClient> {
        if key.len() > Self::MAX_BYTES {
            return None;
        }
        let sought = Digest::of(key);
        let mut found = None;
        for (digest, index) in &self.keys {
            if verify_slices_are_equal(&digest.0, &sought.0).is_ok() {
                found = Some(*index);
            }
        }
        self.clients.get(found?)
    }
}

/// Whether a bearer has the shape of a JWT: a user's session, never a client key.
pub fn has_jwt_shape(bearer: &str) -> bool {
    // Counts bytes: a search looks at one at a time.
    bearer.bytes().filter(|byte| *byte == b'.').count() == 2
}

/// Generates a client key of 256 random bits; `None` if the system has no randomness.
pub fn generate_key() -> Option<String> {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes).ok()?;
    Some(format!("ctb_{}", URL_SAFE_NO_PAD.encode(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::access::SetBy;
    use crate::token::Lifetime;

    fn client(name: &str) -> Client {
        Client {
            name: name.to_owned(),
            workspace: WorkspaceName::new("default").expect("a name"),
            access: Access { scopes: Vec::new(), users: Vec::new(), max_lifetime: Lifetime::MAX, set_by: SetBy::Entry },
            rate: None,
        }
    }

    fn name(found: Option<&KnownClient>) -> Option<&str> {
        found.map(|known| known.client().name.as_str())
    }

    #[test]
    fn client_is_found_only_by_its_keys() {
        let mut keys = ClientKeys::default();
        keys.add(client("a"), vec![Digest::of("key-a"), Digest::of("new-key-a")], Vec::new());
        keys.add(client("b"), vec![Digest::of("key-b")], Vec::new());
        for (key, expected) in [("key-a", "a"), ("new-key-a", "a"), ("key-b", "b")] {
            assert_eq!(name(keys.find(key)), Some(expected));
        }
        for wrong in ["", "key-", "key-c", "key-a ", "KEY-A", &Digest::of("key-a").to_string(), &"x".repeat(1_000_000)]
        {
            assert_eq!(name(keys.find(wrong)), None);
        }
    }

    #[test]
    fn client_is_found_by_a_whole_name_of_its_certificate() {
        let mut keys = ClientKeys::default();
        assert!(keys.is_empty());
        keys.add(client("a"), Vec::new(), vec!["a.internal".to_owned()]);
        keys.add(client("b"), Vec::new(), vec!["spiffe://td/b".to_owned()]);
        assert!(!keys.is_empty() && keys.contains_name("a.internal") && !keys.contains_name("b"));
        let found = |names: &[&str]| name(keys.find_by_certificate(names.iter().copied())).map(str::to_owned);
        assert_eq!(found(&["x", "spiffe://td/b"]).as_deref(), Some("b"));
        assert_eq!(found(&["spiffe://td/b", "a.internal"]).as_deref(), Some("a"));
        assert_eq!(found(&["internal", "a.internal.", "spiffe://td/b/c", "*"]), None);
        assert_eq!(name(keys.find("a.internal")), None);
    }

    #[test]
    fn reload_keeps_a_clients_rate_limit_state() {
        let rated = |rate: f64| {
            let mut keys = ClientKeys::default();
            keys.add(Client { rate: InboundRate::new(rate), ..client("a") }, vec![Digest::of("key-a")], Vec::new());
            keys
        };
        let clock = Clock::system();
        let mut first = rated(0.01);
        first.limit_rates(clock, None);
        let admit = |keys: &ClientKeys| keys.find("key-a").expect("it is known").admit();
        assert_eq!(admit(&first), Ok(()));
        let mut second = rated(0.01);
        second.limit_rates(clock, Some(&first));
        assert!(admit(&second).is_err());
        let mut third = rated(0.02);
        third.limit_rates(clock, Some(&second));
        assert_eq!(admit(&third), Ok(()));
    }

    #[test]
    fn digest_round_trips_and_other_texts_are_refused() {
        let digest = Digest::of("abc");
        // The test vector of FIPS 180-4.
        assert_eq!(digest.to_string(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(Digest::parse(&digest.to_string().to_uppercase()), Ok(digest));
        for wrong in ["", "ab", &"g".repeat(64), &"+1".repeat(32), &"ä".repeat(32)] {
            assert_eq!(Digest::parse(wrong), Err(DigestError), "{wrong}");
        }
    }

    #[test]
    fn new_keys_differ_and_are_no_jwt() {
        let (one, two) = (generate_key().expect("randomness"), generate_key().expect("randomness"));
        assert_ne!(one, two);
        assert_eq!(one.len(), 47);
        assert!(!one.contains('.'));
    }
}

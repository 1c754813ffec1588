//! The apps that may ask, and how they prove it.

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::policy::access::Access;
use crate::token::WorkspaceName;

/// An app that may ask.
#[derive(Clone, Debug)]
pub struct Client {
    /// Its name in the settings.
    pub name: String,
    /// The workspace that its tokens are for.
    pub workspace: WorkspaceName,
    /// What it may ask for.
    pub access: Access,
}

/// The SHA-256 of a client key. The key itself is nowhere in the broker.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of a key.
    pub fn of(key: &str) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, key.as_bytes()).as_ref());
        Self(bytes)
    }

    /// Reads 64 hexadecimal digits.
    pub fn parse(hex: &str) -> Result<Self, DigestError> {
        if hex.len() != 64 || !hex.is_ascii() {
            return Err(DigestError);
        }
        let mut bytes = [0; 32];
        for (place, byte) in bytes.iter_mut().enumerate() {
            let pair = &hex[2 * place..2 * place + 2];
            // `from_str_radix` would take a sign.
            if !pair.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(DigestError);
            }
            *byte = u8::from_str_radix(pair, 16).map_err(|_| DigestError)?;
        }
        Ok(Self(bytes))
    }
}

/// 64 hexadecimal digits.
impl fmt::Display for Digest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
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

/// The clients, found by their keys, or by the names in their certificates.
#[derive(Clone, Debug, Default)]
pub struct ClientKeys {
    keys: Vec<(Digest, Client)>,
    names: Vec<(String, Client)>,
}

impl ClientKeys {
    /// The longest key that is looked at, in bytes.
    pub const MAX_BYTES: usize = 1024;

    /// Adds a client.
    pub fn add(&mut self, key: Digest, client: Client) {
        self.keys.push((key, client));
    }

    /// Is there a client with this key already?
    pub fn contains(&self, key: Digest) -> bool {
        self.keys.iter().any(|(digest, _)| *digest == key)
    }

    /// Adds a client that has a certificate with this name: a DNS name in lower
    /// case, or a URI.
    pub fn add_named(&mut self, name: String, client: Client) {
        self.names.push((name, client));
    }

    /// Is there a client with this name in its certificate already?
    pub fn contains_name(&self, name: &str) -> bool {
        self.names.iter().any(|(other, _)| other == name)
    }

    /// There is no client.
    pub const fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.names.is_empty()
    }

    /// Whose certificate has these names. Where they are the names of several
    /// clients it is the first one in the settings.
    pub fn find_named<'a>(&self, names: impl Iterator<Item = &'a str> + Clone) -> Option<&Client> {
        let found = self.names.iter().find(|(wanted, _)| names.clone().any(|name| name == wanted));
        found.map(|(_, client)| client)
    }

    /// Whose key this is. Every digest is compared, each in constant time, so
    /// that the time tells nothing of how nearly a guess was right.
    pub fn find(&self, key: &str) -> Option<&Client> {
        if key.len() > Self::MAX_BYTES {
            return None;
        }
        let wanted = Digest::of(key);
        let mut found = None;
        for (digest, client) in &self.keys {
            if verify_slices_are_equal(&digest.0, &wanted.0).is_ok() {
                found = Some(client);
            }
        }
        found
    }
}

/// Has a bearer the shape of a JWT? Then it is a user's session, never a client
/// key.
pub fn has_jwt_shape(bearer: &str) -> bool {
    bearer.split('.').count() == 3
}

/// Makes a new client key of 256 random bits, or `None` where the system has no
/// randomness to give.
pub fn generate_key() -> Option<String> {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes).ok()?;
    Some(format!("ctb_{}", URL_SAFE_NO_PAD.encode(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::Lifetime;

    fn client(name: &str) -> Client {
        Client {
            name: name.to_owned(),
            workspace: WorkspaceName::new("default").expect("a name"),
            access: Access { scopes: Vec::new(), users: Vec::new(), max_lifetime: Lifetime::MAX },
        }
    }

    #[test]
    fn a_client_is_found_by_its_key_alone() {
        let mut keys = ClientKeys::default();
        keys.add(Digest::of("key-a"), client("a"));
        keys.add(Digest::of("key-b"), client("b"));
        assert_eq!(keys.find("key-b").map(|client| client.name.as_str()), Some("b"));
        for wrong in ["", "key-", "key-c", "key-a ", "KEY-A", &Digest::of("key-a").to_string(), &"x".repeat(1_000_000)]
        {
            assert!(keys.find(wrong).is_none());
        }
    }

    #[test]
    fn a_client_is_found_by_a_whole_name_of_its_certificate() {
        let mut keys = ClientKeys::default();
        assert!(keys.is_empty());
        keys.add_named("a.internal".to_owned(), client("a"));
        keys.add_named("spiffe://td/b".to_owned(), client("b"));
        assert!(!keys.is_empty() && keys.contains_name("a.internal") && !keys.contains_name("b"));
        let found = |names: &[&str]| {
            keys.find_named(names.iter().copied()).map(|client| client.name.clone()).unwrap_or_default()
        };
        assert_eq!(found(&["x", "spiffe://td/b"]), "b");
        assert_eq!(found(&["spiffe://td/b", "a.internal"]), "a");
        assert_eq!(found(&["internal", "a.internal.", "spiffe://td/b/c", "*"]), "");
        assert!(keys.find("a.internal").is_none());
    }

    #[test]
    fn a_digest_reads_back_as_itself_and_nothing_else_is_one() {
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

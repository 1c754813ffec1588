//! Searches output for secrets and for pieces of them.

use std::collections::HashSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// The length in bytes of the pieces searched for, so that a truncated secret is found too.
const PIECE: usize = 16;

/// Secrets that no output may contain.
#[derive(Default)]
pub struct Watch {
    pieces: HashSet<Vec<u8>>,
    lists: Vec<String>,
}

impl Watch {
    /// Adds a secret to search for: as it is, in base64, and as `Debug` shows bytes.
    pub fn for_secret(&mut self, secret: &str) {
        assert!(secret.len() >= PIECE, "{secret} is too short to be distinctive");
        for text in [secret, &STANDARD.encode(secret)] {
            self.pieces.extend(text.as_bytes().windows(PIECE).map(<[u8]>::to_vec));
        }
        let list = format!("{:?}", &secret.as_bytes()[secret.len() - 12..]);
        self.lists.push(list.trim_matches(['[', ']']).to_owned());
    }

    /// Adds a JWT's payload and signature; its header is no secret.
    pub fn for_jwt(&mut self, jwt: &str) {
        let mut parts = jwt.split('.').skip(1);
        for part in [parts.next(), parts.next()] {
            self.for_secret(part.expect("a JWT"));
        }
    }

    /// Adds the contents of a PEM.
    pub fn for_pem(&mut self, pem: &str) {
        let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        // The first bytes of keys of one kind are equal.
        self.for_secret(&body[48..]);
    }

    /// Finds the first piece of a secret in this text.
    pub fn finds(&self, text: &str) -> Option<String> {
        let piece = text.as_bytes().windows(PIECE).find(|piece| self.pieces.contains(*piece));
        let list = self.lists.iter().find(|list| text.contains(list.as_str())).cloned();
        piece.map(|piece| String::from_utf8_lossy(piece).into_owned()).or(list)
    }

    #[track_caller]
    pub fn finds_nothing_in(&self, place: &str, text: &str) {
        if let Some(found) = self.finds(text) {
            let line = text.lines().find(|line| line.contains(&found)).unwrap_or(text);
            panic!("{found:?} is in {place}: {line}");
        }
    }
}

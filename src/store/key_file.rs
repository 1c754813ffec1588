//! The key file of a store.

use std::path::Path;

use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret, SecretSlice};

use super::seal::{KeyId, MasterKey};
use crate::secrets::{SecretBytes, SecretError};

/// The keys of a store: the first seals, all open. A second one is the key before a rotation.
#[derive(Clone, Debug)]
pub struct StoreKeys {
    first: MasterKey,
    second: Option<MasterKey>,
}

impl StoreKeys {
    /// Reads a key file: one or two keys of 32 bytes, in hexadecimal or base64, a line each.
    pub fn read(path: &Path) -> Result<Self, KeyFileError> {
        Self::parse(SecretBytes::read(path)?.expose())
    }

    fn parse(text: &[u8]) -> Result<Self, KeyFileError> {
        let lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).enumerate();
        let mut lines = lines.filter(|(_, line)| !line.is_empty());
        let mut key = || lines.next().map(|(index, line)| parse_key(line).ok_or(KeyFileError::Line(index + 1)));
        let first = key().unwrap_or(Err(KeyFileError::File(SecretError::Empty)))?;
        let second = key().transpose()?;
        if lines.next().is_some() {
            return Err(KeyFileError::TooMany);
        }
        Ok(Self { first, second })
    }

    /// The key that seals.
    pub(super) const fn first(&self) -> &MasterKey {
        &self.first
    }

    /// The key with this id.
    pub(super) fn by_id(&self, id: KeyId) -> Option<&MasterKey> {
        [Some(&self.first), self.second.as_ref()].into_iter().flatten().find(|key| key.id() == id)
    }
}

fn parse_key(line: &[u8]) -> Option<MasterKey> {
    let unpadded = line.strip_suffix(b"=").unwrap_or(line);
    let decoded = match line.len() {
        64 => hex::decode(line).ok(),
        _ => STANDARD_NO_PAD.decode(unpadded).or_else(|_| URL_SAFE_NO_PAD.decode(unpadded)).ok(),
    };
    // Wiped on drop.
    let key = SecretSlice::from(decoded?);
    (key.expose_secret().len() == MasterKey::LEN).then(|| MasterKey::new(key.expose_secret()))
}

/// Makes a key, in hexadecimal; `None` if the system has no randomness.
pub fn generate_key() -> Option<String> {
    let mut key = [0; MasterKey::LEN];
    rand::fill(&mut key).ok()?;
    Some(hex::encode(key))
}

/// Why a file is no key file. No message shows its contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyFileError {
    /// It can't be read, or is empty.
    #[error("{0}: `courier-token-broker store-key FILE` makes a key file")]
    File(#[from] SecretError),
    /// This line is no key.
    #[error(
        "line {0} is not a key of 32 bytes in hexadecimal or base64, as `courier-token-broker store-key FILE` makes"
    )]
    Line(usize),
    /// It has more than two keys.
    #[error("has more than two keys: the first seals, and the second is the one before it")]
    TooMany,
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF";
    const BASE64: &str = "ABEiM0RVZneImaq7zN3u/wARIjNEVWZ3iJmqu8zd7v8=";

    fn ids(text: &str) -> Result<Vec<KeyId>, KeyFileError> {
        let keys = StoreKeys::parse(text.as_bytes())?;
        Ok([Some(keys.first), keys.second].into_iter().flatten().map(|key| key.id()).collect())
    }

    #[test]
    fn key_is_hexadecimal_or_base64() {
        let id = ids(HEX).expect("a key");
        for text in [BASE64, &BASE64.replace('=', ""), &BASE64.replace('/', "_"), &format!("\n  {BASE64} \r\n\n")] {
            assert_eq!(ids(text), Ok(id.clone()), "{text:?}");
        }
        let other = generate_key().expect("randomness");
        let both = ids(&format!("{HEX}\r\n{other}\r\n")).expect("two keys");
        assert_eq!((both.len(), both[0]), (2, id[0]));
        assert_ne!(both[0], both[1]);
    }

    #[test]
    fn file_without_one_or_two_keys_is_refused() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let refused = |text: &str| {
            std::fs::write(file.path(), text).expect("written");
            StoreKeys::read(file.path()).expect_err("no key file")
        };
        for text in ["", "\n\n"] {
            assert_eq!(refused(text), KeyFileError::File(SecretError::Empty), "{text:?}");
        }
        let longer = format!("{HEX}00");
        for text in ["hunter2", &HEX[2..], &longer, &HEX.replace('0', "g"), &BASE64[4..], "# a comment"] {
            let error = refused(&format!("{HEX}\n{text}\n"));
            assert_eq!(error, KeyFileError::Line(2), "{text:?}");
            assert!(!error.to_string().contains(text), "{error}");
        }
        assert_eq!(refused(&format!("{HEX}\n{HEX}\n{HEX}")), KeyFileError::TooMany);
        let missing = StoreKeys::read(&file.path().with_extension("missing")).expect_err("no file").to_string();
        assert!(missing.contains("no such file: `courier-token-broker store-key"), "{missing}");
    }

    #[test]
    fn debug_shows_no_key() {
        let keys = StoreKeys::parse(HEX.as_bytes()).expect("a key");
        assert_eq!(format!("{keys:?}"), "StoreKeys { first: MasterKey, second: None }");
    }
}

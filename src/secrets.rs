//! Secrets, kept out of logs and wiped from memory.

use std::fmt;
use std::io::Read;
use std::path::Path;

use secrecy::{ExposeSecret, SecretSlice, SecretString};

use crate::files::Input;

/// An API key, a client key or another secret text.
///
/// `Debug`, `Display` and serialisation redact it, and its memory is wiped on drop. Copies that an HTTP
/// library makes are not wiped.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// The longest secret, in bytes.
    pub const MAX_BYTES: usize = 4096;

    /// Takes a secret that fits into an HTTP header (visible ASCII), and trims white space, since files
    /// end in a newline.
    pub fn new(text: &str) -> Result<Self, SecretError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(SecretError::Empty);
        }
        if text.len() > Self::MAX_BYTES {
            return Err(SecretError::TooLong);
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(SecretError::Character);
        }
        Ok(Self(SecretString::from(text)))
    }

    /// Reads a secret from a file.
    pub fn read(path: &Path) -> Result<Self, SecretError> {
        let mut text = String::new();
        beginning(path)?.read_to_string(&mut text).map_err(|error| SecretError::File(error.kind()))?;
        Self::new(&text)
    }

    /// Returns the secret itself.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(REDACTED)
    }
}

impl serde::Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(REDACTED)
    }
}

impl<'de> serde::Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::new(&text).map_err(serde::de::Error::custom)
    }
}

/// A secret of any bytes, such as an HMAC secret, protected like [`Secret`].
#[derive(Clone)]
pub struct SecretBytes(SecretSlice<u8>);

impl SecretBytes {
    /// Reads a file's bytes unchanged, except for one trailing line end.
    pub fn read(path: &Path) -> Result<Self, SecretError> {
        // Sized in advance: a growing buffer would leave copies behind.
        let mut bytes = Vec::with_capacity(Secret::MAX_BYTES + 2);
        beginning(path)?.read_to_end(&mut bytes).map_err(|error| SecretError::File(error.kind()))?;
        if bytes.ends_with(b"\n") {
            bytes.pop();
            if bytes.ends_with(b"\r") {
                bytes.pop();
            }
        }
        match bytes.len() {
            0 => Err(SecretError::Empty),
            1..=Secret::MAX_BYTES => Ok(Self(SecretSlice::from(bytes))),
            _ => Err(SecretError::TooLong),
        }
    }

    /// Returns the secret itself.
    pub fn expose(&self) -> &[u8] {
        self.0.expose_secret()
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(REDACTED)
    }
}

/// Limits a read to one byte more than is allowed, which reveals a file that is too long.
fn beginning(path: &Path) -> Result<impl Read, SecretError> {
    let file = Input::open(path).map_err(|error| SecretError::File(error.kind()))?;
    Ok(file.take(Secret::MAX_BYTES as u64 + 1))
}

/// The text shown instead of a secret.
pub const REDACTED: &str = "[redacted]";

/// Why a text or a file is no valid secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// It is empty or white space.
    #[error("is empty")]
    Empty,
    /// It is longer than [`Secret::MAX_BYTES`].
    #[error("is longer than {} bytes", Secret::MAX_BYTES)]
    TooLong,
    /// It would not fit into an HTTP header.
    #[error("contains white space or other characters that are not visible ASCII")]
    Character,
    /// The file can't be read.
    #[error("{}", unreadable(*.0))]
    File(std::io::ErrorKind),
}

/// Why a file can't be read, without its path: a secret written in the place of a path would be shown.
pub fn unreadable(kind: std::io::ErrorKind) -> String {
    match kind {
        std::io::ErrorKind::NotFound => "no such file".to_owned(),
        kind => format!("can't be read: {kind}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_bytes_lose_only_one_line_end() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let read = |bytes: &[u8]| {
            std::fs::write(file.path(), bytes).expect("written");
            SecretBytes::read(file.path()).map(|secret| secret.expose().to_vec())
        };
        assert_eq!(read(b" \xff\x00 \n\n"), Ok(b" \xff\x00 \n".to_vec()));
        assert_eq!(read(b"abc\r\n"), Ok(b"abc".to_vec()));
        assert_eq!(read(b"abc"), Ok(b"abc".to_vec()));
        assert_eq!(read(b"\n"), Err(SecretError::Empty));
        assert_eq!(read(&[7; 4097]), Err(SecretError::TooLong));
        std::fs::write(file.path(), "hidden").expect("written");
        assert_eq!(format!("{:?}", SecretBytes::read(file.path())), "Ok([redacted])");
    }
}

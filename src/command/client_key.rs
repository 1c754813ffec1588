//! `client-key`: generates a client key, or the key of the admin listener.

use anyhow::Context;
use clap::Args;
use courier_token_broker::auth::{Digest, generate_key};

use super::failure::Failure;
use super::output::{print_stderr, print_to_end};

#[derive(Args)]
pub struct ClientKey {
    /// The app's name in the settings and in logs.
    #[arg(value_name = "NAME", value_parser = name, required_unless_present = "admin")]
    name: Option<String>,
    /// Makes a key of the admin listener, in place of a client's.
    #[arg(long, conflicts_with = "name")]
    admin: bool,
}

impl ClientKey {
    pub fn run(self) -> Result<(), Failure> {
        let key = generate_key().context("the system has no randomness")?;
        let digest = Digest::of(&key);
        let (whose, entry) = match self.name {
            Some(name) => (name.clone(), format!("[[clients]]\nname = \"{name}\"\nkey_sha256 = \"{digest}\"")),
            None => ("the admin listener".to_owned(), format!("[admin]\nkey_sha256 = \"{digest}\"")),
        };
        // Apart from the entry, so that a pipe into the settings does not leave the key there.
        print_stderr(&format!(
            "The {} key of {whose}, shown this once (the broker keeps only its SHA-256):\n\n    {key}\n\n\
             Its entry for the broker's settings:\n\n",
            if self.admin { "operators'" } else { "client" }
        ));
        Ok(print_to_end(&format!("{entry}\n"))?)
    }
}

fn name(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if (1..=64).contains(&text.len()) && text.bytes().all(plain) {
        Ok(text.to_owned())
    } else {
        Err("a name has 1 to 64 letters, digits, `-`, `_` and `.`".to_owned())
    }
}

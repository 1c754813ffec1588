//! `client-key`: generates a client key.

use std::io::{self, Write};

use anyhow::Context;
use clap::Args;
use courier_token_broker::auth::{Digest, generate_key};

use super::failure::Failure;

#[derive(Args)]
pub struct ClientKey {
    /// The app's name in the settings and in logs.
    #[arg(value_name = "NAME", value_parser = name)]
    name: String,
}

impl ClientKey {
    pub fn run(self) -> Result<(), Failure> {
        let key = generate_key().context("the system has no randomness")?;
        let mut out = io::stdout().lock();
        // Not a comment of the entry: output redirected into the settings would leave the key
        // there.
        writeln!(out, "The client key of {}, shown this once (the broker keeps only its SHA-256):\n", self.name)?;
        writeln!(out, "    {key}\n\nIts entry for the broker's settings:\n")?;
        writeln!(out, "[[clients]]\nname = \"{}\"\nkey_sha256 = \"{}\"", self.name, Digest::of(&key))?;
        Ok(())
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

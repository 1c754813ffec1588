//! `client-key`: a key for an app.

use std::io::{self, Write};

use anyhow::Context;
use clap::Args;
use courier_token_broker::auth::{Digest, generate_key};

use super::Failure;

#[derive(Args)]
pub struct ClientKey {
    /// The app's name in the settings and in logs.
    #[arg(value_name = "NAME", value_parser = name)]
    name: String,
}

impl ClientKey {
    pub fn run(self) -> Result<(), Failure> {
        let key = generate_key().context("the system has no randomness to give")?;
        let mut out = io::stdout().lock();
        writeln!(out, "# The key. Give it to the app; it is not shown again and the broker does not keep it.")?;
        writeln!(out, "# {key}\n")?;
        writeln!(out, "# The entry for the broker's settings:")?;
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

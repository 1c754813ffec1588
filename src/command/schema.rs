//! `schema`: prints the JSON Schema of the settings.

use std::io::{self, Write};

use courier_token_broker::config;

use super::failure::Failure;

pub fn run() -> Result<(), Failure> {
    writeln!(io::stdout().lock(), "{:#}", config::schema())?;
    Ok(())
}

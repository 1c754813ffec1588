//! `schema`: prints the JSON Schema of the settings.

use courier_token_broker::config;

use super::failure::Failure;
use super::output::print_to_end;

pub fn run() -> Result<(), Failure> {
    Ok(print_to_end(&format!("{:#}\n", config::schema()))?)
}

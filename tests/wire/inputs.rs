//! Invalid inputs by kind, from `inputs.toml`.

use serde::Deserialize;

#[derive(Deserialize)]
pub struct Inputs {
    pub scopes: Vec<String>,
    pub paths: Vec<String>,
    pub media_types: Vec<String>,
    pub lifetimes: Vec<String>,
}

pub fn inputs() -> Inputs {
    toml::from_str(include_str!("inputs.toml")).expect("good data")
}

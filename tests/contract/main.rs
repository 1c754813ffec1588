//! The broker's descriptions of itself, compared with what it does: the OpenAPI document, the JSON Schema of the settings,
//! `--help`, and the pages.

#[path = "../support/mod.rs"]
mod support;

mod examples;
mod named;
mod open_api;
mod pages;
mod python;

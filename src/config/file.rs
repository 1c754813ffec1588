//! Checks a single settings file, and reports all errors of shape with their lines.

use serde::Deserialize;
use serde_path_to_error::{Path, Segment};
use toml::de::{DeArray, DeTable, DeValue};

use super::error::expectation;
use super::raw::Raw;

/// The line, the key, and what is expected.
pub type LocatedError = (usize, String, String);

/// The most errors that are reported.
const MOST_ERRORS: usize = 100;

/// Parses one file and reports all errors of shape. The table comes without the wrong parts; it is `None`
/// if the file can't be parsed.
pub fn check(text: &str) -> (Option<toml::Table>, Vec<LocatedError>) {
    let line = |error: &toml::de::Error| {
        let start = error.span().map_or(0, |span| span.start).min(text.len());
        text.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count() + 1
    };
    // An error in the syntax, not in a value.
    let syntax = |error: toml::de::Error| {
        let message = error.message().lines().next().unwrap_or_default().to_owned();
        (None, vec![(line(&error), String::new(), message)])
    };
    let mut document = match DeTable::parse(text) {
        Ok(document) => document,
        Err(error) => return syntax(error),
    };
    let mut shape_errors = Vec::new();
    while let Err(error) = serde_path_to_error::deserialize::<_, Raw>(toml::Deserializer::from(document.clone())) {
        let key = error.path().to_string();
        let key = if key == "." { String::new() } else { key };
        shape_errors.push((line(error.inner()), key, expectation(error.inner().message())));
        // Remove the wrong part, so that the rest can be checked.
        if shape_errors.len() == MOST_ERRORS || !remove(document.get_mut(), error.path()) {
            return (None, shape_errors);
        }
    }
    match toml::Table::deserialize(toml::Deserializer::from(document)) {
        Ok(table) => (Some(table), shape_errors),
        Err(error) => syntax(error),
    }
}

/// Removes the value at a path. Returns whether there was one.
fn remove(table: &mut DeTable<'_>, path: &Path) -> bool {
    let mut segments = path.iter();
    let Some(Segment::Map { key }) = segments.next() else { return false };
    let Some(mut place) = table.get_mut(key.as_str()) else { return false };
    let rest: Vec<_> = segments.collect();
    let Some((last, parents)) = rest.split_last() else { return table.remove(key.as_str()).is_some() };
    for segment in parents {
        let next = match (segment, place.get_mut()) {
            (Segment::Map { key }, DeValue::Table(table)) => table.get_mut(key.as_str()),
            (Segment::Seq { index }, DeValue::Array(list)) => list.get_mut(*index),
            _ => None,
        };
        let Some(next) = next else { return false };
        place = next;
    }
    match (last, place.get_mut()) {
        (Segment::Map { key }, DeValue::Table(table)) => table.remove(key.as_str()).is_some(),
        (Segment::Seq { index }, DeValue::Array(list)) if *index < list.len() => {
            // Removing one element would shift the others, so the whole list goes.
            *list = DeArray::new();
            true
        }
        _ => false,
    }
}

/// Whether this file gives the key, such as `tokens.floor` or `clients[0].name`, or the part that lacks it.
pub fn holds(table: &toml::Table, key: &str) -> bool {
    match key.split_once('[') {
        // A later file's list replaces an earlier one's.
        Some((list, _)) => table.contains_key(list),
        None => find(table, key).is_some(),
    }
}

/// The value at exactly this key, such as `tokens.floor` or `clients[0].max_lifetime`.
pub fn find<'a>(table: &'a toml::Table, key: &str) -> Option<&'a toml::Value> {
    let mut parts = key.split(['.', '[', ']']).filter(|part| !part.is_empty());
    let mut value = table.get(parts.next()?)?;
    for part in parts {
        value = match value {
            toml::Value::Array(list) => list.get(part.parse::<usize>().ok()?)?,
            value => value.get(part)?,
        };
    }
    Some(value)
}

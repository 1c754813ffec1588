//! Errors in the settings, one line each.

use std::fmt;

/// An error in a setting: its origin, its key, and what is expected. It does not repeat the value, which
/// could be a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsError {
    /// The name of a file, an environment variable or a flag; `None` for missing settings.
    pub origin: Option<String>,
    /// The key, such as `tokens.floor`; empty if the whole origin is meant.
    pub key: String,
    /// The mistake, and the expected form.
    pub message: String,
}

impl fmt::Display for SettingsError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { origin, key, message } = self;
        let parts = [origin.as_deref().unwrap_or_default(), key, message];
        let line = parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": ");
        // One line, whatever a file or a table is called.
        out.write_str(&line.replace(char::is_control, " "))
    }
}

impl std::error::Error for SettingsError {}

/// All errors in the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsErrors {
    /// At least one, in the order of the checks.
    pub errors: Vec<SettingsError>,
    /// Warnings besides: a variable with a typing error may be why a setting is missing.
    pub warnings: Vec<SettingsError>,
}

impl From<Vec<SettingsError>> for SettingsErrors {
    fn from(errors: Vec<SettingsError>) -> Self {
        Self { errors, warnings: Vec::new() }
    }
}

impl From<SettingsError> for SettingsErrors {
    fn from(error: SettingsError) -> Self {
        vec![error].into()
    }
}

/// One error a line, without the warnings.
impl fmt::Display for SettingsErrors {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<_> = self.errors.iter().map(ToString::to_string).collect();
        out.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for SettingsErrors {}

/// Rewrites a deserialiser's message as what is expected, without the value that it found.
pub fn expectation(message: &str) -> String {
    let message = message.lines().next().unwrap_or_default();
    if let Some(unknown) = message.strip_prefix("unknown field ") {
        return format!("unknown key {unknown}")
            .replace(", expected one of", "; known are")
            .replace(", expected", "; known is");
    }
    // "invalid type: string \"x\", expected a boolean"
    let Some((_, expected)) = message.rsplit_once(", expected ") else {
        return message.to_owned();
    };
    let expected = match expected.split(" for key ").next().unwrap_or(expected) {
        "f64" | "a floating point" => "a number",
        "u16" | "u32" | "u64" | "usize" | "an unsigned 32 bit integer" | "an unsigned 64 bit integer" => {
            "a whole number that is not negative"
        }
        "a sequence" | "an array" => "a list",
        "a map" | "a nested map" | "struct" => "a table",
        other if other.starts_with("struct ") => "a table",
        other => other,
    };
    format!("must be {expected}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_drops_the_value_and_keeps_what_is_expected() {
        for (message, expected) in [
            ("invalid type: string \"pk_secret, expected x\", expected f64", "must be a number"),
            ("invalid type: integer `5`, expected a boolean", "must be a boolean"),
            (
                "unknown field `flor`, expected one of `floor`, `share`",
                "unknown key `flor`; known are `floor`, `share`",
            ),
            ("must be a duration", "must be a duration"),
        ] {
            assert_eq!(expectation(message), expected);
        }
    }
}

//! The settings of the log and the audit log.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The format of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// One line of text.
    Text,
    /// One JSON object a line.
    Json,
}

/// The destination of the audit log.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[schemars(with = "String", extend("pattern" = "^(log|off|/.*)$"))]
pub enum Audit {
    /// The log, at every level.
    #[default]
    Log,
    /// Disabled.
    Off,
    /// A file of its own.
    File(PathBuf),
}

impl Serialize for Audit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Log => serializer.serialize_str("log"),
            Self::Off => serializer.serialize_str("off"),
            Self::File(path) => path.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Audit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "log" => Ok(Self::Log),
            "off" => Ok(Self::Off),
            // A relative path is more likely a misspelt keyword.
            path if path.starts_with('/') => Ok(Self::File(path.into())),
            _ => Err(de::Error::custom("must be \"log\", \"off\" or the absolute path of a file")),
        }
    }
}

//! The header by which a caller learns where a token came from.

use std::fmt::Write;

use hyper::header::{HeaderName, HeaderValue};

use crate::broker::{Answer, Source};

/// Its name.
pub const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// The `Cache-Status` header of RFC 9211.
pub fn cache_status(answer: &Answer) -> HeaderValue {
    let mut text = String::with_capacity(96);
    let ttl = answer.remaining.as_secs();
    // Writing to a string can't fail.
    let _ = match answer.source {
        Source::Hit => write!(text, "courier-token-broker; hit; ttl={ttl}"),
        Source::Issued { collapsed, stale, stored } => {
            let forwarded = if stale.is_some() { "stale" } else { "miss" };
            let stored = if stored { "; stored" } else { "" };
            let collapsed = if collapsed { "; collapsed" } else { "" };
            write!(text, "courier-token-broker; fwd={forwarded}{stored}{collapsed}; ttl={ttl}")
        }
        Source::Stale(_) => write!(text, "courier-token-broker; fwd=stale; ttl={ttl}"),
    };
    if let Source::Stale(why) | Source::Issued { stale: Some(why), .. } = answer.source {
        text.push_str("; detail=");
        text.push_str(why.as_str());
    }
    // It consists of letters and digits.
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("courier-token-broker"))
}

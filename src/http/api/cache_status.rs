//! The header by which a caller learns where a token came from.

use hyper::header::{HeaderName, HeaderValue};

use crate::broker::{Answer, Source};

/// Its name.
pub const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// The `Cache-Status` header of RFC 9211.
pub fn cache_status(answer: &Answer) -> HeaderValue {
    let (how, stored, collapsed, why) = match answer.source {
        Source::Hit => ("hit", "", "", None),
        Source::Issued { collapsed, stale, stored } => (
            if stale.is_some() { "fwd=stale" } else { "fwd=miss" },
            if stored { "; stored" } else { "" },
            if collapsed { "; collapsed" } else { "" },
            stale,
        ),
        Source::Stale(why) => ("fwd=stale", "", "", Some(why)),
    };
    let (detail, why) = why.map_or(("", ""), |why| ("; detail=", why.as_str()));
    let mut digits = itoa::Buffer::new();
    let ttl = digits.format(answer.remaining.as_secs());
    // Allocated once, with exactly its length: a hit does it too.
    let text = ["courier-token-broker; ", how, stored, collapsed, "; ttl=", ttl, detail, why].concat();
    // It consists of letters and digits.
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("courier-token-broker"))
}

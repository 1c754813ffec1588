//! The header by which a caller learns where a token came from.

use hyper::header::{HeaderName, HeaderValue};

use crate::broker::{Answer, Source};
use crate::policy::freshness::Stale;

/// Its name.
pub const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// The `Cache-Status` header of RFC 9211.
pub fn cache_status(answer: &Answer) -> HeaderValue {
    let mut digits = itoa::Buffer::new();
    let ttl = digits.format(answer.remaining.as_secs());
    let forwarded = |cause, stored, collapsed, stale: Option<Stale>| {
        let stored = if stored { "; stored" } else { "" };
        let collapsed = if collapsed { "; collapsed" } else { "" };
        let (detail, stale) = stale.map_or(("", ""), |stale| ("; detail=", stale.as_str()));
        ["courier-token-broker; fwd=", cause, stored, collapsed, "; ttl=", ttl, detail, stale].concat()
    };
    // Allocated once, with exactly its length: a hit does it too.
    let text = match answer.source {
        Source::Hit => ["courier-token-broker; hit; ttl=", ttl].concat(),
        Source::Issued { collapsed, stale: None, stored } => forwarded("miss", stored, collapsed, None),
        Source::Issued { collapsed, stale, stored } => forwarded("stale", stored, collapsed, stale),
        Source::Stale(stale) => forwarded("stale", false, false, Some(stale)),
    };
    // It consists of letters and digits.
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("courier-token-broker"))
}

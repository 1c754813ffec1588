//! The check of the `Host` header.

use hyper::header::HOST;
use hyper::{Request, Version};

/// Whether a request names its host as RFC 9112, 3.2 requires: HTTP/1.1 once, HTTP/1.0 at most once. HTTP/2 has
/// `:authority` instead.
pub fn has_valid_host<B>(request: &Request<B>) -> bool {
    let mut hosts = request.headers().get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) => request.version() != Version::HTTP_11,
        (Some(host), None) => host.as_bytes().iter().all(is_of_host),
        (Some(_), Some(_)) => false,
    }
}

/// The characters of a name, an IP address and a port. A comma, which a name could have, is a sign of two joined
/// headers.
const fn is_of_host(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'~' | b'%' | b':' | b'[' | b']')
}

//! Cross-origin requests by the Fetch standard: which pages may call.

use std::str::FromStr;

use hyper::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, HeaderMap, HeaderValue, ORIGIN,
    VARY,
};
use hyper::{Response, StatusCode};

use super::allowed_headers::AllowedHeaders;
use crate::http::response_body::ResponseBody;

/// The allowed origins, compared as a whole. There are no patterns: they tend to admit foreign pages.
#[derive(Clone, Debug, Default)]
pub struct Origins(Vec<HeaderValue>);

/// An error in a list of origins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OriginError {
    /// A text is not an origin as browsers write it.
    #[error(
        "must be origins as browsers send them, such as \"https://app.example.com\" or \"http://localhost:3000\": in lower case, without path, `*` or the scheme's own port"
    )]
    Form,
    /// There are more than [`Origins::MOST`].
    #[error("must be at most {} origins", Origins::MOST)]
    TooMany,
}

/// The origin of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// No `Origin` header: not a browser, or a page of the broker's own origin.
    NoOrigin,
    /// An allowed origin.
    Allowed,
    /// Any other origin, or more than one `Origin` header.
    Disallowed,
}

const TRUE: HeaderValue = HeaderValue::from_static("true");
const VARIES: HeaderValue = HeaderValue::from_static("Origin");
const EXPOSED: HeaderValue = HeaderValue::from_static("Cache-Status, Retry-After, X-Request-Id");
const METHODS: HeaderValue = HeaderValue::from_static("POST, GET");
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

impl Origins {
    /// The most origins; each request is compared to all.
    pub const MOST: usize = 256;
    const LONGEST: usize = 300;

    /// Reads `scheme://host[:port]` texts.
    pub fn new(texts: &[String]) -> Result<Self, OriginError> {
        if texts.len() > Self::MOST {
            return Err(OriginError::TooMany);
        }
        let one = |text: &String| {
            let value = is_origin(text).then(|| HeaderValue::from_str(text));
            value.and_then(Result::ok).ok_or(OriginError::Form)
        };
        texts.iter().map(one).collect::<Result<_, _>>().map(Self)
    }

    /// Whether the list is empty.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The origin of a request with these headers.
    pub(super) fn from(&self, headers: &HeaderMap) -> Page {
        let mut values = headers.get_all(ORIGIN).iter();
        match (values.next(), values.next()) {
            (None, _) => Page::NoOrigin,
            (Some(origin), None) if self.0.contains(origin) => Page::Allowed,
            _ => Page::Disallowed,
        }
    }

    /// The origin of a request of a listed page.
    pub(super) fn allowed(&self, request: &HeaderMap) -> Option<HeaderValue> {
        request.get(ORIGIN).filter(|_| self.from(request) == Page::Allowed).cloned()
    }

    /// Lets a page of this allowed origin read the response. `Vary` is set in any case, so that a cache does not serve
    /// one page's response to another.
    pub(super) fn set_headers(allowed: Option<HeaderValue>, response: &mut HeaderMap) {
        response.insert(VARY, VARIES);
        if let Some(origin) = allowed {
            response.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            response.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
            response.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
        }
    }

    /// Answers a preflight request of a listed page.
    pub(super) fn preflight(&self, request: &HeaderMap, allowed: &AllowedHeaders) -> Response<ResponseBody> {
        let mut response = Response::new(ResponseBody::default());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let headers = response.headers_mut();
        Self::set_headers(self.allowed(request), headers);
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, allowed.value());
        headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
        response
    }
}

/// Whether a text is `scheme://host[:port]` as browsers write it: no other spelling would ever match.
fn is_origin(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else { return false };
    let scheme_is_good = scheme.starts_with(|first: char| first.is_ascii_lowercase())
        && scheme.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+.-".contains(&byte));
    let (host, port) = match rest.rsplit_once(':') {
        // The colons of an IPv6 address are in brackets.
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (rest, None),
    };
    let host_is_good = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(ip) => std::net::Ipv6Addr::from_str(ip).is_ok_and(|address| address.to_string() == ip),
        None => {
            let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
            !host.is_empty() && host.bytes().all(plain)
        }
    };
    let port_is_good = port.is_none_or(|port| {
        let own = matches!((scheme, port), ("http", "80") | ("https", "443"));
        !own && u16::from_str(port).is_ok_and(|number| number > 0 && number.to_string() == port)
    });
    text.len() <= Origins::LONGEST && scheme_is_good && host_is_good && port_is_good
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(texts: &[&str]) -> Result<Origins, OriginError> {
        let texts: Vec<_> = texts.iter().map(|&text| text.to_owned()).collect();
        Origins::new(&texts)
    }

    #[test]
    fn origin_not_written_as_browsers_do_is_refused() {
        for good in [
            "https://app.example.com",
            "http://localhost:3000",
            "https://10.0.0.1:8443",
            "http://[::1]:3000",
            "https://[2001:db8::1]",
            "https://xn--bcher-kva.example",
            "capacitor://localhost",
        ] {
            assert!(list(&[good]).is_ok(), "{good}");
        }
        let long = format!("https://{}.example", "a".repeat(400));
        for bad in [
            "",
            "*",
            "null",
            "https://*.example.com",
            "https://app.example.com/",
            "https://app.example.com/path",
            "https://app.example.com?x",
            "https://App.example.com",
            "HTTPS://app.example.com",
            "https://app.example.com:443",
            "http://app.example.com:80",
            "https://app.example.com:",
            "https://app.example.com:0",
            "https://app.example.com:08443",
            "https://app.example.com:+8443",
            "https://app.example.com:99999",
            "https://user@app.example.com",
            "https://app.example.com, https://other.example.com",
            "https://bücher.example",
            "https://[::0001]",
            "https://[::1",
            "https://",
            "://app.example.com",
            "//app.example.com",
            "app.example.com",
            &long,
        ] {
            assert_eq!(list(&[bad]).err(), Some(OriginError::Form), "{bad}");
        }
        assert_eq!(list(&["https://a"; 257]).err(), Some(OriginError::TooMany));
    }
}

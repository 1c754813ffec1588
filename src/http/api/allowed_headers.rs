//! The request headers that pages may send.

use hyper::header::HeaderValue;

/// The headers that a listed page may send, for preflight responses. The list is the same for every
/// page: echoing the requested headers would allow everything.
#[derive(Clone, Debug)]
pub struct AllowedHeaders(HeaderValue);

/// An error in a list of request headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AllowedHeaderError {
    /// A text is not a header name.
    #[error(
        "must be names of request headers, such as \"x-request-id\", of at most {} bytes each; `*` is no wildcard here",
        AllowedHeaders::LONGEST
    )]
    Form,
    /// Pages cannot send this header.
    #[error(
        "must be headers that a page can send: browsers set Cookie, Host, Origin, Sec-*, Proxy-* and the like themselves"
    )]
    Forbidden,
    /// There are more than [`AllowedHeaders::MOST`].
    #[error("must be at most {} headers", AllowedHeaders::MOST)]
    TooMany,
}

impl AllowedHeaders {
    /// The most headers that settings can add.
    pub const MOST: usize = 64;
    /// The longest name that settings can add, in bytes.
    pub const LONGEST: usize = 100;
    /// The route's own headers, and those that monitoring adds to a page's calls: without them the
    /// browser would not send the call. The broker reads none of the latter.
    const ALWAYS: &[&str] = &[
        "authorization",
        "content-type",
        // W3C Trace Context and Baggage: OpenTelemetry, and most of those below too.
        "traceparent",
        "tracestate",
        "baggage",
        "sentry-trace",
        // jQuery and similar libraries.
        "x-requested-with",
        "x-datadog-origin",
        "x-datadog-parent-id",
        "x-datadog-sampling-priority",
        "x-datadog-trace-id",
        // Zipkin, and the other propagators of Datadog and OpenTelemetry.
        "b3",
        "x-b3-traceid",
        "x-b3-spanid",
        "x-b3-parentspanid",
        "x-b3-sampled",
        "x-b3-flags",
        "uber-trace-id",
        "newrelic",
        "elastic-apm-traceparent",
        // CloudWatch RUM with X-Ray.
        "x-amzn-trace-id",
        // Application Insights.
        "request-id",
        "request-context",
        "x-instana-t",
        "x-instana-s",
        "x-instana-l",
        // Dynatrace.
        "x-dtpc",
        "x-dtc",
        // SkyWalking.
        "sw8",
        // AppDynamics.
        "adrum",
    ];
    /// The forbidden request-headers of the Fetch standard, 2.2.2, beside `proxy-` and `sec-`.
    const FORBIDDEN: &str = "accept-charset accept-encoding access-control-request-headers access-control-request-method \
        access-control-request-private-network connection content-length cookie cookie2 date dnt expect host keep-alive \
        origin referer set-cookie te trailer transfer-encoding upgrade via";

    /// Extends the built-in list; names are case-insensitive.
    pub fn new(more: &[String]) -> Result<Self, AllowedHeaderError> {
        if more.len() > Self::MOST {
            return Err(AllowedHeaderError::TooMany);
        }
        let mut names: Vec<_> = Self::ALWAYS.iter().map(|&name| name.to_owned()).collect();
        for name in more {
            // `*` is a legal character of a name, but is always meant as a pattern.
            if name.len() > Self::LONGEST || !is_token(name) || name.contains('*') {
                return Err(AllowedHeaderError::Form);
            }
            let name = name.to_ascii_lowercase();
            let is_set_by_browsers = ["proxy-", "sec-"].iter().any(|prefix| name.starts_with(prefix));
            if is_set_by_browsers || Self::FORBIDDEN.split(' ').any(|forbidden| forbidden == name) {
                return Err(AllowedHeaderError::Forbidden);
            }
            if !names.contains(&name) {
                names.push(name);
            }
        }
        HeaderValue::from_str(&names.join(", ")).map(Self).map_err(|_| AllowedHeaderError::Form)
    }

    /// The value of `Access-Control-Allow-Headers`.
    pub(super) fn value(&self) -> HeaderValue {
        self.0.clone()
    }
}

/// Whether a text is a token by RFC 9110, 5.6.2.
pub(super) fn is_token(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(names: &[&str]) -> Result<String, AllowedHeaderError> {
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        AllowedHeaders::new(&names).map(|allowed| allowed.0.to_str().expect("ASCII").to_owned())
    }

    #[test]
    fn allowed_headers_extend_the_list_once_and_in_lower_case() {
        let always = headers(&[]).expect("a list");
        assert!(always.starts_with("authorization, content-type, traceparent, tracestate, baggage, sentry-trace"));
        assert_eq!(headers(&["Traceparent", "AUTHORIZATION"]), Ok(always.clone()));
        assert_eq!(headers(&["X-One", "x-one", "x_two.3"]), Ok(format!("{always}, x-one, x_two.3")));
        let many: Vec<_> = (0..AllowedHeaders::MOST).map(|n| format!("x-{n}")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        assert!(headers(&many).is_ok_and(|list| list.ends_with(", x-63")));
        assert_eq!(headers(&[&many[..], &["x-more"]].concat()), Err(AllowedHeaderError::TooMany));
        assert!(headers(&[&"x".repeat(AllowedHeaders::LONGEST)]).is_ok());
    }

    #[test]
    fn allowed_headers_refuse_names_that_pages_cannot_send() {
        let long = "x".repeat(AllowedHeaders::LONGEST + 1);
        for bad in
            ["", "*", "x-*", "x y", " x", "x,y", "x:", "x\r\ny: z", "x\ty", "x\0", "\u{e9}", "x\u{7f}", "(x)", &long]
        {
            assert_eq!(headers(&[bad]), Err(AllowedHeaderError::Form), "{bad:?}");
        }
        for bad in
            ["cookie", "Cookie", "host", "origin", "content-length", "te", "Sec-Fetch-Mode", "proxy-authorization"]
        {
            assert_eq!(headers(&["x-good", bad]), Err(AllowedHeaderError::Forbidden), "{bad}");
        }
    }
}

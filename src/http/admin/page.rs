//! `/`: the status page, and the script and the style that it loads.

use hyper::Response;
use hyper::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, REFERRER_POLICY};

use crate::http::response_body::{NO_STORE, ResponseBody};

/// The page loads from its own listener alone, is shown in no frame, and runs no script but its own.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; \
     form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
);
const NO_REFERRER: HeaderValue = HeaderValue::from_static("no-referrer");

/// The file at this path, with its media type; `None` for any other path.
pub fn file(path: &str) -> Option<(&'static str, &'static str)> {
    Some(match path {
        "" => ("text/html; charset=utf-8", include_str!("page/index.html")),
        "/status.js" => ("text/javascript; charset=utf-8", include_str!("page/status.js")),
        "/status.css" => ("text/css; charset=utf-8", include_str!("page/status.css")),
        "/icon.svg" => ("image/svg+xml", include_str!("page/icon.svg")),
        _ => return None,
    })
}

/// Answers with a file of the page.
pub fn response((media_type, text): (&'static str, &'static str)) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::from(text));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(CACHE_CONTROL, NO_STORE);
    headers.insert(CONTENT_SECURITY_POLICY, POLICY);
    headers.insert(REFERRER_POLICY, NO_REFERRER);
    response
}

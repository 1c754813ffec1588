//! Requests that web pages make with an operator's browser.

use std::net::IpAddr;

use hyper::Request;
use hyper::header::{HOST, HeaderValue, ORIGIN};

/// Whether a page in a browser on this machine may have made this request, although no page is served here.
///
/// A page whose name leads to this machine by DNS (rebinding) names itself in `Host`, and could read the answers. Any
/// other page says so in `Sec-Fetch-Site`; it could not read them, but cause work.
pub fn is_from_web_page<B>(request: &Request<B>) -> bool {
    let target = request.uri().authority().map(|authority| authority.as_str());
    let header = request.headers().get(HOST).map(|host| host.to_str().unwrap_or_default());
    let is_foreign = [target, header].into_iter().flatten().any(|host| !is_this_machine(host));
    let fetch = |name| request.headers().get(name).map(HeaderValue::as_bytes);
    let is_from_other_site = fetch("sec-fetch-site").is_some_and(|site| !matches!(site, b"none" | b"same-origin"));
    let is_link = fetch("sec-fetch-mode") == Some(b"navigate") && fetch("sec-fetch-dest") == Some(b"document");
    // A link may open the status page, which has no data in it and is shown in no frame.
    is_foreign
        || request.headers().contains_key(ORIGIN)
        || is_from_other_site && !(is_link && request.uri().path() == "/")
}

/// Whether a host, with or without a port, is `localhost` or a loopback address.
fn is_this_machine(host: &str) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, port),
        _ => (host, ""),
    };
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    let is_loopback = address.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback());
    port.bytes().all(|digit| digit.is_ascii_digit()) && (is_loopback || name.eq_ignore_ascii_case("localhost"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_localhost_and_loopback_addresses_are_this_machine() {
        for host in [
            "localhost",
            "LOCALHOST:9090",
            "127.0.0.1",
            "127.0.0.1:9090",
            "127.1.2.3:1",
            "[::1]",
            "[::1]:9090",
            "[::ffff:127.0.0.1]:1",
        ] {
            assert!(is_this_machine(host), "{host}");
        }
        for host in [
            "",
            ":9090",
            "localhost.",
            "localhost.example",
            "127.0.0.1.example",
            "192.0.2.1:9090",
            "[2001:db8::1]",
            "0.0.0.0",
            "[::]",
            "localhost:a",
            "a:localhost",
            "127.0.0.1:9090:1",
            "user@localhost",
            "2130706433",
        ] {
            assert!(!is_this_machine(host), "{host}");
        }
    }

    #[test]
    fn page_is_told_by_its_host_origin_or_site() {
        let from = |headers: &[(&str, &str)]| {
            let request =
                headers.iter().fold(Request::get("/metrics"), |request, (name, value)| request.header(*name, *value));
            is_from_web_page(&request.body(()).expect("a request"))
        };
        for headers in [&[][..], &[("host", "localhost")], &[("host", "[::1]:1"), ("sec-fetch-site", "none")]] {
            assert!(!from(headers), "{headers:?}");
        }
        for headers in [
            &[("host", "attacker.example")][..],
            &[("host", "localhost"), ("sec-fetch-site", "cross-site")],
            &[("host", "localhost"), ("sec-fetch-site", "same-site")],
            &[("host", "localhost"), ("origin", "http://attacker.example")],
        ] {
            assert!(from(headers), "{headers:?}");
        }
    }

    #[test]
    fn link_of_another_page_opens_the_status_page_alone() {
        let opens = |path: &str, mode: &str, dest: &str, host: &str| {
            let request = Request::get(path).header("host", host).header("sec-fetch-site", "cross-site");
            let request = request.header("sec-fetch-mode", mode).header("sec-fetch-dest", dest);
            !is_from_web_page(&request.body(()).expect("a request"))
        };
        assert!(opens("/", "navigate", "document", "localhost:9090"));
        assert!(!opens("/explain?user=jane", "navigate", "document", "localhost:9090"));
        assert!(!opens("/", "navigate", "iframe", "localhost:9090"));
        assert!(!opens("/", "no-cors", "document", "localhost:9090"));
        assert!(!opens("/", "navigate", "document", "attacker.example"));
    }
}

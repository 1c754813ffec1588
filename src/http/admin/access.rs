//! The check of callers of the admin listener.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue};
use hyper::{HeaderMap, Request};

use super::web_pages::is_from_web_page;
use crate::auth::{ClientKeys, Digest};

/// The conditions on which a caller may use the admin listener.
#[derive(Clone, Debug, Default)]
pub struct AdminAccess {
    /// Whether it listens on a loopback address, where no foreign web page may call.
    pub is_local: bool,
    /// The SHA-256 of the operators' keys; without any, no key is asked for.
    pub keys: Vec<Digest>,
}

/// Confirms a change. No web page can send it by itself: browsers ask first (CORS), and get no permission.
pub const CONFIRM: HeaderName = HeaderName::from_static("confirm");

/// The schemes of a key: `Basic` lets a browser ask the operator for it.
pub const CHALLENGE: HeaderValue = HeaderValue::from_static(r#"Basic realm="courier-token-broker admin", Bearer"#);

impl AdminAccess {
    /// Whether a network reaches the listener, which has wanted a key up to now and would want none with these.
    pub fn would_open_with(&self, keys: &[Digest]) -> bool {
        !self.is_local && !self.keys.is_empty() && keys.is_empty()
    }

    /// Whether a foreign web page may have made this request.
    pub fn is_foreign_page<B>(&self, request: &Request<B>) -> bool {
        self.is_local && is_from_web_page(request)
    }

    /// Whether the request has an operator's key, if one is wanted: as a bearer, or as the password of any user.
    pub fn admits(&self, headers: &HeaderMap) -> bool {
        if self.keys.is_empty() {
            return true;
        }
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return false };
        let Some((scheme, value)) = value.to_str().ok().and_then(|text| text.split_once(' ')) else { return false };
        let key = if scheme.eq_ignore_ascii_case("bearer") {
            Some(value.trim().to_owned())
        } else if scheme.eq_ignore_ascii_case("basic") {
            password(value.trim())
        } else {
            None
        };
        let key = key.filter(|key| key.len() <= ClientKeys::MAX_BYTES);
        // All are compared, so that timing does not tell which key it is.
        key.is_some_and(|key| self.keys.iter().fold(false, |found, digest| digest.is_of(&key) | found))
    }
}

/// Whether the request confirms this change.
pub fn confirms(headers: &HeaderMap, change: &str) -> bool {
    headers.get(CONFIRM).is_some_and(|value| value.as_bytes() == change.as_bytes())
}

/// The password of RFC 7617.
fn password(encoded: &str) -> Option<String> {
    let text = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
    text.split_once(':').map(|(_, password)| password.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_is_a_bearer_or_the_password_of_any_user() {
        let access = AdminAccess { is_local: false, keys: vec![Digest::of("old"), Digest::of("new:key")] };
        let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));
        let admits = |values: &[String]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(AUTHORIZATION, HeaderValue::try_from(value).expect("a header"));
            }
            access.admits(&headers)
        };
        for good in ["Bearer old", "bearer new:key", "BEARER  old", &basic(":old"), &basic("me:new:key")] {
            assert!(admits(&[good.to_owned()]), "{good}");
        }
        let hash = Digest::of("old").to_string();
        for wrong in [
            "",
            "old",
            "Bearer",
            "Bearer ",
            "Bearer OLD",
            "Token old",
            "Basic old",
            &format!("Bearer {hash}"),
            &basic("old"),
        ] {
            assert!(!admits(&[wrong.to_owned()]), "{wrong}");
        }
        assert!(!admits(&[]) && !admits(&["Bearer old".to_owned(), "Bearer old".to_owned()]));
        assert!(!admits(&[format!("Bearer {}", "x".repeat(5000))]));
        assert!(AdminAccess::default().admits(&HeaderMap::new()));
    }
}

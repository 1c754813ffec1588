//! Sessions: only a signed, current one of the right issuer and audience gets a
//! token, and the token is for its user.
//!
//! An input is a byte of flags and up to four parts with 0x1f between them: the
//! header and the claims of a session, which the harness signs or not; the user in
//! the query (or the body of a `POST`); a text in place of the session's signature.

#![no_main]

use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use courier_token_broker::auth::{Algorithms, KeySource, SessionKey, SessionSettings, Sessions};
use courier_token_broker::http::api::{AllowedHeaders, Origins, SessionRoute, SessionSource};
use courier_token_broker::secrets::SecretBytes;
use courier_token_broker_fuzz::broker::{DAY, INBOX_SCOPES, Issued, METRICS, TestBroker, client, profile, run};
use courier_token_broker_fuzz::message::{Answer, Pieces};
use courier_token_broker_fuzz::oracle::{Claim, Members, id, user_in_query};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, COOKIE, HeaderValue, ORIGIN};
use hyper::{Method, Request, Uri};
use libfuzzer_sys::{Corpus, fuzz_target};
use serde_json::Value;

const SECRET: &[u8] = b"a secret that both the app and the fuzzer know";
const ISSUER: &str = "https://login.example.com/";
const AUDIENCE: &str = "my-app";
const PAGE: &str = "https://app.example.com";
const LEEWAY: f64 = 30.0;

const SIGNED: u8 = 1;
const COOKIED: u8 = 2;
const GET: u8 = 4;
/// Two bits: none, the listed page, another page, the listed page twice.
const ORIGINS: u8 = 8 | 16;
const WITHIN: u8 = 32;
/// The second part is taken for base64url already.
const ENCODED: u8 = 64;
/// A second, invalid session is sent too.
const TWICE: u8 = 128;

/// The broker reads secrets only from files.
static KEY: LazyLock<SessionKey> = LazyLock::new(|| {
    let file = std::env::temp_dir().join(format!("session-secret-of-{}", std::process::id()));
    std::fs::write(&file, SECRET).expect("a file");
    let secret = SecretBytes::read(&file).expect("a secret");
    std::fs::remove_file(&file).expect("it is there");
    SessionKey::from_secret(&secret).expect("it is long enough")
});

struct Input<'a> {
    flags: u8,
    session: String,
    /// In the query, or the body.
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    fn read(input: &'a [u8]) -> Option<Self> {
        let (&flags, rest) = input.split_first()?;
        let mut parts = rest.splitn(4, |byte| *byte == 0x1f);
        let mut part = || parts.next().unwrap_or_default();
        let (header, claims, rest, signature) = (part(), part(), part(), part());
        let payload = match flags & ENCODED {
            0 => URL_SAFE_NO_PAD.encode(claims),
            _ => std::str::from_utf8(claims).ok()?.to_owned(),
        };
        let message = format!("{}.{payload}", URL_SAFE_NO_PAD.encode(header));
        let signature = match flags & SIGNED {
            0 => std::str::from_utf8(signature).ok()?.to_owned(),
            _ => URL_SAFE_NO_PAD.encode(sign(&message)),
        };
        Some(Self { flags, session: format!("{message}.{signature}"), rest })
    }

    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    fn request(&self) -> Option<Request<Pieces>> {
        let body = if self.has(GET) { &[] } else { self.rest };
        let mut request = Request::new(Pieces::new(body));
        let path = "/api/generate-courier-jwt";
        if self.has(GET) {
            *request.method_mut() = Method::GET;
            *request.uri_mut() = Uri::try_from(format!("{path}?{}", std::str::from_utf8(self.rest).ok()?)).ok()?;
        } else {
            *request.method_mut() = Method::POST;
            *request.uri_mut() = Uri::from_static("/api/generate-courier-jwt");
        }
        let headers = request.headers_mut();
        if !body.is_empty() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let name = if self.has(COOKIED) { COOKIE } else { AUTHORIZATION };
        let before = if self.has(COOKIED) { "a=b; session=" } else { "Bearer " };
        headers.append(&name, HeaderValue::try_from(format!("{before}{}", self.session)).ok()?);
        if self.has(TWICE) {
            headers.append(&name, HeaderValue::try_from(format!("{before}e30.e30.e30")).ok()?);
        }
        for origin in match self.flags & ORIGINS {
            0 => &[][..],
            8 => &[PAGE],
            16 => &["https://app.example.com.evil.example"],
            _ => &[PAGE, PAGE],
        } {
            headers.append(ORIGIN, HeaderValue::from_static(origin));
        }
        Some(request)
    }

    /// Whether the request comes from an allowed page.
    fn is_from_allowed_page(&self) -> bool {
        match self.flags & ORIGINS {
            0 => !self.has(COOKIED),
            8 => true,
            _ => false,
        }
    }

    /// The user that the request names besides the session; `Err` if the name is
    /// invalid.
    fn named(&self) -> Result<Option<String>, ()> {
        if self.has(GET) {
            let query = std::str::from_utf8(self.rest).map_err(drop)?;
            let query = query.split('#').next().unwrap_or_default();
            let says = query.split('&').any(|pair| pair == "userId" || pair.starts_with("userId="));
            return if says { user_in_query(query).map(Some).ok_or(()) } else { Ok(None) };
        }
        let body = Pieces::new(self.rest).whole().ok_or(())?;
        if body.is_empty() {
            return Ok(None);
        }
        let body = Members::read_body(&body).ok_or(())?;
        match body.get("userId") {
            Some(user) => id(&user).map(Some).ok_or(()),
            None if !body.has("userId") => Ok(None),
            _ => Err(()),
        }
    }
}

fn sign(message: &str) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), message.as_bytes()).as_ref().to_vec()
}

fuzz_target!(|input: &[u8]| -> Corpus {
    let Some(input) = Input::read(input) else { return Corpus::Reject };
    let Some(request) = input.request() else { return Corpus::Reject };
    let answer = run(async { broker(&input).answer(request).await });
    let user = user_of(&input.session);
    let named = input.named();
    let alone = !input.has(TWICE);
    if answer.status == 200 {
        let issued = Issued::read(&answer.token("api/generate-courier-jwt"));
        let claim = Claim::split(&issued.claim).expect("a claim");
        let user = user.unwrap_or_else(|| panic!("{:?} must not get {issued:?}", input.session));
        assert_eq!(claim.users, [user.as_str()]);
        assert!(claim.scopes.iter().map(String::as_str).eq(std::collections::BTreeSet::from(INBOX_SCOPES)));
        assert!(issued.lifetime <= DAY && issued.workspace == "default");
        assert!(named == Ok(None) || named == Ok(Some(user)), "{named:?}");
        assert!(alone && input.is_from_allowed_page());
    } else {
        answer.is_a_refusal(true);
        let is_plain = |user: &String| user.len() <= 64 && user.bytes().all(|byte| byte.is_ascii_digit());
        let is_good = alone && input.is_from_allowed_page() && !input.has(WITHIN) && named == Ok(None);
        // Courier has no faults for users whose id is a number.
        assert!(
            !(is_good && is_valid_beyond_doubt(&input.session) && user.is_some_and(|user| is_plain(&user))),
            "{answer:?}"
        );
    }
    check_cors_headers(&input, &answer);
    Corpus::Keep
});

/// Only the listed page may read the answer.
fn check_cors_headers(input: &Input<'_>, answer: &Answer) {
    let listed = input.flags & ORIGINS == 8;
    assert_eq!(answer.header("vary"), Some("Origin"));
    assert_eq!(answer.header("access-control-allow-origin"), listed.then_some(PAGE));
    assert_eq!(answer.header("access-control-allow-credentials"), listed.then_some("true"));
}

fn broker(input: &Input<'_>) -> TestBroker {
    let keys = KeySource::Fixed(KEY.clone());
    let settings = SessionSettings {
        algorithms: Algorithms::fitting(&keys),
        keys,
        issuer: ISSUER.to_owned(),
        audience: AUDIENCE.to_owned(),
        audience_claim: "aud".to_owned(),
        user_claim: "sub".to_owned(),
        leeway: std::time::Duration::from_secs_f64(LEEWAY),
    };
    let route = SessionRoute {
        source: if input.has(COOKIED) {
            SessionSource::Cookie("session".to_owned())
        } else {
            SessionSource::Authorization
        },
        origins: Origins::new(&[PAGE.to_owned()]).expect("an origin"),
        allowed_headers: AllowedHeaders::new(&[]).expect("a list"),
        profile: profile(&INBOX_SCOPES),
        client: client("sessions", "default", &["*"], &["*"], DAY),
        within_session: input.has(WITHIN),
    };
    TestBroker::new(|api, clock| {
        let sessions = Sessions::new(settings, clock, &METRICS, &tokio::runtime::Handle::current(), 8, None)
            .expect("the key is fixed");
        api.with_sessions(sessions, route).expect("sound declarations")
    })
}

#[expect(clippy::disallowed_methods, reason = "the harness has a clock of its own")]
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64()
}

/// Reads base64url without padding, strictly, and not with the broker's crate.
fn decoded(text: &str) -> Option<Vec<u8>> {
    let mut bits = 0_u32;
    let mut count = 0;
    let mut bytes = Vec::new();
    for letter in text.bytes() {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'-' => 62,
            b'_' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    (count < 6 && bits == 0).then_some(bytes)
}

fn parts(session: &str) -> Option<(Members, Members)> {
    let [header, payload, signature] = session.trim().split('.').collect::<Vec<_>>()[..] else { return None };
    let expected = sign(&format!("{header}.{payload}"));
    if header.is_empty() || payload.is_empty() || decoded(signature)? != expected {
        return None;
    }
    let header = Members::read(&decoded(header)?)?;
    let claims = Members::read(&decoded(payload)?)?;
    Some((header, claims))
}

/// The user of a session that may be valid. Each rule has two seconds of leeway, since
/// the broker read its clock earlier.
fn user_of(session: &str) -> Option<String> {
    let (header, claims) = parts(session)?;
    let forbidden = ["crit", "b64", "zip", "enc", "cty"];
    if header.get("alg")? != "HS256" || forbidden.iter().any(|name| header.has(name)) {
        return None;
    }
    if claims.get("iss")? != ISSUER {
        return None;
    }
    match claims.get("aud")? {
        Value::String(only) if only == AUDIENCE => {}
        Value::Array(all) if all.iter().any(|one| one == AUDIENCE) => {}
        _ => return None,
    }
    let exp = claims.get("exp")?.as_f64()?;
    let begun = |name: &str| {
        !claims.has(name)
            || claims.get(name).is_some_and(|time| time.as_f64().is_some_and(|at| at < now() + LEEWAY + 2.0))
    };
    if exp < now() - LEEWAY - 2.0 || !begun("nbf") || !begun("iat") {
        return None;
    }
    match claims.get("sub")? {
        Value::String(user) => Some(user),
        Value::Number(user) => Some(user.to_string()),
        _ => None,
    }
}

/// Whether the session is valid beyond doubt, as every issuer makes them: refusing it
/// would be an error too.
fn is_valid_beyond_doubt(session: &str) -> bool {
    let Some((header, claims)) = parts(session) else { return false };
    let known = ["iss", "aud", "sub", "exp", "nbf", "iat"];
    let past = |name: &str| {
        !claims.has(name) || claims.get(name).and_then(|time| time.as_u64()).is_some_and(|at| (at as f64) < now())
    };
    // A name that is there twice contradicts itself, and one may be hidden by escapes.
    let once = |part: &str| {
        let text = decoded(part).and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default();
        !text.contains('\\')
            && known.iter().chain(&["alg", "typ"]).all(|name| text.matches(&format!("\"{name}\"")).count() < 2)
    };
    session.len() < 2048
        && session.split('.').take(2).all(once)
        && header.names().all(|name| name == "alg" || name == "typ" && header.get(name).is_some_and(|typ| typ == "JWT"))
        && claims.names().all(|name| known.contains(&name))
        && claims.get("aud").is_some_and(|aud| aud.is_string())
        && claims.get("sub").is_some_and(|sub| sub.is_string())
        && claims
            .get("exp")
            .and_then(|exp| exp.as_u64())
            .is_some_and(|exp| (exp as f64) > now() + 60.0 && exp < 1_000_000_000_000)
        && past("nbf")
        && past("iat")
        && user_of(session).is_some()
}

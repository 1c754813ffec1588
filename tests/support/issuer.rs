//! An issuer that signs valid and invalid sessions and publishes its keys, which are new in each run.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
};
use aws_lc_rs::{hmac, signature};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::{Value, json};

pub const ISSUER: &str = "https://login.example.com/";
pub const AUDIENCE: &str = "my-app";

/// The RSA key of all tests, since making one takes a while.
pub static RSA: LazyLock<Signer> =
    LazyLock::new(|| Signer::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).expect("randomness")));

/// A key that signs.
pub enum Signer {
    Hmac(Vec<u8>),
    Rsa(RsaKeyPair),
    P256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl Signer {
    pub fn p256() -> Self {
        Self::P256(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("randomness"))
    }

    pub fn ed25519() -> Self {
        Self::Ed25519(Ed25519KeyPair::generate().expect("randomness"))
    }

    pub fn algorithm(&self) -> &'static str {
        match self {
            Self::Hmac(_) => "HS256",
            Self::Rsa(_) => "RS256",
            Self::P256(_) => "ES256",
            Self::Ed25519(_) => "EdDSA",
        }
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Hmac(secret) => hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message).as_ref().to_vec(),
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).expect("signed");
                signature
            }
            Self::P256(key) => key.sign(&random, message).expect("signed").as_ref().to_vec(),
            Self::Ed25519(key) => key.sign(message).as_ref().to_vec(),
        }
    }

    /// The public key as `SubjectPublicKeyInfo`.
    pub fn der(&self) -> Vec<u8> {
        let der = match self {
            Self::Hmac(_) => panic!("it has no public key"),
            Self::Rsa(key) => key.public_key().as_der(),
            Self::P256(key) => key.public_key().as_der(),
            Self::Ed25519(key) => key.public_key().as_der(),
        };
        let der: aws_lc_rs::encoding::PublicKeyX509Der<'_> = der.expect("it has a form");
        der.as_ref().to_vec()
    }

    pub fn pem(&self) -> String {
        let text = STANDARD.encode(self.der());
        let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).expect("ASCII")).collect();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
    }

    pub fn jwk(&self, kid: &str) -> Value {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let mut key = match self {
            Self::Hmac(secret) => json!({"kty": "oct", "k": text(secret)}),
            Self::Rsa(key) => {
                let public: signature::RsaPublicKeyComponents<Vec<u8>> = key.public_key().into();
                json!({"kty": "RSA", "n": text(&public.n), "e": text(&public.e)})
            }
            Self::P256(key) => {
                let (x, y) = key.public_key().as_ref()[1..].split_at(32);
                json!({"kty": "EC", "crv": "P-256", "x": text(x), "y": text(y)})
            }
            Self::Ed25519(key) => json!({"kty": "OKP", "crv": "Ed25519", "x": text(key.public_key().as_ref())}),
        };
        key["kid"] = json!(kid);
        key["use"] = json!("sig");
        key["alg"] = json!(self.algorithm());
        key
    }

    /// A JWT with this header and these claims, valid or not.
    pub fn jwt(&self, header: &Value, claims: &Value) -> String {
        self.signed(&header.to_string(), &claims.to_string())
    }

    /// A JWT with this header and these claims, which need not be JSON.
    pub fn signed(&self, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = URL_SAFE_NO_PAD.encode(self.sign(message.as_bytes()));
        format!("{message}.{signature}")
    }

    /// A valid session of this user.
    pub fn session(&self, kid: &str, user: &str) -> String {
        self.jwt(&header(self, kid), &good_claims(user))
    }
}

pub fn header(signer: &Signer, kid: &str) -> Value {
    json!({"alg": signer.algorithm(), "typ": "JWT", "kid": kid})
}

/// The claims of a session of an hour.
pub fn good_claims(user: &str) -> Value {
    json!({"iss": ISSUER, "aud": AUDIENCE, "sub": user, "iat": at(-5), "nbf": at(-5), "exp": at(3600)})
}

/// A JWT's time so many seconds from now.
#[expect(clippy::disallowed_methods, reason = "the issuer has a clock of its own")]
pub fn at(offset: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    i64::try_from(now.as_secs()).expect("before the end of time") + offset
}

/// A host that publishes keys for as long as the test runs.
#[derive(Clone)]
pub struct KeyHost(Arc<Host>);

struct Host {
    address: SocketAddr,
    /// The status and the body of its answers.
    answer: Mutex<(u16, String)>,
    delay: Mutex<Duration>,
    asked: AtomicUsize,
}

impl KeyHost {
    pub async fn start(keys: &[Value]) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let host = Self(Arc::new(Host {
            address: listener.local_addr().expect("an address"),
            answer: Mutex::default(),
            delay: Mutex::default(),
            asked: AtomicUsize::new(0),
        }));
        host.publish(keys);
        let (serving, listener) = (host.clone(), listener);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let host = serving.clone();
                let service = service_fn(move |_: Request<hyper::body::Incoming>| {
                    let host = host.clone();
                    async move { Ok::<_, Infallible>(host.answer().await) }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        host
    }

    async fn answer(&self) -> Response<Full<Bytes>> {
        self.0.asked.fetch_add(1, Ordering::SeqCst);
        let delay = *self.0.delay.lock();
        tokio::time::sleep(delay).await;
        let (status, body) = self.0.answer.lock().clone();
        let mut response = Response::builder().status(status);
        if (300..400).contains(&status) {
            response = response.header("Location", self.url());
        }
        response.body(Full::from(body)).expect("a response")
    }

    pub fn url(&self) -> String {
        format!("http://{}/jwks.json", self.0.address)
    }

    /// Publishes these keys in place of the earlier ones.
    pub fn publish(&self, keys: &[Value]) {
        self.say(200, &json!({"keys": keys}).to_string());
    }

    /// Gives this answer from now on.
    pub fn say(&self, status: u16, body: &str) {
        *self.0.answer.lock() = (status, body.to_owned());
    }

    pub fn is_slow(&self, delay: Duration) {
        *self.0.delay.lock() = delay;
    }

    /// The number of requests that the host got.
    pub fn asked(&self) -> usize {
        self.0.asked.load(Ordering::SeqCst)
    }
}

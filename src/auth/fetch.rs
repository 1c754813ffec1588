//! A single JWKS fetch and its errors.

use std::time::Duration;

use reqwest::{Client, Url};

use super::key_set::{KeySet, KeySetError};

/// The longest that a fetch may take.
pub const TIMEOUT: Duration = Duration::from_secs(5);
/// A key takes less than 1 KB, with a chain of certificates perhaps 5.
const LARGEST_ANSWER: usize = 256 * 1024;

/// Why a JWKS fetch failed.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No answer in time.
    #[error("no answer within {} s", TIMEOUT.as_secs())]
    Timeout(#[source] reqwest::Error),
    /// The connection failed or broke.
    #[error(transparent)]
    Request(reqwest::Error),
    /// A redirect: it could lead to a host that the operator has not named.
    #[error("the status of the answer is {0}; redirects are not followed")]
    Redirect(u16),
    /// Neither 200 nor a redirect.
    #[error("the status of the answer is {0}")]
    Status(u16),
    /// The answer is larger than the limit.
    #[error("the answer is larger than {} KiB", LARGEST_ANSWER / 1024)]
    TooLarge,
    /// The answer is no JWKS, or has no usable keys.
    #[error(transparent)]
    Keys(#[from] KeySetError),
}

impl FetchError {
    /// Whether the issuer published a JWKS, and no key in it can verify sessions.
    pub const fn is_without_keys(&self) -> bool {
        matches!(self, Self::Keys(KeySetError::Empty | KeySetError::Unusable { .. }))
    }
}

impl From<reqwest::Error> for FetchError {
    fn from(error: reqwest::Error) -> Self {
        let error = error.without_url();
        if error.is_timeout() { Self::Timeout(error) } else { Self::Request(error) }
    }
}

/// Fetches the keys once.
pub async fn fetch(client: &Client, url: &Url) -> Result<KeySet, FetchError> {
    let mut response = client.get(url.clone()).send().await?;
    match response.status().as_u16() {
        200 => {}
        status @ 300..400 => return Err(FetchError::Redirect(status)),
        status => return Err(FetchError::Status(status)),
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > LARGEST_ANSWER {
            return Err(FetchError::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(KeySet::parse(&body)?)
}

/// A URL without user, query and fragment, which may be secret.
pub fn redacted(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    // These fail only for URLs that have no host.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error_chain::describe;

    #[tokio::test]
    async fn host_that_never_answers_is_named_as_such() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = silent.local_addr().expect("an address");
        let url = format!("http://{address}/?key=hunter2").parse().expect("a URL");
        let client = Client::builder().no_proxy().timeout(Duration::from_millis(50)).build().expect("a client");
        let cause = describe(&fetch(&client, &url).await.err().expect("no answer"));
        assert!(cause.starts_with("no answer within 5 s: "), "{cause}");
        assert!(cause.ends_with("operation timed out") && !cause.contains("hunter2"), "{cause}");
    }

    #[test]
    fn url_is_shown_without_user_query_and_fragment() {
        let url: Url = "https://user:hunter2@login.example.com:8443/a/jwks?key=hunter2#hunter2".parse().expect("a URL");
        assert_eq!(redacted(&url), "https://login.example.com:8443/a/jwks");
    }
}

//! The HTTP client for hosts that the settings name, but for Courier's.

use std::time::Duration;

use reqwest::{Client, redirect, retry};

/// Creates a client that makes a connection for each request: an idle one might be closed when the next is sent.
pub fn http_client(timeout: Duration) -> reqwest::Result<Client> {
    Client::builder()
        .user_agent(concat!("courier-token-broker/", env!("CARGO_PKG_VERSION")))
        .retry(retry::never())
        // A redirect could lead to a host that the operator has not named.
        .redirect(redirect::Policy::none())
        .no_proxy()
        .timeout(timeout)
        .pool_max_idle_per_host(0)
        .build()
}

//! Servers with a fixed answer, which a broker is compared with.

#![allow(dead_code, reason = "each bench uses a part of it")]

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// The body of an answer with this size.
pub fn answer_body(size: usize) -> String {
    format!(r#"{{"token":"{}"}}"#, "x".repeat(size - r#"{"token":""}"#.len()))
}

/// Reads a request to its end, and answers with a fixed text of `size` bytes and as many headers as the broker's.
pub async fn bare(size: usize) {
    let body = Bytes::from(answer_body(size));
    let answer = move |request: Request<Incoming>| {
        let body = body.clone();
        async move {
            let _ = request.into_body().collect().await;
            let mut response = Response::new(Full::new(body));
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
            let status = HeaderValue::from_static("courier-token-broker; hit; ttl=86400");
            headers.insert(HeaderName::from_static("cache-status"), status);
            Ok::<_, Infallible>(response)
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    println!("{}", listener.local_addr().expect("an address"));
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        let answer = answer.clone();
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            // The broker's listener sets these too.
            let connection = http1::Builder::new()
                .max_buf_size(24 * 1024)
                .writev(false)
                .serve_connection(TokioIo::new(stream), service_fn(answer));
            let _ = connection.await;
        });
    }
}

//! The memory that a hit allocates. The counts are of the thread that serves, not of the client's.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use tokio::runtime::{Builder, Runtime};

use crate::support::broker::{Broker, Setup};
use crate::support::http::HttpRequest;
use crate::support::refusal::GOOD;

/// The numbers of hits whose difference is counted, so that the start cancels out.
const HITS: [u64; 2] = [100, 1100];

/// hyper allocates for each request: ... The broker allocates the future of the answer and the text of `Cache-Status`.
const MOST: [u64; 3] = [0, 0, 0];

/// Sends a request again and again; reads each answer as a whole, which is as long as the first.
fn ask(address: SocketAddr, request: &[u8], times: u64) {
    let mut stream = TcpStream::connect(address).expect("the listener accepts");
    let mut buffer = [0; 8192];
    for _ in 0..times {
        stream.write_all(request).expect("the connection is open");
        let read = stream.read(&mut buffer).expect("the connection is open");
        let answer = std::str::from_utf8(&buffer[..read]).expect("text");
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with('}'), "{answer}");
    }
}

fn allocations(runtime: &Runtime, address: SocketAddr, request: &[u8], hits: u64) -> u64 {
    let request = request.to_vec();
    let counted = allocation_counter::measure(|| {
        let asked =
            runtime.block_on(async move { tokio::task::spawn_blocking(move || ask(address, &request, hits)).await });
        asked.expect("no panic");
    });
    counted.count_total
}

#[test]
fn hit_allocates_little() {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let broker: Broker = runtime.block_on(Setup::new().start());
    for ((route, body), most) in GOOD.into_iter().zip(MOST) {
        let request = HttpRequest::post(route, body).bytes();
        allocations(&runtime, broker.address, &request, 10);
        let [few, many] = HITS.map(|hits| allocations(&runtime, broker.address, &request, hits));
        let each = (many - few) as f64 / (HITS[1] - HITS[0]) as f64;
        println!("{route}: {each:.2} allocations");
        assert!(each < most as f64 + 0.5, "{route}: {each:.2} allocations, not {most}");
    }
}

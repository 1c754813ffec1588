//! The memory that a hit allocates, counted on the thread that serves it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use tokio::runtime::{Builder, Runtime};
use tokio::task::spawn_blocking;

use crate::support::broker::Broker;
use crate::support::http::HttpRequest;
use crate::support::refusal::GOOD;

/// The numbers of hits whose difference is counted, so that the start cancels out.
const HITS: [u64; 2] = [100, 1100];
/// The most allocations of a hit on each of the routes of [`GOOD`].
const MOST: [u64; 3] = [6, 7, 7];

/// Sends a request so many times over one connection, and reads its answers.
fn ask(address: SocketAddr, request: &[u8], times: u64) {
    let mut stream = TcpStream::connect(address).expect("the listener accepts");
    let mut buffer = [0; 8192];
    for _ in 0..times {
        stream.write_all(request).expect("the connection is open");
        let mut length = 0;
        // An answer is one JSON object without another in it.
        while !buffer[..length].ends_with(b"}") {
            let read = stream.read(&mut buffer[length..]).expect("the connection is open");
            assert!(read > 0, "the connection ended");
            length += read;
        }
        assert!(buffer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&buffer[..length]));
    }
}

fn count(runtime: &Runtime, address: SocketAddr, request: &[u8], hits: u64) -> u64 {
    let request = request.to_vec();
    let counted = allocation_counter::measure(|| {
        let asking = async move { spawn_blocking(move || ask(address, &request, hits)).await };
        runtime.block_on(asking).expect("no panic");
    });
    counted.count_total
}

#[test]
fn hit_allocates_little() {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let broker = runtime.block_on(Broker::start());
    let counts = GOOD.map(|(route, body)| {
        let request = HttpRequest::post(route, body).bytes();
        // The first is a miss.
        count(&runtime, broker.address, &request, 1);
        let [few, many] = HITS.map(|hits| count(&runtime, broker.address, &request, hits));
        (many - few) / (HITS[1] - HITS[0])
    });
    let are_few = counts.iter().zip(MOST).all(|(count, most)| *count <= most);
    assert!(are_few, "{counts:?} allocations, not {MOST:?}");
}

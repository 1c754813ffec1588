//! The least that a server can do: epoll, a read, and the same answer to whatever came.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::AsRawFd;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

use super::bare::answer_body;

/// Serves until standard input ends. A request must come in one piece.
pub fn serve(size: usize) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let poll = epoll::create(CreateFlags::CLOEXEC).expect("an epoll");
    let data = EventData::new_u64;
    epoll::add(&poll, &listener, data(u64::MAX), EventFlags::IN).expect("it is new");
    epoll::add(&poll, std::io::stdin(), data(u64::MAX - 1), EventFlags::IN).expect("it is new");
    println!("{}", listener.local_addr().expect("an address"));
    let body = answer_body(size);
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncache-control: no-store\r\n\
         cache-status: courier-token-broker; hit; ttl=86400\r\ncontent-length: {size}\r\n\
         date: Sun, 01 Nov 2026 00:00:00 GMT\r\n\r\n{body}"
    );
    let (mut streams, mut buffer, mut events) = (HashMap::new(), [0; 16 * 1024], Vec::with_capacity(256));
    loop {
        events.clear();
        epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), None).expect("events");
        for event in &events {
            match event.data.u64() {
                u64::MAX => {
                    let (stream, _) = listener.accept().expect("a connection");
                    stream.set_nodelay(true).expect("an option of every TCP socket");
                    let id = stream.as_raw_fd() as u64;
                    epoll::add(&poll, &stream, data(id), EventFlags::IN).expect("it is new");
                    streams.insert(id, stream);
                }
                id => {
                    let Some(stream) = streams.get_mut(&id) else { return };
                    // A client that is gone gets no answer.
                    let is_open = stream.read(&mut buffer).is_ok_and(|read| read > 0);
                    if !is_open || stream.write_all(answer.as_bytes()).is_err() {
                        streams.remove(&id);
                    }
                }
            }
        }
    }
}

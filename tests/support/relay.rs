//! A TCP relay whose connections can go silent while new ones work, and which can lead new ones elsewhere.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A relay that runs as long as its runtime.
pub struct Relay {
    pub address: SocketAddr,
    target: Arc<Mutex<SocketAddr>>,
    silence: watch::Sender<()>,
    accepted: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
}

impl Relay {
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let target = Arc::new(Mutex::new(target));
        let (silence, silenced) = watch::channel(());
        let (accepted, open) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let relay = Self {
            address,
            target: Arc::clone(&target),
            silence,
            accepted: Arc::clone(&accepted),
            open: Arc::clone(&open),
        };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                accepted.fetch_add(1, Ordering::SeqCst);
                open.fetch_add(1, Ordering::SeqCst);
                let mut silenced = silenced.clone();
                silenced.mark_unchanged();
                let (target, open) = (*target.lock(), Arc::clone(&open));
                tokio::spawn(async move {
                    relay_one(stream, target, silenced).await;
                    open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        relay
    }

    /// Swallows what the connections that are open now bring, without a reset, in both directions.
    pub fn silence(&self) {
        self.silence.send_replace(());
    }

    /// Leads new connections to another address.
    pub fn lead_to(&self, target: SocketAddr) {
        *self.target.lock() = target;
    }

    /// The number of connections so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// The number of connections that the broker has not closed.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }
}

async fn relay_one(mut stream: TcpStream, target: SocketAddr, mut silenced: watch::Receiver<()>) {
    let mut onward = TcpStream::connect(target).await.expect("the target accepts");
    tokio::select! {
        _ = copy_bidirectional(&mut stream, &mut onward) => return,
        Ok(()) = silenced.changed() => {}
    }
    // Reading goes on, so the broker's bytes are acknowledged.
    let mut swallowed = [0; 4096];
    while matches!(stream.read(&mut swallowed).await, Ok(1..)) {}
}

//! The open connections of listeners that share a limit, and which of them are closed for new ones.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::timeout;

use super::activity::Activity;
use crate::metrics::IntGauge;

/// The open connections of some listeners, which share a limit.
///
/// Where there are too many, the one that has been idle for longest is closed for a new one: idle since its last
/// request ended, or since its start if it has made none. A connection whose request is being served stays.
///
/// While more than a quarter are strangers', without a request that succeeded, a stranger's is closed. So silent
/// callers shut nobody out: those who are served keep their connections, and a new caller has as long for its first
/// request as it takes to open a quarter of all connections anew.
///
/// The lock is taken when a connection opens or closes, not for requests.
pub struct Connections {
    permits: Arc<Semaphore>,
    /// Counts connections that open and requests that end, for the order of idle connections.
    ticks: AtomicU64,
    /// HTTP/2 connections whose TLS handshake is done.
    http2: AtomicUsize,
    open: Mutex<Open>,
    gauge: IntGauge,
}

#[derive(Default)]
struct Open {
    next_id: u64,
    all: HashMap<u64, OpenConnection>,
    /// Connections of each listener and client subnet, where that is limited.
    subnets: HashMap<(ListenerId, IpAddr), u32>,
    /// Idle connections with the tick of their last use, the oldest last, of a listener or of all. They are looked
    /// for together, since that takes a look at each connection.
    idle: HashMap<Option<ListenerId>, Vec<(u64, u64)>>,
}

struct OpenConnection {
    listener: ListenerId,
    activity: Arc<Activity>,
    /// Dropped for a shutdown; used to close it for a new one.
    stop: Option<oneshot::Sender<CloseIfIdle>>,
}

/// One of the listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenerId(u64);

/// The order to close now, unless a request is being served.
#[derive(Clone, Copy, Debug)]
pub struct CloseIfIdle;

/// A subnet has as many connections as it may have.
#[derive(Clone, Copy, Debug)]
pub struct SubnetFull;

/// How often it looks again for an idle connection where each has a request.
const RETRY: Duration = Duration::from_millis(50);
/// Strangers' connections are the first to be closed while they are more than one of so many.
const STRANGERS: usize = 4;
/// One of so many connections is noted as idle for each look at all of them.
const NOTED: usize = 16;
const MOST_NOTED: usize = 1024;
/// The most HTTP/2 streams of all connections that open while there are few.
const STREAMS: usize = 128 * 1024;
const LEAST_STREAMS: usize = 8;

impl Connections {
    /// No connections, of which there may be `most`. `gauge` counts those that are open.
    pub fn new(most: usize, gauge: IntGauge) -> Arc<Self> {
        let permits = Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)));
        let (ticks, http2, open) = (AtomicU64::new(0), AtomicUsize::new(0), Mutex::default());
        Arc::new(Self { permits, ticks, http2, open, gauge })
    }

    /// Adds a listener.
    pub fn add_listener(&self) -> ListenerId {
        ListenerId(self.tick())
    }

    /// The next number in the order of events.
    pub fn tick(&self) -> u64 {
        self.ticks.fetch_add(1, Ordering::Relaxed)
    }

    /// Counts an HTTP/2 connection until the guard is dropped. Returns the most concurrent streams that it may have, at
    /// most `most`: fewer where there are many such connections, so that the sum of their streams stays bounded.
    ///
    /// Connections without a complete handshake have no streams, and cost a stranger nothing: they don't count.
    pub fn count_http2(self: &Arc<Self>, most: u32) -> (u32, Http2Guard) {
        let count = self.http2.fetch_add(1, Ordering::Relaxed) + 1;
        let share = (STREAMS / count).max(LEAST_STREAMS);
        (most.min(u32::try_from(share).unwrap_or(u32::MAX)), Http2Guard(Arc::clone(self)))
    }

    /// Waits for a permit of the listener and one that all listeners share. Idle connections are closed; their number
    /// is counted by `on_closed`. `None` if the semaphores are closed, which they never are.
    pub async fn make_room(
        &self,
        listener: ListenerId,
        own: &Arc<Semaphore>,
        on_closed: impl Fn(),
    ) -> Option<[OwnedSemaphorePermit; 2]> {
        let own = self.permit(own, Some(listener), &on_closed).await?;
        let shared = self.permit(&self.permits, None, &on_closed).await?;
        Some([own, shared])
    }

    async fn permit(
        &self,
        permits: &Arc<Semaphore>,
        of: Option<ListenerId>,
        on_closed: impl Fn(),
    ) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = Arc::clone(permits).try_acquire_owned() {
            return Some(permit);
        }
        let mut waiting = pin!(Arc::clone(permits).acquire_owned());
        loop {
            if self.close_one(of) {
                on_closed();
            }
            if let Ok(permit) = timeout(RETRY, &mut waiting).await {
                return permit.ok();
            }
        }
    }

    /// Closes the connection of a listener, or of all, that has been idle for longest. Returns whether there is one.
    fn close_one(&self, of: Option<ListenerId>) -> bool {
        let mut open = self.open.lock();
        let Open { all, idle, .. } = &mut *open;
        let noted = idle.entry(of).or_default();
        for is_last_look in [false, true] {
            while let Some((used, id)) = noted.pop() {
                let Some(connection) = all.get_mut(&id) else { continue };
                if connection.activity.idle().is_some_and(|idle| idle.since == used)
                    && let Some(stop) = connection.stop.take()
                {
                    // It fails if the connection just ended.
                    let _ = stop.send(CloseIfIdle);
                    return true;
                }
            }
            if !is_last_look {
                *noted = longest_idle(all, of);
            }
        }
        false
    }

    /// Counts a connection of this subnet to a listener, where it may have `most` at once.
    pub fn count_subnet(
        self: &Arc<Self>,
        listener: ListenerId,
        subnet: IpAddr,
        most: u32,
    ) -> Result<SubnetGuard, SubnetFull> {
        let mut open = self.open.lock();
        let count = open.subnets.entry((listener, subnet)).or_default();
        if *count >= most {
            return Err(SubnetFull);
        }
        *count += 1;
        Ok(SubnetGuard { connections: Arc::clone(self), subnet: (listener, subnet) })
    }

    /// Adds a connection of a listener, which is counted for its subnet if that is limited.
    pub fn add(
        self: &Arc<Self>,
        listener: ListenerId,
        subnet: Option<SubnetGuard>,
        permits: [OwnedSemaphorePermit; 2],
    ) -> (OpenGuard, Arc<Activity>, oneshot::Receiver<CloseIfIdle>) {
        let mut open = self.open.lock();
        let id = open.next_id;
        open.next_id += 1;
        let (stop, stopped) = oneshot::channel();
        let activity = Arc::new(Activity::new(self.tick()));
        self.gauge.inc();
        open.all.insert(id, OpenConnection { listener, activity: Arc::clone(&activity), stop: Some(stop) });
        (OpenGuard { connections: Arc::clone(self), id, _subnet: subnet, _permits: permits }, activity, stopped)
    }

    /// Lets every connection of a listener finish its open requests.
    pub fn stop_all(&self, listener: ListenerId) {
        let mut open = self.open.lock();
        let of_listener = open.all.values_mut().filter(|connection| connection.listener == listener);
        of_listener.for_each(|connection| connection.stop = None);
    }
}

/// The connections that are to be closed next, the last one first.
fn longest_idle(all: &HashMap<u64, OpenConnection>, of: Option<ListenerId>) -> Vec<(u64, u64)> {
    let (mut known, mut strangers, mut count) = (Vec::new(), Vec::new(), 0);
    for (id, connection) in all.iter().filter(|(_, one)| of.is_none_or(|listener| one.listener == listener)) {
        count += 1;
        if let Some(idle) = connection.activity.idle().filter(|_| connection.stop.is_some()) {
            if idle.is_known { &mut known } else { &mut strangers }.push((idle.since, *id));
        }
    }
    let are_strangers_first = known.is_empty() || strangers.len() > count / STRANGERS;
    let mut idle = if are_strangers_first { strangers } else { known };
    let noted = (idle.len() / NOTED).clamp(1, MOST_NOTED);
    if idle.len() > noted {
        idle.select_nth_unstable(noted);
        idle.truncate(noted);
        idle.shrink_to_fit();
    }
    idle.sort_unstable_by(|one, other| other.cmp(one));
    idle
}

/// Removes a connection from the list, however its task ends.
pub struct OpenGuard {
    connections: Arc<Connections>,
    id: u64,
    _subnet: Option<SubnetGuard>,
    _permits: [OwnedSemaphorePermit; 2],
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.connections.open.lock().all.remove(&self.id);
        self.connections.gauge.dec();
    }
}

/// An HTTP/2 connection that counts until this is dropped.
pub struct Http2Guard(Arc<Connections>);

impl Drop for Http2Guard {
    fn drop(&mut self) {
        self.0.http2.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection that counts for its subnet until this is dropped.
pub struct SubnetGuard {
    connections: Arc<Connections>,
    subnet: (ListenerId, IpAddr),
}

impl Drop for SubnetGuard {
    fn drop(&mut self) {
        if let Entry::Occupied(mut count) = self.connections.open.lock().subnets.entry(self.subnet) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections(most: usize) -> Arc<Connections> {
        Connections::new(most, IntGauge::new("open", "Open connections.").expect("a sound declaration"))
    }

    type Added = (OpenGuard, Arc<Activity>, oneshot::Receiver<CloseIfIdle>);

    fn add(connections: &Arc<Connections>, listener: ListenerId) -> Added {
        let permit = || Arc::new(Semaphore::new(1)).try_acquire_owned().expect("a permit");
        connections.add(listener, None, [permit(), permit()])
    }

    fn is_told_to_close((_, _, stopped): &mut Added) -> bool {
        stopped.try_recv().is_ok()
    }

    #[test]
    fn longest_idle_gives_way_and_busy_ones_never() {
        let connections = connections(10);
        let [one, other] = [connections.add_listener(), connections.add_listener()];
        let mut first = add(&connections, one);
        let mut busy = add(&connections, one);
        let mut second = add(&connections, one);
        let mut apart = add(&connections, other);
        busy.1.begin();
        first.1.begin();
        first.1.end(connections.tick());
        assert!(connections.close_one(Some(one)));
        assert!(is_told_to_close(&mut second) && !is_told_to_close(&mut first) && !is_told_to_close(&mut apart));
        assert!(connections.close_one(None));
        assert!(is_told_to_close(&mut apart));
        assert!(connections.close_one(None));
        assert!(is_told_to_close(&mut first));
        assert!(!connections.close_one(None) && !is_told_to_close(&mut busy));
        busy.1.await_peer();
        assert!(connections.close_one(None));
        assert!(is_told_to_close(&mut busy));
    }

    #[test]
    fn strangers_give_way_first_while_they_are_many() {
        let connections = connections(100);
        let listener = connections.add_listener();
        let mut known: Vec<_> = (0..70).map(|_| add(&connections, listener)).collect();
        for connection in &known {
            connection.1.begin();
            connection.1.succeed();
            connection.1.end(connections.tick());
        }
        let mut strangers: Vec<_> = (0..30).map(|_| add(&connections, listener)).collect();
        for _ in 0..20 {
            let before: Vec<_> = strangers.iter_mut().map(is_told_to_close).collect();
            assert!(connections.close_one(None));
            let closed = strangers.iter_mut().position(is_told_to_close);
            let known = known.iter_mut().position(is_told_to_close);
            assert!(before.iter().all(|is_told_to_close| !is_told_to_close) && closed.is_some() != known.is_some());
            match closed {
                // The oldest, while they are more than a quarter.
                Some(place) => {
                    assert_eq!(place, 0);
                    drop(strangers.remove(0));
                }
                None => assert!(strangers.len() <= 26, "{}", strangers.len()),
            }
            // A new one takes its place.
            strangers.push(add(&connections, listener));
        }
        assert!(strangers.len() >= 25, "{}", strangers.len());
    }

    #[test]
    fn note_that_is_out_of_date_is_dropped() {
        let connections = connections(1000);
        let listener = connections.add_listener();
        let mut all: Vec<_> = (0..100).map(|_| add(&connections, listener)).collect();
        assert!(connections.close_one(None));
        assert!(is_told_to_close(&mut all[0]));
        // The next ones are noted already.
        for connection in &all[1..50] {
            connection.1.begin();
            connection.1.end(connections.tick());
        }
        drop(all.remove(50));
        assert!(connections.close_one(None));
        assert!(
            is_told_to_close(&mut all[50]) && all[1..50].iter_mut().all(|connection| !is_told_to_close(connection))
        );
    }

    #[test]
    fn streams_of_all_connections_are_bounded() {
        let connections = connections(1_000_000);
        let mut open = Vec::new();
        let mut sum = 0;
        for _ in 0..16_384 {
            let (streams, guard) = connections.count_http2(128);
            assert!((8..=128).contains(&streams));
            sum += streams as usize;
            open.push(guard);
        }
        assert!(sum < 4 * STREAMS, "{sum}");
        drop(open);
        // Silent sockets don't count.
        let listener = connections.add_listener();
        let _silent: Vec<_> = (0..10_000).map(|_| add(&connections, listener)).collect();
        assert_eq!(connections.count_http2(128).0, 128);
    }
}

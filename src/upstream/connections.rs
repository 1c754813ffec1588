//! The connections to Courier, and when new calls use other ones.
//!
//! A connection pool keeps a connection while it works. It does not see that the peer has stopped answering without a
//! reset, nor that the host's name leads to another machine by now. So there are *generations* of HTTP clients, each
//! with a pool. One retires at [`ConnectionSettings::max_age`], or when a connection of it seems dead. New calls then
//! use the next one; calls under way end on the old one, whose idle connections close.
//!
//! # When a connection seems dead
//!
//! A call is *late* after [`ConnectionSettings::late_after`], or twice the time of the slowest recent answer if that is
//! more: a slow Courier does not get each call twice. If the generation has just issued tokens, a late call is given up
//! with [`Cause::Lost`](super::Cause::Lost), so that a retry has the time to use another connection. In HTTP/2 calls share a connection, and
//! an answer to any of them shows that it works. On a generation that is new or has no recent token, Courier is as likely
//! the cause: the call goes on, and is reported as late, so that its flight can make another on the next generation.
//!
//! A lost call says nothing about Courier, so the circuit breaker ignores it. It is retried with a permit of its own,
//! but takes nothing from its party's retry budget.
//!
//! # When a shared connection breaks
//!
//! In HTTP/2 one call may break the connection of all, for example if a firewall resets it for one user id. The others
//! cannot tell that it was not theirs. So none is held against its token key or its party
//! ([`Cause::SharedClosed`](super::Cause::SharedClosed)), and each key becomes a *suspect*: calls for it have a connection
//! of their own until one succeeds, or for a minute. There a failure counts, and breaks no other call.
//! The same holds for calls that were lost on a shared connection. In HTTP/1.1 calls share none.
//!
//! # What bounds it
//!
//! Generations are [`ConnectionSettings::min_age`] apart, so calls that always hang cause one new connection in that
//! time. An old generation ends with its last call, so at most `timeout / min_age + 2` exist. A connection of a suspect
//! ends with its call, and [`Suspects`] are bounded.

use std::hash::Hash;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use reqwest::{Client, Version};

use super::failure::Failure;
use super::generation::Generation;
use super::http_client::{ClientTemplate, HttpClientError};
use super::settings::ConnectionSettings;
use super::suspects::Suspects;
use crate::clock::{Clock, Moment};

/// The connections of one workspace.
pub struct Connections {
    template: ClientTemplate,
    /// Makes a connection for each call.
    unpooled: Client,
    settings: ConnectionSettings,
    state: Mutex<State>,
    clock: Clock,
}

struct State {
    current: Arc<Generation>,
    /// The time of the slowest recent answer; each answer lowers it by an eighth at most.
    slowest: Duration,
    suspects: Suspects,
}

impl Connections {
    /// Creates the first generation, without a connection yet.
    pub fn new(template: ClientTemplate, settings: ConnectionSettings, clock: Clock) -> Result<Self, HttpClientError> {
        let unpooled = template.build_unpooled()?;
        // Before the first answer, calls over TLS are taken to share a connection.
        let is_shared = template.uses_tls();
        let current = Arc::new(Generation::new(template.build()?, settings.max_age, is_shared, clock.now()));
        let state = State { current, slowest: Duration::ZERO, suspects: Suspects::default() };
        Ok(Self { template, unpooled, settings, state: Mutex::new(state), clock })
    }

    /// Begins a call for this key on the current generation, or on a new one if that has retired.
    ///
    /// A suspect gets a generation of its own.
    pub fn check_out<K: Hash>(&self, key: K) -> Checkout<'_, K> {
        let max_age = self.settings.max_age;
        let mut state = self.state.lock();
        let now = self.clock.now();
        if state.suspects.contains(&key, now) {
            let generation = Arc::new(Generation::new(self.unpooled.clone(), max_age, false, now));
            return Checkout { connections: self, generation, key, is_alone: true, sent: now };
        }
        if state.current.is_retired(now) {
            let is_shared = state.current.is_shared();
            match self.template.build() {
                Ok(client) => state.current = Arc::new(Generation::new(client, max_age, is_shared, now)),
                Err(error) => {
                    tracing::warn!(%error, "cannot renew the HTTP client for Courier; the old one stays in use");
                    state.current.prolong(now + max_age);
                }
            }
        }
        Checkout { connections: self, generation: Arc::clone(&state.current), key, is_alone: false, sent: now }
    }

    fn late_after(&self) -> Duration {
        self.settings.late_after.max(2 * self.state.lock().slowest)
    }

    fn record_time(&self, time: Duration) {
        let slowest = &mut self.state.lock().slowest;
        *slowest = time.max(*slowest * 7 / 8);
    }
}

/// A call for a token key, and its generation.
pub struct Checkout<'a, K> {
    connections: &'a Connections,
    generation: Arc<Generation>,
    key: K,
    /// Whether no other call is on its connection.
    is_alone: bool,
    sent: Moment,
}

impl<K: Hash> Checkout<'_, K> {
    /// The client to make the call with.
    pub fn client(&self) -> &Client {
        self.generation.client()
    }

    /// When the call began.
    pub const fn sent(&self) -> Moment {
        self.sent
    }

    /// Waits for the head of the answer. Returns `None` when the connection seems dead.
    ///
    /// If that cannot be told from a slow Courier, it reports a late call; the next one uses another connection.
    pub async fn wait<T>(&self, head: impl Future<Output = T>, report_late: impl FnOnce()) -> Option<T> {
        let Connections { clock, settings, .. } = self.connections;
        let mut head = pin!(head);
        let mut late = self.sent + self.connections.late_after();
        loop {
            tokio::select! {
                biased;
                head = &mut head => return Some(head),
                () = clock.sleep_until(late) => {}
            }
            let (now, late_after) = (clock.now(), self.connections.late_after());
            late = self.generation.silent_since(self.sent) + late_after;
            if late <= now {
                if self.has_worked() {
                    return None;
                }
                self.generation.retire(settings.min_age, now);
                report_late();
                return Some(head.await);
            }
        }
    }

    /// Whether other calls may be on its connection.
    pub fn is_shared(&self) -> bool {
        !self.is_alone && self.generation.is_shared()
    }

    /// Whether the generation is not new and has just issued tokens.
    pub fn has_worked(&self) -> bool {
        self.generation.has_worked(self.sent, self.connections.settings.min_age)
    }

    /// Records that the head of the answer came.
    pub fn record_head(&self, version: Version) {
        let now = self.connections.clock.now();
        self.connections.record_time(now.since(self.sent));
        self.generation.record_head(version, now);
    }

    /// Records the end of the call.
    pub fn record(&self, failure: Option<&Failure>) {
        let ConnectionSettings { late_after, min_age, .. } = self.connections.settings;
        let now = self.connections.clock.now();
        let is_silent = now.since(self.generation.silent_since(self.sent)) >= late_after;
        self.generation.record(failure, is_silent, min_age, now);
        let suspects = &mut self.connections.state.lock().suspects;
        match failure {
            Some(failure) if self.is_shared() && failure.is_inconclusive() => suspects.insert(&self.key, now),
            None if self.is_alone => suspects.remove(&self.key),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::secrets::Secret;
    use crate::upstream::Cause;
    use crate::upstream::settings::CourierSettings;

    const SECOND: Duration = Duration::from_secs(1);
    const TIMEOUT: Duration = Duration::from_secs(5);

    fn connections() -> Connections {
        let connections = ConnectionSettings::for_timeout(TIMEOUT);
        let settings = CourierSettings {
            base_url: "https://courier.invalid".parse().expect("a URL"),
            api_key: Secret::new("key").expect("a key"),
            proxy: None,
            connect_timeout: TIMEOUT,
            timeout: TIMEOUT,
            connections,
            extra_roots: Vec::new(),
        };
        let template = ClientTemplate::new(&settings).expect("certificate authorities");
        Connections::new(template, connections, Clock::tokio()).expect("a client")
    }

    fn lost() -> Failure {
        Failure::Connect(Cause::Lost.into())
    }

    /// A call that is answered after this time.
    async fn answered(connections: &Connections, time: Duration, version: Version) -> Checkout<'_, &'static str> {
        let checkout = connections.check_out("user");
        match checkout.wait(tokio::time::sleep(time), || ()).await {
            Some(()) => {
                checkout.record_head(version);
                checkout.record(None);
            }
            None => checkout.record(Some(&lost())),
        }
        checkout
    }

    /// How long a call waits that gets no answer.
    async fn patience(connections: &Connections) -> Duration {
        let checkout = connections.check_out("user");
        let waited = tokio::time::timeout(TIMEOUT, checkout.wait(std::future::pending::<()>(), || ())).await;
        checkout.record(Some(&waited.map_or(Failure::Timeout, |_| lost())));
        connections.clock.now().since(checkout.sent())
    }

    fn is_current(checkout: &Checkout<'_, &'static str>) -> bool {
        Arc::ptr_eq(&checkout.generation, &checkout.connections.check_out("user").generation)
    }

    #[tokio::test(start_paused = true)]
    async fn late_call_is_given_up_on_a_connection_that_worked() {
        let connections = connections();
        let first = answered(&connections, SECOND, Version::HTTP_2).await;
        assert!(patience(&connections).await <= SECOND * 2);
        assert!(!is_current(&first));
        answered(&connections, SECOND / 2, Version::HTTP_2).await;
        assert_eq!(patience(&connections).await, TIMEOUT, "the connection is new");
    }

    #[tokio::test(start_paused = true)]
    async fn late_call_on_a_new_connection_goes_on_while_others_use_the_next() {
        let connections = connections();
        let (checkout, late) = (connections.check_out("user"), Cell::new(None));
        let head = checkout.wait(tokio::time::sleep(SECOND * 3), || late.set(Some(is_current(&checkout)))).await;
        assert_eq!((head, late.get()), (Some(()), Some(false)));
        checkout.record_head(Version::HTTP_2);
        checkout.record(None);
        assert!(!is_current(&checkout));
        // A slow Courier is known by now, so the next call is not late.
        let next = connections.check_out("user");
        assert_eq!(next.wait(tokio::time::sleep(SECOND * 3), || panic!("it is late")).await, Some(()));
    }

    #[tokio::test(start_paused = true)]
    async fn idle_generation_counts_as_new() {
        let connections = connections();
        answered(&connections, SECOND / 2, Version::HTTP_2).await;
        tokio::time::sleep(SECOND * 26).await;
        assert_eq!(patience(&connections).await, TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn slow_courier_gets_no_call_twice() {
        let connections = connections();
        // The first call is late: nothing is known yet.
        answered(&connections, SECOND * 2, Version::HTTP_11).await;
        for _ in 0..20 {
            let checkout = answered(&connections, SECOND * 2, Version::HTTP_11).await;
            assert!(is_current(&checkout));
        }
        assert!(patience(&connections).await >= SECOND * 4);
    }

    #[tokio::test(start_paused = true)]
    async fn failing_courier_is_not_taken_for_a_dead_connection() {
        let connections = connections();
        answered(&connections, SECOND, Version::HTTP_2).await;
        for _ in 0..4 {
            let checkout = connections.check_out("user");
            checkout.record_head(Version::HTTP_2);
            checkout.record(Some(&Failure::Unavailable(500)));
            assert!(is_current(&checkout));
        }
        assert_eq!(patience(&connections).await, TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn answers_show_that_a_shared_connection_works() {
        for (version, expected) in [(Version::HTTP_2, true), (Version::HTTP_11, false)] {
            let connections = connections();
            answered(&connections, SECOND / 2, version).await;
            tokio::time::sleep(SECOND).await;
            let hanging = connections.check_out("user");
            let others = async {
                for _ in 0..10 {
                    answered(&connections, SECOND / 2, version).await;
                }
            };
            let waits = tokio::select! {
                biased;
                _ = hanging.wait(std::future::pending::<()>(), || ()) => false,
                () = others => true,
            };
            assert_eq!(waits, expected, "{version:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn suspect_has_a_connection_of_its_own_until_a_call_succeeds() {
        for failure in [lost(), Failure::Connect(Cause::SharedClosed.into())] {
            let connections = connections();
            answered(&connections, SECOND / 10, Version::HTTP_2).await;
            connections.check_out("user").record(Some(&failure));
            assert!(connections.check_out("other").is_shared());
            let alone = connections.check_out("user");
            assert!(!alone.is_shared());
            alone.record(Some(&Failure::Connect(Cause::Closed.into())));
            assert!(!connections.check_out("user").is_shared(), "it failed again");
            alone.record(None);
            assert!(connections.check_out("user").is_shared());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn lost_http1_call_makes_no_suspect() {
        let connections = connections();
        answered(&connections, SECOND / 10, Version::HTTP_11).await;
        connections.check_out("user").record(Some(&lost()));
        assert!(!connections.check_out("user").is_alone);
    }

    #[tokio::test(start_paused = true)]
    async fn calls_that_always_hang_replace_one_generation_a_second() {
        let connections = connections();
        let mut generations = vec![answered(&connections, SECOND / 10, Version::HTTP_11).await.generation];
        for _ in 0..100 {
            let checkout = connections.check_out("user");
            checkout.record(Some(&lost()));
            if !generations.iter().any(|known| Arc::ptr_eq(known, &checkout.generation)) {
                generations.push(Arc::clone(&checkout.generation));
            }
            tokio::time::sleep(SECOND / 10).await;
        }
        assert!((10..=11).contains(&generations.len()), "{}", generations.len());
    }

    #[tokio::test(start_paused = true)]
    async fn generation_retires_after_two_minutes_at_most() {
        let connections = connections();
        let first = connections.check_out("user");
        tokio::time::sleep(SECOND * 89).await;
        assert!(is_current(&first));
        tokio::time::sleep(SECOND * 31).await;
        assert!(!is_current(&first));
    }
}

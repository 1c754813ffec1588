//! The keeper of the connection: one task that connects, beats and connects again.
//!
//! The client library has a connection manager of its own. It never left a half-open connection (277 of 277 calls
//! timed out within 20 s, while a new connection took 1 ms), a call took 525 ms in spite of a deadline of 50 ms while
//! it connected, and it does not follow a failover of Sentinel. Here a missed beat drops the connection.

use std::sync::Arc;
use std::time::Duration;

use redis::RedisResult;
use redis::aio::MultiplexedConnection;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use tracing::{info, warn};

use super::context::Context;
use super::endpoint::{self, Endpoints, describe};
use super::event::Event;
use super::link::{Link, View};
use super::membership::Membership;
use super::names::{NAMES, Names};
use super::sealer::Kind;
use super::user_connection::UserConnection;
use crate::clock::Moment;
use crate::policy::fleet::ServerTime;
use crate::policy::fleet::member::{BeatAnswer, DEADLINE, Member, Request, Standing, State};

/// The pauses between two attempts to connect: the first, and the longest. Each is up to twice as long as planned, so
/// that brokers do not come all at once.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// The time between two lines of the log while Redis is away.
const REMINDER: Duration = Duration::from_secs(60);

/// How many checks of a cluster's client fail before it is replaced.
const CHECKS: u32 = 3;

/// The oldest version that has all commands.
pub const OLDEST: (u32, u32) = (6, 2);

/// Connects, beats, and tells all other parts of it.
pub struct Keeper {
    endpoints: Endpoints,
    context: Arc<Context>,
    membership: Membership,
    watched: Watched,
    /// None before the first connection.
    names: Option<Names>,
    /// The number of connections until now.
    links: u64,
    /// Redis has forgotten everything, and the broker is not told yet.
    is_emptied: bool,
}

/// Where the keeper publishes.
pub struct Watched {
    pub standing: watch::Sender<Standing>,
    pub view: watch::Sender<View>,
    pub events: mpsc::Sender<Event>,
}

enum End {
    Lost(String),
    Stopped,
}

impl Keeper {
    /// A keeper that has not connected yet.
    pub const fn new(endpoints: Endpoints, context: Arc<Context>, membership: Membership, watched: Watched) -> Self {
        Self { endpoints, context, membership, watched, names: None, links: 0, is_emptied: false }
    }

    /// Keeps the connection until `stop` is dropped or told, then says goodbye.
    pub async fn run(mut self, mut member: Member, mut stop: oneshot::Receiver<()>) {
        let (mut pause, mut reminded) = (PAUSES.0, None);
        loop {
            let was = self.links;
            let why = match self.stay(&mut member, &mut stop).await {
                End::Lost(why) => why,
                End::Stopped => break,
            };
            let now = self.context.clock.now();
            member.on_lost(now);
            if self.links != was {
                pause = PAUSES.0;
            }
            self.remind(&why, &mut reminded, now);
            self.publish(&member, None, Some(why.into()));
            let wait = pause.mul_f64(1.0 + fastrand::f64());
            pause = (pause * 2).min(PAUSES.1);
            tokio::select! {
                () = self.context.clock.sleep_until(now + wait) => {}
                _ = &mut stop => break,
            }
        }
        member.on_lost(self.context.clock.now());
        self.publish(&member, None, Some("this broker has left".into()));
    }

    /// Connects, joins and beats. Returns when the connection is lost.
    async fn stay(&mut self, member: &mut Member, stop: &mut oneshot::Receiver<()>) -> End {
        let mut link = match self.connect(member).await {
            Ok(link) => link,
            Err(why) => return End::Lost(why),
        };
        let (mut is_new, mut missed) = (true, 0);
        loop {
            if let Some(Request::Beat { seen }) = member.poll(self.context.clock.now()) {
                let answer = match timeout(DEADLINE, self.membership.beat(&self.context, &mut link, seen)).await {
                    Ok(Ok(answer)) => answer,
                    Ok(Err(error)) => return End::Lost(describe(&error)),
                    Err(_) => return End::Lost("no answer within 250 ms".to_owned()),
                };
                match answer {
                    Some(BeatAnswer { members, .. }) => self.membership.members = members,
                    None => self.rename_if_taken(&mut link, seen).await,
                }
                member.on_beat(answer, self.context.clock.now());
                let State::Up = member.standing().state(self.context.clock.now()) else {
                    return End::Lost("the fleet was joined too long ago, or was forgotten".to_owned());
                };
                if std::mem::take(&mut is_new) {
                    info!(members = self.membership.members, "Redis is connected");
                }
                self.publish(member, Some(link.clone()), None);
                // Only now can tokens be landed again.
                if std::mem::take(&mut self.is_emptied) {
                    // A full channel has an older one, or its reader has gone.
                    let _ = self.watched.events.try_send(Event::Emptied);
                }
                // A master that was cut off from its Sentinels goes on to answer. There is time until the next beat.
                if timeout(DEADLINE, self.endpoints.has_moved(&link.server)).await.unwrap_or(false) {
                    return End::Lost("the Sentinels have named another master".to_owned());
                }
                self.check_users(&mut link, &mut missed).await;
            }
            tokio::select! {
                () = self.context.clock.sleep_until(member.next_wakeup()) => {}
                _ = &mut *stop => {
                    self.leave(member, link).await;
                    return End::Stopped;
                }
            }
        }
    }

    /// Takes another name if a process with the same one has joined, or else the two would replace each other for ever.
    ///
    /// A restart does the same to its ghost, which beats no more.
    async fn rename_if_taken(&mut self, link: &mut Link, seen: ServerTime) {
        if let Ok(Ok(true)) = timeout(DEADLINE, self.membership.is_taken(link, seen)).await {
            let name = self.membership.id.clone();
            warn!(name, "another broker has this name in the fleet: give each its own host name or admin.listen");
            self.membership.id = format!("{name} {:016x}", fastrand::u64(..));
        }
    }

    /// Replaces the client of a cluster after three checks without an answer. It follows the cluster by itself, but may
    /// hang on a node that does not answer.
    async fn check_users(&self, link: &mut Link, missed: &mut u32) {
        let UserConnection::Cluster(users) = &mut link.users else { return };
        let check = redis::cmd("GET").arg(NAMES).to_owned();
        match timeout(DEADLINE, check.query_async::<redis::Value>(users)).await {
            Ok(Ok(_)) => *missed = 0,
            Ok(Err(_)) | Err(_) => *missed += 1,
        }
        if *missed >= CHECKS
            && let Ok(Ok(users)) = timeout(DEADLINE, self.endpoints.connect_users(&link.connection)).await
        {
            (link.users, *missed) = (users, 0);
        }
    }

    /// Connects and joins the fleet.
    async fn connect(&mut self, member: &mut Member) -> Result<Link, String> {
        let server = self.endpoints.find().await?;
        let address = server.get_connection_info().addr().to_string();
        let failed = |error| format!("{address}: {}", describe(&error));
        let mut connection = endpoint::connect(&server).await.map_err(failed)?;
        let prepared = timeout(DEADLINE * 4, self.prepare(&mut connection)).await;
        let names = prepared.unwrap_or_else(|_| Err(endpoint::timed_out())).map_err(failed)?;
        let names = names.map_err(|why| format!("{address}: {why}"))?;
        let users = self.endpoints.connect_users(&connection).await.map_err(failed)?;
        self.links += 1;
        let mut link = Link { connection, users, names, server: server.clone(), number: self.links };
        let Some(Request::Join { share, members, largest }) = member.poll(self.context.clock.now()) else {
            return Err("not ready to join".to_owned());
        };
        let join = self.membership.join(&self.context, &mut link, share, (members, largest));
        let seen = timeout(DEADLINE, join).await.unwrap_or_else(|_| Err(endpoint::timed_out())).map_err(failed)?;
        member.on_joined(seen, self.context.clock.now());
        // It is alone no more, and not up yet.
        self.watched.standing.send_replace(member.standing());
        Ok(link)
    }

    /// Checks the version and agrees with the fleet on names. The inner error is for the operator.
    async fn prepare(&mut self, connection: &mut MultiplexedConnection) -> RedisResult<Result<Names, String>> {
        let server: String = redis::cmd("INFO").arg("server").query_async(connection).await?;
        let (oldest, oldest_minor) = OLDEST;
        if let Some(version) = version(&server).filter(|version| *version < OLDEST) {
            return Ok(Err(format!("Redis {}.{} is older than {oldest}.{oldest_minor}", version.0, version.1)));
        }
        let is_first_time = self.names.is_none();
        let Some(own) = self.names.clone().or_else(Names::draw) else {
            return Ok(Err("the system has no randomness".to_owned()));
        };
        let offered = self.context.sealer.seal(Kind::Names, &[], own.expose());
        let _: bool = redis::cmd("SETNX").arg(NAMES).arg(&offered).query_async(connection).await?;
        let mut sealed: Vec<u8> = redis::cmd("GET").arg(NAMES).query_async(connection).await?;
        let opened = self.context.sealer.open(Kind::Names, &[], &sealed);
        let Some(names) = opened.and_then(|secret| Names::new(&secret)) else {
            return Ok(Err("another key sealed it: no key of store.key_file opens it".to_owned()));
        };
        // Once in a process, so that two orders of the keys in files do not take turns.
        if is_first_time && !self.context.sealer.is_current(&sealed) {
            sealed = self.context.sealer.seal(Kind::Names, &[], names.expose());
            redis::cmd("SET").arg(NAMES).arg(&sealed).exec_async(connection).await?;
        }
        // No two seals are alike: it had to be written again.
        self.is_emptied |= !is_first_time && sealed != self.membership.sealed_names;
        self.membership.sealed_names = sealed;
        self.names = Some(names.clone());
        Ok(Ok(names))
    }

    async fn leave(&self, member: &Member, mut link: Link) {
        if let Some(Request::Leave { seen }) = member.leave() {
            // Without an answer the fleet counts this broker as missing for a minute, which is safe.
            let _ = timeout(DEADLINE, self.membership.leave(&self.context, &mut link, seen)).await;
        }
    }

    fn publish(&self, member: &Member, link: Option<Link>, why: Option<Arc<str>>) {
        self.context.metrics.store_state.set(if link.is_some() { 1.0 } else { 0.0 });
        self.watched.view.send_modify(|view| {
            (view.link, view.why, view.members) = (link, why, self.membership.members);
        });
        self.watched.standing.send_replace(member.standing());
    }

    fn remind(&self, why: &str, reminded: &mut Option<Moment>, now: Moment) {
        if reminded.is_none_or(|at| now.since(at) >= REMINDER) {
            *reminded = Some(now);
            warn!("Redis is away: {why}; users with a cached token are unaffected");
        }
    }
}

/// The first two numbers of the version in the answer to `INFO server`. Valkey has a compatible one.
pub fn version(info: &str) -> Option<(u32, u32)> {
    let version = info.lines().find_map(|line| line.strip_prefix("redis_version:"))?;
    let mut numbers = version.split('.').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_read_from_the_servers_information() {
        assert_eq!(version("# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\n"), Some((7, 0)));
        assert_eq!(version("redis_version:6.2"), Some((6, 2)));
        assert_eq!(version("nothing"), None);
    }
}

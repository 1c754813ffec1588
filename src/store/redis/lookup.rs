//! Lookups: what a flight finds in Redis, and what it leaves there.

use std::fmt;
use std::time::Duration;

use redis::{ErrorKind, RedisError, RedisResult, Value, from_redis_value};

use super::context::Context;
use super::event::TokenPrint;
use super::link::Link;
use super::names::RecordNames;
use super::sealer::Kind;
use super::user_connection::UserConnection;
use crate::clock::Moment;
use crate::metrics::LookOutcome;
use crate::policy::fleet::ServerTime;
use crate::policy::fleet::lease::{LIFE, Look};
use crate::policy::fleet::record::{Landing, RecordTimes};
use crate::store::codec::Fields;
use crate::store::identity::WorkspaceIdentity;
use crate::store::record::{ReadRecord, Record, StoredToken};
use crate::token::TokenKey;

/// The number of a flight, which its lease is known by.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FlightId(u128);

impl FlightId {
    /// Draws a number that no other flight of the fleet has.
    pub fn draw() -> Self {
        Self(fastrand::u128(..))
    }

    #[cfg(test)]
    pub(super) const fn of(number: u128) -> Self {
        Self(number)
    }
}

impl fmt::Debug for FlightId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "FlightId({self})")
    }
}

impl fmt::Display for FlightId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:032x}", self.0)
    }
}

/// The outcome of a look-up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opened {
    /// A token that lasts long enough. It may be served.
    Found(Box<Record>),
    /// None; the flight has the lease.
    Leased(OpenedAt),
    /// None; another flight has the lease for so long.
    Held(Duration),
    /// Redis is away, or did not answer in time.
    Away,
}

impl Opened {
    /// The same for the metrics.
    pub(super) const fn outcome(&self) -> LookOutcome {
        match self {
            Self::Found(_) => LookOutcome::Found,
            Self::Leased(_) => LookOutcome::Leased,
            Self::Held(_) => LookOutcome::Held,
            Self::Away => LookOutcome::Away,
        }
    }

    /// The same for the rules of leases; `None` if there is no answer.
    pub const fn look(&self) -> Option<Look> {
        match self {
            Self::Found(_) => Some(Look::Found),
            Self::Leased(_) => Some(Look::Leased),
            Self::Held(_) => Some(Look::Held),
            Self::Away => None,
        }
    }
}

/// Whether a request would be a call of the fleet if brokers called on a miss only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeastCall {
    /// It would, and counts for this broker.
    Ours,
    /// It would not: a request to another broker was, whose token would last for so long more.
    OfAnother(Duration),
}

/// When a flight looked, on the store's clock. Its token is landed with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenedAt {
    pub(super) time: ServerTime,
    /// A record that this broker must not serve, to be replaced.
    pub(super) useless: Option<Head>,
}

/// The times and the print of a stored record, which tell it from all others.
pub(super) type Head = [u8; 16 + 16 + 16];

/// The answer of a script about a token key.
enum Answer {
    /// A record: its head, and the sealed rest.
    Found(ServerTime, Head, Vec<u8>),
    Held(Duration),
    Leased(ServerTime),
}

/// Reads and writes the record of one token key.
pub struct Place<'a> {
    pub key: &'a TokenKey,
    pub names: RecordNames,
    pub identity: WorkspaceIdentity,
    pub context: &'a Context,
}

impl Place<'_> {
    /// Looks for a record that lasts for at least so long, and takes the lease if there is none.
    ///
    /// A record that does not open, or is of another token key, is as good as none.
    pub async fn open(&self, link: &mut Link, flight: FlightId, at_least: Duration) -> RedisResult<Opened> {
        let mut useless = None;
        loop {
            let sent = self.context.clock.now();
            match self.look(link, flight, at_least, useless).await? {
                Answer::Leased(time) => return Ok(Opened::Leased(OpenedAt { time, useless })),
                Answer::Held(time) => return Ok(Opened::Held(time)),
                Answer::Found(now, head, sealed) => {
                    match self.read(&head, &sealed, at_least, now, sent) {
                        Some((record, times)) => {
                            if !self.is_void_elsewhere(link, times, now, sent).await? {
                                return Ok(Opened::Found(Box::new(record)));
                            }
                        }
                        None => self.context.metrics.store_records_rejected_total.inc(),
                    }
                    // The next look finds another one, if it was replaced meanwhile.
                    useless = Some(head);
                }
            }
        }
    }

    async fn look(
        &self,
        link: &mut Link,
        flight: FlightId,
        at_least: Duration,
        useless: Option<Head>,
    ) -> RedisResult<Answer> {
        let mut open = self.context.scripts.open.key(&self.names.token);
        open.key(&self.names.lease).key(self.sign_outs(link).0);
        open.arg(flight.to_string()).arg(LIFE.as_millis() as u64).arg(at_least.as_micros() as u64);
        open.arg(head_argument(&useless));
        let answer: Vec<Value> = open.invoke_async(&mut link.users).await?;
        let mut fields = answer.into_iter();
        let mut next = || fields.next().unwrap_or(Value::Nil);
        let (found, now) = (from_redis_value::<String>(next())?, from_redis_value(next())?);
        let now = ServerTime::from_micros(now);
        match found.as_str() {
            "found" => {
                let record: Vec<u8> = from_redis_value(next())?;
                let (head, sealed) = record.split_first_chunk().ok_or_else(unexpected)?;
                Ok(Answer::Found(now, *head, sealed.to_vec()))
            }
            "held" => Ok(Answer::Held(Duration::from_millis(from_redis_value::<i64>(next())?.max(0).unsigned_abs()))),
            "leased" => Ok(Answer::Leased(now)),
            _ => Err(unexpected()),
        }
    }

    /// The sign-outs that a script can compare, and those in other hash slots of a cluster.
    fn sign_outs(&self, link: &Link) -> (&[String], &[String]) {
        let near = match link.users {
            UserConnection::Server(_) => self.names.sign_outs.len(),
            UserConnection::Cluster(_) => 1,
        };
        self.names.sign_outs.split_at(near)
    }

    /// Whether a sign-out in another hash slot makes a record void, which was read before at the time `now`.
    async fn is_void_elsewhere(
        &self,
        link: &mut Link,
        times: RecordTimes,
        now: ServerTime,
        sent: Moment,
    ) -> RedisResult<bool> {
        for name in self.sign_outs(link).1 {
            let ago: Option<u64> = self.context.scripts.signed_out_ago.key(name).invoke_async(&mut link.users).await?;
            let elapsed = self.context.clock.now().since(sent);
            if ago.is_some_and(|ago| !times.is_opened_after(Duration::from_micros(ago), now, elapsed)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Opens a record that the store gave at its time `now`, asked at `sent`; `None` if it must not be served.
    fn read(
        &self,
        head: &Head,
        sealed: &[u8],
        at_least: Duration,
        now: ServerTime,
        sent: Moment,
    ) -> Option<(Record, RecordTimes)> {
        let times = parse_times(head)?;
        let text = self.context.sealer.open(Kind::Record, &self.associated(head), sealed)?;
        let ReadRecord { identity, mut record, sent: stamp } = ReadRecord::decode(&mut Fields(&text))?;
        if record.key != *self.key || identity != self.identity {
            return None;
        }
        let StoredToken { token, life, .. } = record.token.take()?;
        let by_unix = (stamp?.unix + life).saturating_sub(self.context.clock.unix());
        // The script has compared the sign-outs that it can read.
        let left = times.serves_for([], now, by_unix).filter(|left| *left >= at_least)?;
        // The call was sent after the record was opened, and the store answered after `sent`.
        let sent = sent - life.saturating_sub(left);
        record.token = Some(StoredToken { token, sent, life });
        Some((record, times))
    }

    /// The time of a call that was sent without a look, on the store's clock, or a little earlier.
    pub async fn opened_at(&self, link: &mut Link, sent: Moment) -> RedisResult<OpenedAt> {
        let now: u64 = self.context.scripts.now.key(&self.names.token).invoke_async(&mut link.users).await?;
        // The answer came after its time was read, so the result never lies after the call.
        let past = self.context.clock.now().since(sent).as_micros();
        let time = now.saturating_sub(u64::try_from(past).unwrap_or(u64::MAX));
        Ok(OpenedAt { time: ServerTime::from_micros(time), useless: None })
    }

    /// Stores a record that was opened then, unless the stored one lasts as long, and gives the lease back.
    ///
    /// The lease may have lapsed, so another flight may have replaced the record that was of no use.
    /// Sign-outs in other hash slots of a cluster are not compared: they make the record void when it is read.
    pub async fn land(
        &self,
        link: &mut Link,
        flight: FlightId,
        opened: OpenedAt,
        record: &Record,
    ) -> RedisResult<Landing> {
        let Some(stored) = self.write(opened.time, record) else { return Ok(Landing::Refused) };
        let mut land = self.context.scripts.land.key(&self.names.token);
        land.key(&self.names.lease).key(&self.names.rejected).key(self.sign_outs(link).0);
        land.arg(flight.to_string()).arg(stored).arg(head_argument(&opened.useless));
        let landing: String = land.invoke_async(&mut link.users).await?;
        match landing.as_str() {
            "stored" => Ok(Landing::Stored),
            "kept" => Ok(Landing::Kept),
            "refused" => Ok(Landing::Refused),
            _ => Err(unexpected()),
        }
    }

    /// The record as it is stored; `None` without a token.
    fn write(&self, opened: ServerTime, record: &Record) -> Option<Vec<u8>> {
        let token = record.token.as_ref()?;
        let times = RecordTimes::new(opened, token.life);
        let mut stored = format!("{:016}{:016}", times.ends.as_micros(), times.opened.as_micros()).into_bytes();
        stored.extend_from_slice(&TokenPrint::of(&token.token).0);
        let mut text = Vec::with_capacity(1024);
        record.encode(&mut text, self.identity, self.context.clock);
        stored.extend_from_slice(&self.context.sealer.seal(Kind::Record, &self.associated(&stored), &text));
        Some(stored)
    }

    /// Binds a record to its name, times and print, which Redis could otherwise change.
    fn associated(&self, head: &[u8]) -> Vec<u8> {
        [self.names.token.as_bytes(), head].concat()
    }

    /// Counts a call of a fleet without renewals, whose token would last for so long, unless one has been counted.
    pub async fn count_least(&self, link: &mut Link, life: Duration) -> RedisResult<LeastCall> {
        let mut commands = redis::pipe();
        let life = u64::try_from(life.as_millis()).unwrap_or(u64::MAX).max(1);
        commands.cmd("SET").arg(&self.names.least).arg(1).arg("NX").arg("PX").arg(life);
        commands.cmd("PTTL").arg(&self.names.least);
        let (counted, left): (Option<String>, i64) = commands.query_async(&mut link.users).await?;
        let of_another = LeastCall::OfAnother(Duration::from_millis(left.max(0).unsigned_abs()));
        Ok(if counted.is_some() { LeastCall::Ours } else { of_another })
    }

    /// Renews the lease; returns whether it was still this flight's.
    pub async fn renew(&self, link: &mut Link, flight: FlightId) -> RedisResult<bool> {
        let mut renew = self.context.scripts.renew.key(&self.names.lease);
        renew.arg(flight.to_string()).arg(LIFE.as_millis() as u64).invoke_async(&mut link.users).await
    }

    /// Gives the lease back.
    pub async fn release(&self, link: &mut Link, flight: FlightId) -> RedisResult<()> {
        let mut release = self.context.scripts.release.key(&self.names.lease);
        release.arg(flight.to_string()).invoke_async(&mut link.users).await
    }
}

/// A head for a script; empty without one.
fn head_argument(head: &Option<Head>) -> &[u8] {
    head.as_ref().map_or(&[], |head| head)
}

fn unexpected() -> RedisError {
    (ErrorKind::UnexpectedReturnType, "the script gave another answer").into()
}

fn parse_times(head: &Head) -> Option<RecordTimes> {
    let time = |digits: &[u8]| {
        let digits = std::str::from_utf8(digits).ok()?;
        digits.parse().ok().map(ServerTime::from_micros)
    };
    Some(RecordTimes { ends: time(&head[..16])?, opened: time(&head[16..32])? })
}

//! Reads the events of other brokers, on a connection of its own: the read blocks.
//!
//! Published messages would be lost while a broker connects; a stream is read from where one stopped.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use redis::RedisResult;
use redis::aio::MultiplexedConnection;
use redis::streams::{StreamId, StreamReadReply};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tracing::debug;

use super::context::Context;
use super::endpoint::{self, describe};
use super::event::Event;
use super::link::{Link, View};
use super::names::EVENTS;

/// How long a read waits for an event, in milliseconds, and how long the reader waits for its answer.
const BLOCK: (u32, Duration) = (1000, Duration::from_secs(2));

/// How many milliseconds before the last event a new connection reads: a server that takes over may have a clock that
/// is behind.
const OVERLAP: u64 = 10_000;

/// The most events of one read.
const BATCH: u32 = 1000;

const PAUSE: Duration = Duration::from_millis(250);

/// The id of an event: milliseconds of the store's clock, and a number.
type EventId = (u64, u64);

pub struct Reader {
    pub context: Arc<Context>,
    pub view: watch::Receiver<View>,
    pub events: mpsc::Sender<Event>,
    last: EventId,
    /// The events of the last [`OVERLAP`], to know duplicates by.
    seen: BTreeSet<EventId>,
}

impl Reader {
    pub const fn new(context: Arc<Context>, view: watch::Receiver<View>, events: mpsc::Sender<Event>) -> Self {
        Self { context, view, events, last: (0, 0), seen: BTreeSet::new() }
    }

    /// Reads while somebody takes the events.
    pub async fn run(mut self) {
        let mut view = self.view.clone();
        loop {
            let Ok(link) = view.wait_for(|view| view.link.is_some()).await.map(|view| view.link.clone()) else {
                return;
            };
            let Some(link) = link else { continue };
            let is_other = |view: &View| view.link.as_ref().is_none_or(|other| other.number != link.number);
            let lost = tokio::select! {
                lost = self.read_from(&link) => lost,
                left = view.wait_for(is_other) => if left.is_ok() { continue } else { return },
            };
            match lost {
                Ok(()) => return,
                Err(why) => debug!("the reader of events connects again: {why}"),
            }
            self.context.clock.sleep_until(self.context.clock.now() + PAUSE).await;
        }
    }

    /// Reads until the connection fails, or nobody takes the events.
    async fn read_from(&mut self, link: &Link) -> Result<(), String> {
        let mut connection = endpoint::connect(&link.server).await.map_err(|error| describe(&error))?;
        let mut now = link.connection.clone();
        let now: (u64, u64) = within(redis::cmd("TIME").query_async(&mut now)).await?;
        let start = now.0 * 1000 + now.1 / 1000;
        // At the start this broker has no tokens yet that an earlier sign-out could make void.
        let last = if self.last == (0, 0) { start } else { self.last.0.min(start) };
        let mut from = (last.saturating_sub(OVERLAP), 0);
        loop {
            let read = within(read(&mut connection, from)).await?;
            for entry in read {
                let Some(id) = parse_id(&entry.id) else { continue };
                from = id;
                if self.is_new(id)
                    && let Some(event) = self.open(&entry)
                    && self.events.send(event).await.is_err()
                {
                    return Ok(());
                }
            }
        }
    }

    /// Records an event; returns whether it was not there before.
    fn is_new(&mut self, id: EventId) -> bool {
        self.last = id;
        let is_new = self.seen.insert(id);
        self.seen = self.seen.split_off(&(id.0.saturating_sub(2 * OVERLAP), 0));
        is_new
    }

    fn open(&self, entry: &StreamId) -> Option<Event> {
        Event::open(&self.context.sealer, &entry.get::<Vec<u8>>("e")?)
    }
}

async fn read(connection: &mut MultiplexedConnection, from: EventId) -> RedisResult<Vec<StreamId>> {
    let mut command = redis::cmd("XREAD");
    command.arg("COUNT").arg(BATCH).arg("BLOCK").arg(BLOCK.0);
    command.arg("STREAMS").arg(EVENTS).arg(format!("{}-{}", from.0, from.1));
    let reply: Option<StreamReadReply> = command.query_async(connection).await?;
    Ok(reply.into_iter().flat_map(|reply| reply.keys).flat_map(|stream| stream.ids).collect())
}

async fn within<T>(answer: impl Future<Output = RedisResult<T>>) -> Result<T, String> {
    let answer = timeout(BLOCK.1, answer).await.map_err(|_| "no answer".to_owned())?;
    answer.map_err(|error| describe(&error))
}

fn parse_id(id: &str) -> Option<EventId> {
    let (millis, number) = id.split_once('-')?;
    Some((millis.parse().ok()?, number.parse().ok()?))
}

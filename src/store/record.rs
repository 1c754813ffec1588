//! The record of a token key in a store.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use super::codec::{Fields, put_bytes, put_text};
use super::identity::WorkspaceIdentity;
use crate::clock::{Clock, Moment, Reading, Stamp};
use crate::token::{Token, TokenKey, WorkspaceName};

/// The record of a token key in a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The token key.
    pub key: TokenKey,
    /// Its token, if there is one that is still valid.
    pub token: Option<StoredToken>,
    /// Its demand history, encoded; the store does not look into it.
    pub demand: Bytes,
    /// The names of the clients that it is kept for; `""` stands for sessions.
    pub owners: Vec<Box<str>>,
}

/// A token with its times.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredToken {
    /// The token.
    pub token: Token,
    /// When its request was sent to Courier.
    pub sent: Moment,
    /// Its life from then on.
    pub life: Duration,
}

impl fmt::Debug for StoredToken {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("StoredToken").field("life", &self.life).finish_non_exhaustive()
    }
}

/// A part of what is in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A token key's record.
    Record(Record),
    /// A workspace's learned model, encoded; the store does not look into it.
    Model(WorkspaceName, Bytes),
}

/// A record as it was read: its times are those of the process that wrote it.
pub(super) struct ReadRecord {
    pub identity: WorkspaceIdentity,
    pub sent: Option<Stamp>,
    /// With a token that was sent at an unknown moment.
    pub record: Record,
}

impl Record {
    pub(super) fn encode(&self, out: &mut Vec<u8>, identity: WorkspaceIdentity, clock: Clock) {
        out.extend_from_slice(&identity.0);
        put_text(out, &self.key.to_text());
        match &self.token {
            None => out.push(0),
            Some(stored) => {
                out.push(1);
                encode_stamp(out, clock.stamp(stored.sent));
                put_nanos(out, stored.life);
                put_text(out, stored.token.expose());
            }
        }
        put_bytes(out, &self.demand);
        for owner in &self.owners {
            put_text(out, owner);
        }
    }
}

impl ReadRecord {
    pub(super) fn decode(fields: &mut Fields<'_>) -> Option<Self> {
        let identity = WorkspaceIdentity(fields.array()?);
        let key = TokenKey::parse(fields.text()?)?;
        let (sent, token) = match fields.u8()? {
            0 => (None, None),
            1 => {
                let (sent, life) = (decode_stamp(fields)?, Duration::from_nanos(fields.u64()?));
                let token = Token::new(fields.text()?).ok()?;
                (Some(sent), Some(StoredToken { token, sent: Moment::NEVER, life }))
            }
            _ => return None,
        };
        let demand = Bytes::copy_from_slice(fields.bytes()?);
        let mut owners = Vec::new();
        while !fields.is_empty() {
            owners.push(fields.text()?.into());
        }
        Some(Self { identity, sent, record: Record { key, token, demand, owners } })
    }

    /// Gives the token its moment by this process's clock. A token that has expired, or that was sent in the
    /// future by any clock, is left out.
    ///
    /// `behind` is how far the Unix clock was set back at least since the store was written.
    pub(super) fn restore(mut self, clocks: &Reading, behind: Duration) -> Record {
        let sent = self.sent.and_then(|sent| clocks.restore(sent)).map(|sent| sent - behind);
        self.record.token = self.record.token.zip(sent).and_then(|(token, sent)| {
            let is_valid = sent + token.life > clocks.now;
            is_valid.then_some(StoredToken { sent, ..token })
        });
        self.record
    }
}

fn encode_stamp(out: &mut Vec<u8>, stamp: Stamp) {
    put_nanos(out, stamp.unix);
    match stamp.boot {
        None => out.push(0),
        Some((boot, since)) => {
            out.push(1);
            out.extend_from_slice(&boot);
            put_nanos(out, since);
        }
    }
}

fn decode_stamp(fields: &mut Fields<'_>) -> Option<Stamp> {
    let unix = Duration::from_nanos(fields.u64()?);
    let boot = match fields.u8()? {
        0 => None,
        1 => Some((fields.array()?, Duration::from_nanos(fields.u64()?))),
        _ => return None,
    };
    Some(Stamp { unix, boot })
}

fn put_nanos(out: &mut Vec<u8>, length: Duration) {
    // Ends in the year 2554.
    let nanos = u64::try_from(length.as_nanos()).unwrap_or(u64::MAX);
    out.extend_from_slice(&nanos.to_be_bytes());
}

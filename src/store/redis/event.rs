//! Events: what one broker tells the others.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};

use super::sealer::{Kind, Sealer};
use crate::store::codec::{Fields, put_text};
use crate::token::{Token, TokenKey, WorkspaceName};

/// An act of another broker, or a change of Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A user was signed out; all users of the workspace if there is none.
    SignedOut {
        /// The name of the workspace.
        workspace: WorkspaceName,
        /// The user.
        user: Option<Box<str>>,
    },
    /// Courier rejected a token.
    Rejected {
        /// Its token key.
        key: TokenKey,
        /// Its print.
        print: TokenPrint,
    },
    /// Courier answered 429: no broker calls for so long.
    Throttled {
        /// The name of the workspace.
        workspace: WorkspaceName,
        /// The pause.
        pause: Duration,
    },
    /// Redis has forgotten everything. Each broker lands the tokens that it has.
    Emptied,
}

/// A digest of a token, which tells tokens apart and reveals nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TokenPrint(pub(super) [u8; 16]);

impl TokenPrint {
    /// The print of a token.
    pub fn of(token: &Token) -> Self {
        let mut print = [0; 16];
        print.copy_from_slice(&digest(&SHA256, token.expose().as_bytes()).as_ref()[..16]);
        Self(print)
    }
}

const SIGNED_OUT: u8 = 1;
const REJECTED: u8 = 2;
const THROTTLED: u8 = 3;

impl Event {
    /// The sealed event of this process; `None` if it is not for others.
    pub fn seal(&self, sealer: &Sealer) -> Option<Vec<u8>> {
        let mut text = sealer.run().to_vec();
        match self {
            Self::SignedOut { workspace, user } => {
                text.push(SIGNED_OUT);
                put_text(&mut text, workspace.as_str());
                if let Some(user) = user {
                    put_text(&mut text, user);
                }
            }
            Self::Rejected { key, print } => {
                text.push(REJECTED);
                put_text(&mut text, &key.to_text());
                text.extend_from_slice(&print.0);
            }
            Self::Throttled { workspace, pause } => {
                text.push(THROTTLED);
                put_text(&mut text, workspace.as_str());
                text.extend_from_slice(&u64::try_from(pause.as_millis()).unwrap_or(u64::MAX).to_be_bytes());
            }
            Self::Emptied => return None,
        }
        Some(sealer.seal(Kind::Event, &[], &text))
    }

    /// Opens an event of another process; `None` if it is one of this process, or none.
    pub fn open(sealer: &Sealer, sealed: &[u8]) -> Option<Self> {
        let text = sealer.open(Kind::Event, &[], sealed)?;
        let mut fields = Fields(&text);
        if fields.array()? == *sealer.run() {
            return None;
        }
        let workspace = |fields: &mut Fields<'_>| WorkspaceName::new(fields.text()?).ok();
        let event = match fields.u8()? {
            SIGNED_OUT => {
                let workspace = workspace(&mut fields)?;
                let user = if fields.is_empty() { None } else { Some(fields.text()?.into()) };
                Self::SignedOut { workspace, user }
            }
            REJECTED => Self::Rejected { key: TokenKey::parse(fields.text()?)?, print: TokenPrint(fields.array()?) },
            THROTTLED => {
                Self::Throttled { workspace: workspace(&mut fields)?, pause: Duration::from_millis(fields.u64()?) }
            }
            _ => return None,
        };
        fields.is_empty().then_some(event)
    }
}

//! Operations: the contents of frames.

use std::collections::HashMap;

use bytes::Bytes;

use crate::clock::Clock;
use crate::store::codec::{Fields, put_bytes, put_text};
use crate::store::identity::WorkspaceIdentity;
use crate::store::record::{Item, ReadRecord};
use crate::token::{TokenKey, WorkspaceName};

/// The identities of the configured workspaces.
pub type Identities = HashMap<WorkspaceName, WorkspaceIdentity>;

/// A change of what a store holds.
pub enum Operation {
    /// Replaces a record or a model.
    Keep(Item),
    /// Removes the record of a token key.
    ForgetKey(TokenKey),
    /// Removes the records of all token keys with this user.
    ForgetUser { workspace: Box<str>, user: Box<str> },
    /// Removes all records of a workspace.
    ForgetWorkspace(Box<str>),
    /// Changes the identity of a workspace for the operations after it. It is not written.
    Identify(WorkspaceName, WorkspaceIdentity),
    /// Tells a process that follows the log that operations before this one are missing.
    Lost,
}

/// An operation as it was read.
pub enum ReadOperation {
    Record(ReadRecord),
    Model(WorkspaceName, WorkspaceIdentity, Bytes),
    ForgetKey(TokenKey),
    ForgetUser { workspace: Box<str>, user: Box<str> },
    ForgetWorkspace(Box<str>),
    Lost,
}

const RECORD: u8 = 1;
const MODEL: u8 = 2;
const FORGET_KEY: u8 = 3;
const FORGET_USER: u8 = 4;
const FORGET_WORKSPACE: u8 = 5;
const LOST: u8 = 6;

impl Operation {
    /// Appends the operation. Returns false if there is nothing to write.
    pub fn encode(&self, out: &mut Vec<u8>, identities: &Identities, clock: Clock) -> bool {
        match self {
            Self::Keep(item) => return encode_item(item, out, identities, clock),
            Self::ForgetKey(key) => {
                out.push(FORGET_KEY);
                put_text(out, &key.to_text());
            }
            Self::ForgetUser { workspace, user } => {
                out.push(FORGET_USER);
                put_text(out, workspace);
                put_text(out, user);
            }
            Self::ForgetWorkspace(workspace) => {
                out.push(FORGET_WORKSPACE);
                put_text(out, workspace);
            }
            Self::Identify(..) => return false,
            Self::Lost => out.push(LOST),
        }
        true
    }
}

/// Appends the operation that keeps an item. Returns false if its workspace is none of these.
pub fn encode_item(item: &Item, out: &mut Vec<u8>, identities: &Identities, clock: Clock) -> bool {
    match item {
        Item::Record(record) => {
            let Some(identity) = identities.get(record.key.workspace()) else { return false };
            out.push(RECORD);
            record.encode(out, *identity, clock);
        }
        Item::Model(workspace, model) => {
            let Some(identity) = identities.get(workspace) else { return false };
            out.push(MODEL);
            out.extend_from_slice(&identity.0);
            put_text(out, workspace.as_str());
            put_bytes(out, model);
        }
    }
    true
}

impl ReadOperation {
    /// Reads an operation; `None` if it is none.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        let operation = match fields.u8()? {
            RECORD => Self::Record(ReadRecord::decode(&mut fields)?),
            MODEL => {
                let identity = WorkspaceIdentity(fields.array()?);
                let workspace = WorkspaceName::new(fields.text()?).ok()?;
                Self::Model(workspace, identity, Bytes::copy_from_slice(fields.bytes()?))
            }
            FORGET_KEY => Self::ForgetKey(TokenKey::parse(fields.text()?)?),
            FORGET_USER => Self::ForgetUser { workspace: fields.text()?.into(), user: fields.text()?.into() },
            FORGET_WORKSPACE => Self::ForgetWorkspace(fields.text()?.into()),
            LOST => Self::Lost,
            _ => return None,
        };
        fields.is_empty().then_some(operation)
    }
}

//! Names in Redis, in which no user, scope or workspace can be read.
//!
//! A name is an HMAC with a key of its own, which the fleet keeps in Redis, sealed. So a rotation of `store.key_file`
//! changes no name: the tokens and, above all, the sign-outs are found as before.

use aws_lc_rs::{hmac, rand};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::store::identity::WorkspaceIdentity;
use crate::token::TokenKey;

/// The stream of events.
pub const EVENTS: &str = "ctb:{f}:e";
/// The members.
pub const MEMBERS: &str = "ctb:{f}:m";
/// The sealed key of the names.
pub const NAMES: &str = "ctb:{f}:k";

/// The names of one fleet. Cheap to clone.
#[derive(Clone)]
pub struct Names {
    key: hmac::Key,
    secret: [u8; Self::KEY],
}

/// The names of what belongs to a token key. In a cluster, the first four have the hash slot of its first user.
#[derive(Debug)]
pub struct RecordNames {
    pub token: String,
    pub lease: String,
    pub rejected: String,
    pub least: String,
    /// The sign-outs of each of its users, in order, and of the workspace. The first one has the same hash slot.
    pub sign_outs: Vec<String>,
}

impl Names {
    /// The length of the key, in bytes.
    pub const KEY: usize = 32;

    /// The names with this key; `None` if it has another length.
    pub fn new(secret: &[u8]) -> Option<Self> {
        let secret: [u8; Self::KEY] = secret.try_into().ok()?;
        Some(Self { key: hmac::Key::new(hmac::HMAC_SHA256, &secret), secret })
    }

    /// Draws a key; `None` if the system has no randomness.
    pub fn draw() -> Option<Self> {
        let mut secret = [0; Self::KEY];
        rand::fill(&mut secret).ok()?;
        Self::new(&secret)
    }

    /// The key, to be sealed.
    pub const fn expose(&self) -> &[u8; Self::KEY] {
        &self.secret
    }

    /// The names of a token key, which differ for workspaces that are pointed elsewhere.
    pub fn record(&self, key: &TokenKey, identity: WorkspaceIdentity) -> RecordNames {
        let workspace = key.workspace();
        let first = self.tag(b"user", &[workspace.as_bytes(), key.users().next().unwrap_or_default().as_bytes()]);
        let name = self.tag(b"token", &[&identity.0, key.to_text().as_bytes()]);
        let mut sign_outs: Vec<_> = key.users().map(|user| self.sign_out(workspace, Some(user))).collect();
        sign_outs.push(self.sign_out(workspace, None));
        RecordNames {
            token: format!("ctb:{{{first}}}:t:{name}"),
            lease: format!("ctb:{{{first}}}:l:{name}"),
            rejected: format!("ctb:{{{first}}}:x:{name}"),
            least: format!("ctb:{{{first}}}:c:{name}"),
            sign_outs,
        }
    }

    /// The sign-out of a user, or of all users of a workspace. The latter is where the members are: in a cluster no
    /// further node has to answer each look.
    pub fn sign_out(&self, workspace: &str, user: Option<&str>) -> String {
        match user {
            Some(user) => format!("ctb:{{{}}}:n", self.tag(b"user", &[workspace.as_bytes(), user.as_bytes()])),
            None => format!("ctb:{{f}}:n:{}", self.tag(b"workspace", &[workspace.as_bytes()])),
        }
    }

    /// The bucket of a workspace. It is where the members are: one that beats can take permits.
    pub fn bucket(&self, workspace: &str) -> String {
        format!("ctb:{{f}}:b:{}", self.tag(b"budget", &[workspace.as_bytes()]))
    }

    /// A member's field.
    pub fn member(&self, id: &str) -> String {
        self.tag(b"member", &[id.as_bytes()])
    }

    fn tag(&self, kind: &[u8], parts: &[&[u8]]) -> String {
        let mut context = hmac::Context::with_key(&self.key);
        for part in [&[kind], parts].concat() {
            // With its length, so that no two lists of parts are one text.
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        URL_SAFE_NO_PAD.encode(&context.sign().as_ref()[..16])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::{Lifetime, ScopeClaim, WorkspaceName};
    use std::collections::BTreeSet;

    fn key(workspace: &str, claim: &str) -> TokenKey {
        let workspace = WorkspaceName::new(workspace).expect("a name");
        TokenKey::new(&workspace, &ScopeClaim::parse(claim).expect("a claim"), Lifetime::MAX)
    }

    #[test]
    fn names_of_a_user_share_a_hash_slot_and_show_nothing() {
        let names = Names::new(&[7; 32]).expect("a key");
        let record = names.record(&key("eu", "user_id:anna user_id:bert inbox:read"), WorkspaceIdentity([1; 16]));
        let slot = |name: &str| name[..name.find('}').expect("a slot")].to_owned();
        let all = [&record.token, &record.lease, &record.rejected, &record.least, &record.sign_outs[0]];
        assert_eq!(all.map(|name| slot(name)).into_iter().collect::<BTreeSet<_>>().len(), 1);
        assert_eq!(record.sign_outs[1], names.sign_out("eu", Some("bert")));
        assert_eq!(record.sign_outs[2], names.sign_out("eu", None));
        let text = format!("{record:?}{}{}", names.bucket("eu"), names.member("host"));
        for hidden in ["anna", "bert", "inbox", "host", "eu"] {
            assert!(!text.contains(&format!(":{hidden}")), "{text}");
        }
    }

    #[test]
    fn name_depends_on_each_part() {
        let of = |secret, key: &TokenKey, identity| {
            Names::new(&[secret; 32]).expect("a key").record(key, WorkspaceIdentity([identity; 16])).token
        };
        let all = [
            of(1, &key("eu", "user_id:a s"), 1),
            of(2, &key("eu", "user_id:a s"), 1),
            of(1, &key("us", "user_id:a s"), 1),
            of(1, &key("eu", "user_id:b s"), 1),
            of(1, &key("eu", "user_id:a t"), 1),
            of(1, &key("eu", "user_id:a s"), 2),
        ];
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
    }
}

//! The identity of a workspace in a store.

use std::fmt;

use aws_lc_rs::digest::{Context, SHA256};

use crate::secrets::Secret;
use crate::token::WorkspaceName;

/// A digest of what a workspace's tokens depend on: its name, its base URL and perhaps its API key.
///
/// A store keeps it with each record. A record of another identity is not loaded: a workspace that was
/// pointed elsewhere between two starts finds nothing. Stores seal it, so a plain digest is enough.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct WorkspaceIdentity(pub(super) [u8; Self::LEN]);

impl WorkspaceIdentity {
    pub(super) const LEN: usize = 16;

    /// The identity of a workspace. `api_key` is for workspaces that drop their tokens with their API key.
    pub fn new(name: &WorkspaceName, base_url: &str, api_key: Option<&Secret>) -> Self {
        let mut context = Context::new(&SHA256);
        for part in [name.as_str(), base_url, api_key.map_or("", Secret::expose)] {
            // With its length, so that no two lists of parts are one text.
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part.as_bytes());
        }
        let mut identity = [0; Self::LEN];
        identity.copy_from_slice(&context.finish().as_ref()[..Self::LEN]);
        Self(identity)
    }
}

impl fmt::Debug for WorkspaceIdentity {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("WorkspaceIdentity")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_covers_name_base_url_and_api_key() {
        let name = |name| WorkspaceName::new(name).expect("a name");
        let [one, two] = ["pk_one", "pk_two"].map(|key| Secret::new(key).expect("a secret"));
        let all = [
            WorkspaceIdentity::new(&name("a"), "https://one", None),
            WorkspaceIdentity::new(&name("b"), "https://one", None),
            WorkspaceIdentity::new(&name("a"), "https://two", None),
            WorkspaceIdentity::new(&name("a"), "https://one", Some(&one)),
            WorkspaceIdentity::new(&name("a"), "https://one", Some(&two)),
        ];
        for (index, identity) in all.iter().enumerate() {
            assert!(!all[..index].contains(identity), "{index}");
        }
        assert_eq!(all[3], WorkspaceIdentity::new(&name("a"), "https://one", Some(&one)));
    }
}

//! The limits of connections, from the limit of open files.

/// The shares of the limit of open files: app connections leave enough for the admin listener, calls
/// to Courier and files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenFiles {
    /// The limit; `None` where there is none.
    pub limit: Option<u64>,
    /// The most connections of apps, over all listeners.
    pub apps: usize,
    /// The most connections of operators.
    pub admin: usize,
}

/// Reserved: standard streams, listening sockets with one connection each that waits for another to close, the
/// runtimes, logs, name lookups, and settings and secrets while they are read.
const OWN: u64 = 32;
/// The least limit that the broker can work with.
const LEAST: u64 = 64;
const MOST_ADMIN: u64 = 256;
const MOST_COURIER: u64 = 1024;

impl OpenFiles {
    /// Divides a limit; fails with the least that is needed.
    pub fn within(limit: Option<u64>) -> Result<Self, u64> {
        let Some(files) = limit else { return Ok(Self::unlimited()) };
        if files < LEAST {
            return Err(LEAST);
        }
        let admin = (files / 8).min(MOST_ADMIN);
        let courier = (files / 8).min(MOST_COURIER);
        let apps = files - OWN - admin - courier;
        Ok(Self { limit, apps: usize::try_from(apps).unwrap_or(usize::MAX), admin: admin as usize })
    }

    /// Warns if the limit allows apps fewer connections than the settings do.
    pub fn warn_if_fewer_than(&self, wanted: usize) {
        if self.apps < wanted {
            tracing::warn!(
                limit = self.limit,
                wanted,
                connections = self.apps,
                "the limit of open files allows fewer connections than server.limits.connections: raise it (ulimit -n, \
                 or LimitNOFILE= in a systemd unit), or lower the setting"
            );
        }
    }

    /// The shares if there is no limit.
    pub const fn unlimited() -> Self {
        Self { limit: None, apps: usize::MAX, admin: MOST_ADMIN as usize }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_leaves_files_for_calls_to_courier() {
        for limit in (64..5000).chain([65_536, 1 << 30]) {
            let OpenFiles { apps, admin, .. } = OpenFiles::within(Some(limit)).expect("enough");
            let left = limit - OWN - apps as u64 - admin as u64;
            assert!(apps >= 16 && admin >= 8 && (8..=MOST_COURIER).contains(&left), "{limit}: {apps} {admin} {left}");
        }
        assert_eq!(OpenFiles::within(Some(63)), Err(64));
        // The usual limit has room for the default of connections.
        assert!(OpenFiles::within(Some(65_536)).is_ok_and(|files| files.apps > 3 * 16_384));
        assert_eq!(OpenFiles::within(None).map(|files| files.apps), Ok(usize::MAX));
    }
}

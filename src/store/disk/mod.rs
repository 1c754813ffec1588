//! The disk store: a sealed append-only log and a snapshot in a folder, for one broker.
//!
//! # Why a log of our own
//!
//! All that is live is in memory anyway. The disk is read once, at the start, and needs no index, no query and
//! no transaction, which is what an embedded database costs. Measured with 2,000,000 sealed records of 801 bytes
//! on two cores:
//!
//! | | this log and snapshot | fjall 3.1 | redb 4.6 |
//! |---|---|---|---|
//! | load in durable commits of 5,000 | 9.8 s | 17.4 s | 105 s |
//! | bytes written for a byte | 1.1 | 9.1 | 15 |
//! | 50 overwrites and a sync: p50, p99 | 0.4, 0.5 ms | 0.4, 5.3 ms | 3.9, 6.8 ms |
//! | start: open, read, open all seals | 4.4 to 4.8 s | 7.5 s | 41 s (repair after `kill -9`) |
//! | peak memory, further crates | 106 MB, none | 236 MB, 18 | 173 MB, 1 |
//!
//! # Format
//!
//! The folder (mode 0700) has a `lock`, a `snapshot` and the logs `log-N` (mode 0600). Snapshot and logs have one
//! format: a header (version, kind, number, key id, run, time), then frames, each a length and a sealed operation. A
//! file is a run of its own: its key is derived from its run id, the nonce is the frame's position, and the header
//! is associated data. So a frame opens only in its place in its file, and a file only under its name. The time tells
//! a later start whether the Unix clock was set back.
//!
//! Snapshot `N` holds what was in memory when log `N` began, or later. The last operation on a key wins, as memory
//! decided it. (Memory replaces a token only by one that lasts longer, so the file needs no rule of its own for that.)
//! A start reads the logs from `N` on in order, then the snapshot, whose records are restored as they are read: to hold
//! them all first would cost as much memory again, and new memory is what a start spends most of its time on. A frame
//! that does not open ends its file, and the next file goes on: the end of a log is torn after a crash. Files before a
//! missing number are ignored, since the missing log may have held a sign-out.
//!
//! # Takeover
//!
//! For a restart without a gap, a second process may read the folder while the first one has the lock. It follows
//! the logs as the first one writes them, so that a sign-out there holds here a moment later, and takes the folder
//! over once it gets the lock. Its own sign-outs are then the first operations of its log, and a snapshot follows.
//! Where a log lacks operations, the next one says so, and a process that follows forgets all tokens.
//!
//! # Failures
//!
//! After a failed write, the next thing written is a snapshot, since the log has a gap. A sign-out that can't be
//! written removes the files, which works on a full disk: losing tokens costs calls; a token from before a
//! sign-out must not come back.

mod changes;
mod folder;
mod frame;
mod handle;
mod load;
mod log;
mod open;
mod operation;
mod queue;
mod tail;
mod takeover;
#[cfg(test)]
mod tests;
mod threads;
mod writer;

pub use handle::{DiskHandle, StoreState};
pub use load::Loaded;
pub use open::{Disk, DiskSettings, OpenError};
pub use takeover::Change;
pub use writer::Contents;

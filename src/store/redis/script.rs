//! The scripts that run in Redis. Each is one step that no other command interrupts.

use redis::Script;

/// All scripts, each with what it shares with others before it.
#[derive(Debug)]
pub struct Scripts {
    pub open: Script,
    pub renew: Script,
    pub release: Script,
    pub land: Script,
    pub now: Script,
    pub sign_out: Script,
    pub signed_out_ago: Script,
    pub reject: Script,
    pub take: Script,
    pub empty: Script,
    pub join: Script,
    pub beat: Script,
    pub leave: Script,
}

const TIME: &str = include_str!("lua/time.lua");
const BUCKET: &str = include_str!("lua/bucket.lua");
const RECORD: &str = include_str!("lua/record.lua");
const MEMBER: &str = include_str!("lua/member.lua");

impl Scripts {
    /// The scripts, which read the store's clock.
    pub fn new() -> Self {
        Self::with_time(TIME)
    }

    /// The scripts with another function `time`, for tests in virtual time.
    pub fn with_time(time: &str) -> Self {
        let script = |shared: &str, own: &str| Script::new(&[time, shared, own].join("\n"));
        Self {
            open: script(RECORD, include_str!("lua/open.lua")),
            renew: script("", include_str!("lua/renew.lua")),
            release: script("", include_str!("lua/release.lua")),
            land: script(RECORD, include_str!("lua/land.lua")),
            now: script("", include_str!("lua/now.lua")),
            sign_out: script("", include_str!("lua/sign_out.lua")),
            signed_out_ago: script("", include_str!("lua/signed_out_ago.lua")),
            reject: script(RECORD, include_str!("lua/reject.lua")),
            take: script(BUCKET, include_str!("lua/take.lua")),
            empty: script(BUCKET, include_str!("lua/empty.lua")),
            join: script(MEMBER, include_str!("lua/join.lua")),
            beat: script(MEMBER, include_str!("lua/beat.lua")),
            leave: script(MEMBER, include_str!("lua/leave.lua")),
        }
    }
}

//! Membership of the fleet: the scripts that join, beat and leave, and the buckets that a join empties.

use std::time::Duration;

use redis::RedisResult;

use super::context::Context;
use super::link::Link;
use super::names::{MEMBERS, NAMES};
use crate::metrics::MemberState;
use crate::policy::admission::budget::Budget;
use crate::policy::fleet::member::{BeatAnswer, LIVE, MISSING, UP};
use crate::policy::fleet::permits::{PurseAnswer, PurseRequest};
use crate::policy::fleet::{ServerTime, Share};

/// How long Redis keeps a list of members or a bucket that is not used. An absent bucket is empty.
const IDLE: Duration = Duration::from_secs(24 * 3600);

/// This broker as a member.
pub struct Membership {
    pub id: String,
    /// The sealed key of the names, as this broker has read it.
    pub sealed_names: Vec<u8>,
    /// The members at the last beat.
    pub members: u32,
}

impl Membership {
    /// Empties the buckets, then becomes a missing member that remembers so many, and the largest share of one.
    pub async fn join(
        &self,
        context: &Context,
        link: &mut Link,
        share: Share,
        (members, largest): (u32, Share),
    ) -> RedisResult<ServerTime> {
        for (name, workspace) in context.workspaces.load().iter() {
            let Some(budget) = &workspace.budget else { continue };
            let mut empty = context.scripts.empty.key(link.names.bucket(name.as_str()));
            empty.arg(micros(tolerance(budget))).arg(IDLE.as_millis() as u64);
            let _: u32 = empty.invoke_async(&mut link.connection).await?;
        }
        let mut join = context.scripts.join.key(MEMBERS);
        join.arg(link.names.member(&self.id)).arg(share.parts()).arg(members).arg(largest.parts());
        join.arg(micros(MISSING)).arg(IDLE.as_millis() as u64);
        join.invoke_async(&mut link.connection).await.map(ServerTime::from_micros)
    }

    /// Becomes a live member; `None` if the beat is void.
    pub async fn beat(&self, context: &Context, link: &mut Link, seen: ServerTime) -> RedisResult<Option<BeatAnswer>> {
        let mut beat = context.scripts.beat.key(MEMBERS);
        beat.key(NAMES).arg(link.names.member(&self.id)).arg(seen.as_micros()).arg(&self.sealed_names);
        beat.arg(micros(UP)).arg(micros(LIVE)).arg(micros(MISSING)).arg(IDLE.as_millis() as u64);
        let answer: Option<(u64, u32, u32, u32, u32, u32)> = beat.invoke_async(&mut link.connection).await?;
        if let Some((_, members, .., alive)) = answer {
            context.metrics.fleet_members[MemberState::Live].set(alive.into());
            context.metrics.fleet_members[MemberState::Missing].set(members.saturating_sub(alive).into());
        }
        Ok(answer.map(|(seen, members, largest, share, live, _)| BeatAnswer {
            seen: ServerTime::from_micros(seen),
            members,
            largest: Share::from_parts(largest),
            share: Share::from_parts(share),
            live: Share::from_parts(live),
        }))
    }

    /// Whether another process has joined with this member's name since it was last `seen`.
    pub async fn is_taken(&self, link: &mut Link, seen: ServerTime) -> RedisResult<bool> {
        let mut get = redis::cmd("HGET");
        get.arg(MEMBERS).arg(link.names.member(&self.id));
        let member: Option<String> = get.query_async(&mut link.connection).await?;
        let joined = member.and_then(|text| text.split(' ').next()?.parse().ok());
        Ok(joined.is_some_and(|joined: u64| joined != seen.as_micros()))
    }

    /// Is no member any more.
    pub async fn leave(&self, context: &Context, link: &mut Link, seen: ServerTime) -> RedisResult<()> {
        let mut leave = context.scripts.leave.key(MEMBERS);
        leave.arg(link.names.member(&self.id)).arg(seen.as_micros());
        leave.invoke_async(&mut link.connection).await
    }
}

/// Takes permits out of a workspace's bucket.
pub async fn take(
    context: &Context,
    link: &mut Link,
    workspace: &str,
    request: &PurseRequest,
) -> RedisResult<PurseAnswer> {
    let mut take = context.scripts.take.key(link.names.bucket(workspace));
    take.arg(request.permits).arg(u64::try_from(request.period.as_nanos()).unwrap_or(u64::MAX));
    take.arg(micros(request.tolerance)).arg(IDLE.as_millis() as u64);
    let (permits, left, wait) = take.invoke_async(&mut link.connection).await?;
    Ok(PurseAnswer { permits, left, wait: Duration::from_micros(wait) })
}

fn tolerance(budget: &Budget) -> Duration {
    budget.period() * budget.departing_burst()
}

fn micros(length: Duration) -> u64 {
    u64::try_from(length.as_micros()).unwrap_or(u64::MAX)
}

//! The CPU time of processes.

use std::fs;
use std::ops::{AddAssign, Sub};

use super::wire::cpu_of;

/// The CPU time of a process.
#[derive(Clone, Copy, Default)]
pub struct CpuTime {
    /// To the nanosecond.
    pub nanos: f64,
    /// Its parts, in ticks of about 10 ms.
    user: f64,
    system: f64,
}

impl CpuTime {
    /// That of a process so far, from Linux.
    pub fn of(process: u32) -> Self {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        // The name may have spaces; the fields after it don't.
        let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |field: usize| fields.get(field).and_then(|ticks| ticks.parse().ok()).unwrap_or_default();
        Self { nanos: cpu_of(process).as_nanos() as f64, user: ticks(11), system: ticks(12) }
    }

    /// The share of user time.
    pub fn user_share(&self) -> f64 {
        self.user / (self.user + self.system).max(1.0)
    }
}

impl Sub for CpuTime {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self { nanos: self.nanos - before.nanos, user: self.user - before.user, system: self.system - before.system }
    }
}

impl AddAssign for CpuTime {
    fn add_assign(&mut self, other: Self) {
        self.nanos += other.nanos;
        self.user += other.user;
        self.system += other.system;
    }
}

//! The only module that reads the time.
//!
//! All other code takes a [`Moment`]: policies stay pure, and a test can run a day in a millisecond.
//! `clippy.toml` forbids every other reading.

#![expect(clippy::disallowed_methods, reason = "this is the module that the ban on clock readings points to")]

mod moment;
mod stamp;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

pub use moment::Moment;
pub use stamp::{BootId, Reading, Stamp};

/// Reads the time and waits for it. Cheap to copy.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Source);

#[derive(Clone, Copy, Debug)]
enum Source {
    System,
    Tokio { origin: tokio::time::Instant, wall: &'static AtomicI64 },
}

/// The longest single sleep of [`Clock::sleep_until`]. Timers stop while a machine is suspended and
/// the clock does not, so a long wait checks the clock now and then.
const LONGEST_NAP: Duration = Duration::from_secs(20);

impl Clock {
    /// The machine's clock: Unix time when the process first reads it, and from then on the boot clock.
    ///
    /// NTP and `date -s` do not make it jump, and it includes suspended time: tokens age in a closed
    /// laptop too. It starts at Unix time because what a store restores may be older than the boot.
    pub const fn system() -> Self {
        Self(Source::System)
    }

    /// Follows tokio's clock, for tests that pause and advance it. It starts an hour after its origin, so
    /// that a test may look back.
    pub fn tokio() -> Self {
        static TRUE: AtomicI64 = AtomicI64::new(0);
        Self::tokio_with_wall(&TRUE)
    }

    /// The same, with the time of day this many seconds ahead of the machine's, for tests of clock steps.
    pub fn tokio_with_wall(ahead: &'static AtomicI64) -> Self {
        Self(Source::Tokio { origin: tokio::time::Instant::now() - Duration::from_secs(3600), wall: ahead })
    }

    /// The present moment.
    pub fn now(&self) -> Moment {
        match self.0 {
            Source::System => Anchor::get().now(),
            Source::Tokio { origin, .. } => Moment::from_nanos(0) + tokio::time::Instant::now().duration_since(origin),
        }
    }

    /// A moment in terms that outlive the process.
    pub fn stamp(&self, moment: Moment) -> Stamp {
        self.read().stamp(moment)
    }

    /// Reads all clocks, to restore stamps.
    pub fn read(&self) -> Reading {
        let (now, unix) = (self.now(), self.unix());
        let boot = match self.0 {
            Source::System => Anchor::get().boot_id.map(|id| (id, Duration::from_nanos(since_boot_nanos()))),
            // Only a clock with the same origin can restore a stamp.
            Source::Tokio { .. } => Some(([0; 16], now.since(Moment::from_nanos(0)))),
        };
        Reading { now, unix, boot }
    }

    /// The time of day since 1970, for display and other programs only: it jumps when it is set.
    pub fn unix(&self) -> Duration {
        let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        match self.0 {
            Source::System => unix,
            Source::Tokio { wall, .. } => {
                let seconds = unix.as_secs().saturating_add_signed(wall.load(Ordering::Relaxed));
                Duration::new(seconds, unix.subsec_nanos())
            }
        }
    }

    /// The time of the system's monotonic clock, for the service manager only: it stops while the machine is suspended.
    pub fn monotonic() -> Duration {
        Duration::from_nanos(timespec_nanos(rustix::time::clock_gettime(rustix::time::ClockId::Monotonic)))
    }

    /// Waits until `moment`; [`Moment::NEVER`] waits for ever.
    pub async fn sleep_until(&self, moment: Moment) {
        loop {
            let left = moment.since(self.now());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(LONGEST_NAP)).await;
        }
    }
}

/// Rate limiters use this clock too.
impl governor::clock::Clock for Clock {
    type Instant = governor::nanos::Nanos;

    fn now(&self) -> Self::Instant {
        Self::now(self).as_nanos().into()
    }
}

/// Where the system clock starts.
struct Anchor {
    /// Unix time at the boot, by the Unix clock when it was first read.
    booted: Moment,
    boot_id: Option<BootId>,
}

impl Anchor {
    fn get() -> &'static Self {
        static ANCHOR: OnceLock<Anchor> = OnceLock::new();
        ANCHOR.get_or_init(|| {
            let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let booted = Moment::from_nanos(0) + unix - Duration::from_nanos(since_boot_nanos());
            Self { booted, boot_id: boot_id() }
        })
    }

    fn now(&self) -> Moment {
        self.booted + Duration::from_nanos(since_boot_nanos())
    }
}

#[cfg(target_os = "linux")]
fn boot_id() -> Option<BootId> {
    stamp::parse_boot_id(&std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?)
}

#[cfg(not(target_os = "linux"))]
const fn boot_id() -> Option<BootId> {
    None
}

#[cfg(target_os = "linux")]
fn since_boot_nanos() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    timespec_nanos(time)
}

/// Other systems: the monotonic clock. On macOS it includes suspended time too.
#[cfg(not(target_os = "linux"))]
fn since_boot_nanos() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    timespec_nanos(time)
}

fn timespec_nanos(time: rustix::time::Timespec) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let nanos = u64::try_from(time.tv_nsec).unwrap_or_default();
    seconds * 1_000_000_000 + nanos
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_tokio_clock_follows_a_paused_runtime() {
        let clock = Clock::tokio();
        let start = clock.now();
        clock.sleep_until(start + Duration::from_secs(86_400)).await;
        let slept = clock.now().since(start);
        assert!(slept >= Duration::from_secs(86_400), "{slept:?}");
        assert!(slept < Duration::from_secs(86_401), "{slept:?}");
    }

    #[test]
    fn the_system_clock_never_runs_backwards() {
        let clock = Clock::system();
        let readings: Vec<_> = (0..1000).map(|_| clock.now()).collect();
        assert!(readings.is_sorted());
    }

    #[test]
    fn the_system_clock_starts_at_unix_time() {
        let clock = Clock::system();
        let apart = clock.unix().abs_diff(clock.now().since(Moment::from_nanos(0)));
        assert!(apart < Duration::from_secs(3600), "{apart:?}: the clock was set while the test ran");
    }

    #[test]
    fn restored_system_moment_has_its_age() {
        let clock = Clock::system();
        for age in [0, 1, 86_400, 40_000_000].map(Duration::from_secs) {
            let moment = clock.now() - age;
            let restored = clock.read().restore(clock.stamp(moment)).expect("a moment in the past");
            let apart = restored.since(moment) + moment.since(restored);
            assert!(apart < Duration::from_secs(60), "{age:?}: {apart:?}");
        }
    }
}

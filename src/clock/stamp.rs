//! Stamps: moments that outlive the process.

use std::time::Duration;

use super::Moment;

/// A moment in terms that another process understands, after a reboot too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Time since 1970 by the Unix clock, which may have been set since.
    pub unix: Duration,
    /// The boot clock of this boot, where the machine has one that reaches so far back.
    pub boot: Option<(BootId, Duration)>,
}

/// The number of a machine's boot, drawn at random by the kernel.
pub type BootId = [u8; 16];

/// All clocks at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// The moment.
    pub now: Moment,
    /// The Unix clock then.
    pub unix: Duration,
    /// The boot clock then.
    pub boot: Option<(BootId, Duration)>,
}

impl Reading {
    /// The stamp of a moment.
    pub fn stamp(&self, moment: Moment) -> Stamp {
        let (past, ahead) = (self.now.since(moment), moment.since(self.now));
        let boot = self.boot.and_then(|(id, boot)| Some((id, (boot + ahead).checked_sub(past)?)));
        Stamp { unix: (self.unix + ahead).saturating_sub(past), boot }
    }

    /// The moment of a stamp of this or another process; `None` if a clock says that it is in the future.
    ///
    /// Its age is the greater of what the clocks say, so that setting a clock back lengthens no life.
    pub fn restore(&self, stamp: Stamp) -> Option<Moment> {
        let mut age = self.unix.checked_sub(stamp.unix)?;
        if let (Some((id, now)), Some((stamped, then))) = (self.boot, stamp.boot)
            && id == stamped
        {
            age = age.max(now.checked_sub(then)?);
        }
        Some(self.now - age)
    }
}

/// Parses the kernel's text form of a boot id.
#[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "only Linux has one"))]
pub(super) fn parse_boot_id(text: &str) -> Option<BootId> {
    let mut id = BootId::default();
    hex::decode_to_slice(text.trim().replace('-', ""), &mut id).ok()?;
    Some(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn reading(now: u64, unix: u64, boot: Option<(u8, u64)>) -> Reading {
        let boot = boot.map(|(id, time)| ([id; 16], seconds(time)));
        Reading { now: Moment::from_nanos(0) + seconds(now), unix: seconds(unix), boot }
    }

    /// The age that a moment of 100 s ago has for a later process.
    fn age_after(later: Reading) -> Option<u64> {
        let written = reading(1000, 5000, Some((1, 300)));
        let restored = later.restore(written.stamp(written.now - seconds(100)))?;
        Some(later.now.since(restored).as_secs())
    }

    #[test]
    fn stamp_of_the_same_boot_ages_by_the_greater_of_both_clocks() {
        assert_eq!(age_after(reading(7000, 5020, Some((1, 320)))), Some(120));
        assert_eq!(age_after(reading(7000, 4950, Some((1, 320)))), Some(120), "the Unix clock was set back");
        assert_eq!(age_after(reading(7000, 5900, Some((1, 320)))), Some(1000), "the Unix clock was set forward");
    }

    #[test]
    fn stamp_of_another_boot_ages_by_the_unix_clock() {
        assert_eq!(age_after(reading(7000, 5020, Some((2, 5)))), Some(120));
        assert_eq!(age_after(reading(7000, 5020, None)), Some(120));
    }

    #[test]
    fn stamp_in_the_future_is_rejected() {
        assert_eq!(age_after(reading(7000, 4899, Some((1, 320)))), None, "by the Unix clock");
        assert_eq!(age_after(reading(7000, 5020, Some((1, 199)))), None, "by the boot clock");
    }

    #[test]
    fn moment_before_the_boot_is_stamped_by_the_unix_clock_alone() {
        let reading = reading(1000, 5000, Some((1, 300)));
        let stamp = reading.stamp(reading.now - seconds(400));
        assert_eq!(stamp, Stamp { unix: seconds(4600), boot: None });
        assert_eq!(reading.restore(stamp), Some(reading.now - seconds(400)));
    }

    #[test]
    fn boot_id_is_sixteen_bytes_of_hex() {
        let id = parse_boot_id("0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0\n").expect("a boot id");
        assert_eq!((id[0], id[15]), (0x0f, 0xf0));
        for text in ["", "0f1e2d3c", "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1fg", &"0".repeat(33)] {
            assert_eq!(parse_boot_id(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn restored_moment_is_never_younger_than_by_any_clock(
            age in 0u64..100_000, later in 0u64..100_000, step in -200_000i64..200_000, rebooted: bool, boot in 0u64..200_000,
        ) {
            let written = reading(1 << 30, 1 << 30, Some((1, boot)));
            let unix = (1u64 << 30).saturating_add(later).saturating_add_signed(step);
            let later_boot = if rebooted { (2, 1) } else { (1, boot + later) };
            let read = reading(1 << 31, unix, Some(later_boot));
            if let Some(restored) = read.restore(written.stamp(written.now - seconds(age))) {
                let restored_age = read.now.since(restored).as_secs();
                let by_unix = age.saturating_add(later).saturating_add_signed(step);
                prop_assert!(restored_age >= by_unix);
                prop_assert!(rebooted || age > boot || restored_age >= age + later);
            }
        }
    }
}

//! Today's attendance compared with the usual: weekends and holidays.

use crate::clock::Moment;
use crate::policy::refresh::learned::forecast::Features;

/// Compares recent returns with the usual and with the forecast ones.
///
/// Weekends and holidays show in the first hours of the day.
#[derive(Debug, Default)]
pub struct Attendance {
    since: Option<Moment>,
    came: f32,
    usual: f32,
    ever_came: f32,
    ever_usual: f32,
    foreseen_came: f32,
    foreseen: f32,
}

/// Half-lives in seconds: of recent observations, and of the usual ones.
const QUICK: f32 = 5400.0;
const SLOW: f32 = 5.0 * 86_400.0;

impl Attendance {
    /// The recent share of returns among keys usual at this hour, divided by the long-run share.
    pub fn ratio(&self) -> f32 {
        let ever = (self.ever_came + 0.2) / (self.ever_usual + 1.0);
        (self.came + 3.0 * ever) / (self.usual + 3.0) / ever
    }

    /// Recent returns for each return that was forecast, from 0.1 to 3.
    pub fn calibration(&self) -> f32 {
        ((self.foreseen_came + 5.0) / (self.foreseen + 5.0)).clamp(0.1, 3.0)
    }

    /// Records the forecast made at `at` for the time until the next decision, and its outcome.
    pub fn count(&mut self, features: &Features, foreseen: f32, came: bool, at: Moment) {
        if !features.away {
            return;
        }
        let came = f32::from(u8::from(came));
        let passed = at.since(*self.since.get_or_insert(at)).as_secs_f32();
        self.since = self.since.max(Some(at));
        let quick = (-passed / QUICK).exp2();
        if foreseen > 0.03 {
            self.foreseen_came += came;
            self.foreseen += foreseen;
        }
        self.foreseen_came *= quick;
        self.foreseen *= quick;
        if features.usual > 0.0 {
            let slow = (-passed / SLOW).exp2();
            self.came += came;
            self.usual += features.usual;
            self.ever_came = self.ever_came * slow + came;
            self.ever_usual = self.ever_usual * slow + features.usual;
        }
        self.came *= quick;
        self.usual *= quick;
    }
}

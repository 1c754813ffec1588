//! Today's attendance compared with the usual: weekends and holidays.

use bytes::BufMut;

use crate::clock::Moment;
use crate::policy::refresh::learned::encoding::{read_f32s, read_optional_moment};
use crate::policy::refresh::learned::features::Features;
use crate::policy::refresh::learned::tuning::Tuning;

/// Compares recent returns with the usual and with the forecast ones.
///
/// Weekends and holidays show in the first hours of the day.
#[derive(Debug)]
pub struct Attendance {
    tuning: Tuning,
    since: Option<Moment>,
    /// Recent returns of keys that are usual at their hour, and the sum of their usual shares.
    returned: f32,
    usual: f32,
    /// The same in the long run.
    ever_returned: f32,
    ever_usual: f32,
    /// Recent returns among keys with a forecast, and the sum of these forecasts.
    forecast_returned: f32,
    forecast: f32,
}

/// The least forecast that counts for the calibration.
const LEAST_FORECAST: f32 = 0.03;
/// The largest sum that is decoded.
const MOST: f32 = 1e9;

impl Attendance {
    /// No observations.
    pub const fn new(tuning: Tuning) -> Self {
        let (returned, usual, ever_returned, ever_usual) = (0.0, 0.0, 0.0, 0.0);
        Self { tuning, since: None, returned, usual, ever_returned, ever_usual, forecast_returned: 0.0, forecast: 0.0 }
    }

    /// Appends the observations to an encoded model.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64_le(self.since.unwrap_or(Moment::NEVER).as_nanos());
        let sums =
            [self.returned, self.usual, self.ever_returned, self.ever_usual, self.forecast_returned, self.forecast];
        sums.into_iter().for_each(|sum| out.put_f32_le(sum));
    }

    /// Reads encoded observations; `None` if they are invalid or after `now`.
    pub fn decode(input: &mut &[u8], tuning: Tuning, now: Moment) -> Option<Self> {
        let since = read_optional_moment(input, now)?;
        let [returned, usual, ever_returned, ever_usual, forecast_returned, forecast] = read_f32s(input, MOST)?;
        Some(Self { tuning, since, returned, usual, ever_returned, ever_usual, forecast_returned, forecast })
    }

    /// The recent share of returns among keys usual at this hour, divided by the long-run share.
    pub fn ratio(&self) -> f32 {
        if !self.tuning.compares_attendance {
            return 1.0;
        }
        let ever = (self.ever_returned + 0.2) / (self.ever_usual + 1.0);
        (self.returned + 3.0 * ever) / (self.usual + 3.0) / ever
    }

    /// Recent returns for each return that was forecast, from 0.1 to 3.
    pub fn calibration(&self) -> f32 {
        if !self.tuning.calibrates {
            return 1.0;
        }
        ((self.forecast_returned + 5.0) / (self.forecast + 5.0)).clamp(0.1, 3.0)
    }

    /// Records the forecast made at `at` for the time until the next decision, and its outcome.
    pub fn count(&mut self, features: &Features, forecast: f32, returned: bool, at: Moment) {
        if !features.is_away {
            return;
        }
        let returned = f32::from(u8::from(returned));
        let passed = at.since(*self.since.get_or_insert(at)).as_secs_f32();
        self.since = self.since.max(Some(at));
        let quick = (-passed / self.tuning.attendance_half_life).exp2();
        if forecast > LEAST_FORECAST {
            self.forecast_returned += returned;
            self.forecast += forecast;
        }
        self.forecast_returned *= quick;
        self.forecast *= quick;
        if features.usual_share > 0.0 {
            let slow = (-passed / self.tuning.usual_half_life).exp2();
            self.returned += returned;
            self.usual += features.usual_share;
            self.ever_returned = self.ever_returned * slow + returned;
            self.ever_usual = self.ever_usual * slow + features.usual_share;
        }
        self.returned *= quick;
        self.usual *= quick;
    }
}

//! Do those come today who usually do?

use crate::policy::forecast::Situation;
use crate::token::Moment;

/// How many come of those who usually do: weekends and holidays show in the first
/// hours.
#[derive(Debug, Default)]
pub struct Turnout {
    since: Option<Moment>,
    came: f32,
    usual: f32,
    ever_came: f32,
    ever_usual: f32,
    foreseen_came: f32,
    foreseen: f32,
}

/// How quickly it forgets, in seconds: half of it in an hour and a half, and of
/// what is usual in five days.
const QUICK: f32 = 5400.0;
const SLOW: f32 = 5.0 * 86_400.0;

impl Turnout {
    /// Of those who usually come at this hour the share that came lately, against
    /// the share that does in the long run.
    pub fn level(&self) -> f32 {
        let ever = (self.ever_came + 0.2) / (self.ever_usual + 1.0);
        (self.came + 3.0 * ever) / (self.usual + 3.0) / ever
    }

    /// How many came lately for each that was foreseen.
    pub fn surprise(&self) -> f32 {
        ((self.foreseen_came + 5.0) / (self.foreseen + 5.0)).clamp(0.1, 3.0)
    }

    /// What was foreseen at `at` for the time until the next look, and whether somebody came.
    pub fn count(&mut self, situation: &Situation, foreseen: f32, came: bool, at: Moment) {
        if !situation.away {
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
        if situation.usual > 0.0 {
            let slow = (-passed / SLOW).exp2();
            self.came += came;
            self.usual += situation.usual;
            self.ever_came = self.ever_came * slow + came;
            self.ever_usual = self.ever_usual * slow + situation.usual;
        }
        self.came *= quick;
        self.usual *= quick;
    }
}

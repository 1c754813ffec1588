//! The tuned constants of the learner, with what each is worth.

use std::time::Duration;

/// The tuned constants.
///
/// Each line names the ablation that chose its value: the points of avoided delays that a trace
/// loses without it, at 25% extra calls and with tokens of the named lifetime, in the mean of
/// eight seeds. Chance moves such a mean by half a point, office (1d) by two and the access log by
/// one and a half. `benches/ablate.rs` prints the table.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// The feature sets in use, a bit for each. Without all of them the access log of a web site
    /// loses 19.6 points (1h), office 11.7 (4h).
    pub feature_sets: u16,
    /// The observations that a stratum's estimate counts as when a cell's is shrunk towards it.
    /// Office loses 3.0 points (1d) at 10, campaign 1.8; no trace more than 1.1 at 1.
    pub shrinkage: f32,
    /// The observations after which a cell forgets as quickly as it learns, so that it follows a
    /// change of demand. No trace of ten days loses more than a point at 100 or 10,000.
    pub memory: f32,
    /// The same for a stratum. The access log loses 1.2 points (4h) at 400.
    pub stratum_memory: f32,
    /// The initial weight of each feature set. Office loses 8.1 points (1d) at 0.3, the access log
    /// 2.2 (1d) and consumer 1.7 at 0.05.
    pub weight: f32,
    /// The learning rate of the weights. With fixed weights office loses 2.9 points (4h) and
    /// campaign 2.4 (1d).
    pub learning_rate: f32,
    /// The next decision comes after the idle time divided by this. The access log loses
    /// 2.3 points (1h) at 2. The number of decisions grows with it.
    pub rechecks: u32,
    /// The longest time to the next decision. Office loses 23.4 points (1d) at 3 h.
    pub longest_recheck: Duration,
    /// Whether keys with a prefetched token are observed. Without it the access log loses 3.2
    /// points (1h), campaign 1.5 (1d).
    pub observes_prefetched: bool,
    /// Whether today's attendance is compared with the usual. Without it office loses 22.3
    /// points (1d), for its weekends.
    pub compares_attendance: bool,
    /// Whether forecasts are calibrated by recent returns. Without it office (seed 8) loses 3.0
    /// points (1d), campaign (seed 1) 2.7.
    pub calibrates: bool,
    /// The half-life of recent returns, in seconds. Office loses 2.8 points (1d) at four hours,
    /// campaign 2.0.
    pub attendance_half_life: f32,
    /// The half-life of the usual returns, in seconds. No trace loses a point at 1000 days.
    /// It lets the usual follow a change of demand, and bounds sums that would lose ones in `f32`.
    pub usual_half_life: f32,
    /// The time constant of the price's memory of candidates, in seconds. Office loses 8.6 points
    /// (1d) at a day: the price must remember a whole week. At 15 days the access log loses 1.2 (4h).
    pub price_memory: f64,
    /// The exponent by which a debt of one time constant's allowance raises the price, and a
    /// surplus lowers it. Office loses 7.6 points (1h) at 0 and 8.7 (1d) at 5.
    pub urgency: f64,
    /// The initial lower bound of the price, while the forecasts are untrained. Office loses 19.6
    /// points (1d) at 0, the access log 18.7 (1d) at 1.
    pub first_price: f32,
}

impl Tuning {
    /// The values in use.
    pub const DEFAULT: Self = Self {
        feature_sets: u16::MAX,
        shrinkage: 3.0,
        memory: 400.0,
        stratum_memory: 2000.0,
        weight: 0.15,
        learning_rate: 0.006,
        rechecks: 4,
        longest_recheck: Duration::from_secs(3600),
        observes_prefetched: true,
        compares_attendance: true,
        calibrates: true,
        attendance_half_life: 5400.0,
        usual_half_life: 5.0 * 86_400.0,
        price_memory: 5.0 * 86_400.0,
        urgency: 2.0,
        first_price: 0.3,
    };
}

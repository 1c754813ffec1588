//! Synthetic workloads.

use std::str::FromStr;

use super::chance::Chance;
use super::trace::{Request, Trace};
use crate::clock::Moment;

/// A kind of population.
///
/// The same seed gives the same users: the first hundred of a thousand are those of a hundred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// People at work. Each has an own time zone (normal, 2 h round the middle)
    /// and a rate of sessions an hour (lognormal, 0.5 and 0.8: 1.6 for half of
    /// them). On five days of seven, less 15% of days off, they work for 9 h
    /// from about half past eight (normal, 30 min), with exponential pauses
    /// between sessions of 1 + floor(exponential, mean 4) requests that are a
    /// minute apart (exponential).
    Office,
    /// Visitors, few of them frequent and many rare: sessions a day are Poisson,
    /// with a mean of 0.15 times a Pareto draw of shape 1.2, at most 8. They
    /// come about seven in the evening (normal, 3 h) of their time zone (normal,
    /// 4 h), for 1 + floor(exponential, mean 6) requests that are 45 s apart
    /// (exponential).
    Consumer,
    /// Visitors, as above, who get a message on every second day between 17:00
    /// and 19:00 (uniform), the same for all. It brings 60% of them, after 5
    /// min (exponential), for 1 + floor(exponential, mean 2) requests that are
    /// 20 s apart (exponential).
    Campaign,
}

impl Workload {
    /// Every workload.
    pub const ALL: [Self; 3] = [Self::Office, Self::Consumer, Self::Campaign];
    /// The most requests, by expectation.
    pub const MAX_REQUESTS: u32 = 200_000_000;
    /// The longest trace: a century.
    pub const MAX_DAYS: u32 = 36_500;
    /// The time of the first request: a Monday, 2001-09-10T00:00:00Z.
    pub const START: Moment = Moment::from_nanos(1_000_080_000 * 1_000_000_000);

    /// The name on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Office => "office",
            Self::Consumer => "consumer",
            Self::Campaign => "campaign",
        }
    }

    /// Generates the requests of `users` users over `days` days, the first a Monday.
    ///
    /// Users without a request do not count as users of the trace.
    pub fn generate(self, users: u32, days: u32, seed: u64) -> Result<Trace, WorkloadError> {
        if days > Self::MAX_DAYS {
            return Err(WorkloadError::TooLong);
        }
        let expected = f64::from(users) * f64::from(days) * self.requests_a_day();
        if expected > f64::from(Self::MAX_REQUESTS) {
            return Err(WorkloadError::TooMany { requests: expected });
        }
        let mut chance = Chance::new(seed);
        let mut population = Population::new(expected);
        let messages = self.messages(days, &mut chance.fork());
        for _ in 0..users {
            population.next();
            let chance = &mut chance.fork();
            match self {
                Self::Office => population.work(days, chance),
                Self::Consumer => population.visit(days, chance),
                Self::Campaign => {
                    population.visit(days, chance);
                    population.answer(&messages, chance);
                }
            }
            if population.requests.len() > 2 * Self::MAX_REQUESTS as usize {
                return Err(WorkloadError::TooMany { requests: population.requests.len() as f64 });
            }
        }
        population.trace()
    }

    /// The mean requests of a user and day, measured over many draws.
    const fn requests_a_day(self) -> f64 {
        match self {
            Self::Office => 46.0,
            Self::Consumer => 3.6,
            Self::Campaign => 4.4,
        }
    }

    /// The times of the campaign's messages, in seconds.
    fn messages(self, days: u32, chance: &mut Chance) -> Vec<f64> {
        let days = if matches!(self, Self::Campaign) { 0..days } else { 0..0 };
        days.step_by(2).map(|day| f64::from(day) * DAY + 17.0 * HOUR + chance.uniform(2.0 * HOUR)).collect()
    }
}

/// Seconds.
const HOUR: f64 = 3600.0;
const DAY: f64 = 24.0 * HOUR;

/// The requests generated so far. Times are seconds from the midnight before the first day, and
/// negative in eastern time zones.
struct Population {
    requests: Vec<Request>,
    key: u32,
}

impl Population {
    /// The origin of moments until the first request is known, beyond any time zone's offset.
    const ORIGIN: f64 = 7.0 * DAY;

    fn new(expected: f64) -> Self {
        Self { requests: Vec::with_capacity((expected * 1.05) as usize), key: 0 }
    }

    /// Moves on to the next user, unless the last one has no request.
    fn next(&mut self) {
        if let Some(last) = self.requests.last() {
            self.key = last.key + 1;
        }
    }

    fn work(&mut self, days: u32, chance: &mut Chance) {
        let zone = chance.normal(0.0, 2.0) * HOUR;
        let pause = HOUR / chance.lognormal(0.5, 0.8);
        for day in 0..days {
            if day % 7 >= 5 || chance.happens(0.15) {
                continue;
            }
            let mut now = f64::from(day) * DAY + 8.5 * HOUR + zone + chance.normal(0.0, 0.5 * HOUR);
            let end = now + 9.0 * HOUR;
            while now < end {
                now = self.session(now, 4.0, 60.0, chance);
                now += chance.exponential(pause);
            }
        }
    }

    fn visit(&mut self, days: u32, chance: &mut Chance) {
        let sessions_a_day = (0.15 * chance.pareto(1.2)).min(8.0);
        let zone = chance.normal(0.0, 4.0) * HOUR;
        for day in 0..days {
            for _ in 0..chance.poisson(sessions_a_day) {
                let start = f64::from(day) * DAY + zone + chance.normal(19.0 * HOUR, 3.0 * HOUR);
                self.session(start, 6.0, 45.0, chance);
            }
        }
    }

    fn answer(&mut self, messages: &[f64], chance: &mut Chance) {
        for message in messages {
            if chance.happens(0.6) {
                let start = message + chance.exponential(5.0 * 60.0);
                self.session(start, 2.0, 20.0, chance);
            }
        }
    }

    /// Adds a session: a request at `start` and about `more` after it, about `gap` apart. Returns
    /// the end of the last gap.
    fn session(&mut self, start: f64, more: f64, gap: f64, chance: &mut Chance) -> f64 {
        let mut now = start;
        for _ in 0..=(chance.exponential(more) as u32) {
            // The cast turns a negative float into 0.
            let nanos = ((Self::ORIGIN + now) * 1e9) as u64;
            self.requests.push(Request { at: Moment::from_nanos(nanos), key: self.key });
            now += chance.exponential(gap);
        }
        now
    }

    /// Sorts the requests and moves the first to [`Workload::START`].
    fn trace(mut self) -> Result<Trace, WorkloadError> {
        self.next();
        self.requests.sort_unstable_by_key(|request| (request.at, request.key));
        let first = self.requests.first().ok_or(WorkloadError::Nobody)?.at;
        for request in &mut self.requests {
            request.at = Workload::START + request.at.since(first);
        }
        Ok(Trace::from_requests(self.requests, self.key as usize, self.key as usize))
    }
}

impl FromStr for Workload {
    type Err = UnknownWorkload;

    fn from_str(name: &str) -> Result<Self, UnknownWorkload> {
        Self::ALL.into_iter().find(|workload| workload.as_str() == name).ok_or(UnknownWorkload)
    }
}

/// The error for an unknown workload's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be `office`, `consumer` or `campaign`")]
pub struct UnknownWorkload;

/// Why a workload was not generated.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum WorkloadError {
    /// No user, no day, or too few for a single request.
    #[error("these users make no request in these days: use more users or days")]
    Nobody,
    /// More than [`Workload::MAX_DAYS`].
    #[error("at most {} days can be generated", Workload::MAX_DAYS)]
    TooLong,
    /// More than [`Workload::MAX_REQUESTS`].
    #[error(
        "these users make about {requests:.0} requests in these days; at most {} can be generated",
        Workload::MAX_REQUESTS
    )]
    TooMany {
        /// The expected requests.
        requests: f64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::time::Duration;

    /// Hours since the start.
    fn hours(trace: &Trace) -> impl Iterator<Item = f64> {
        trace.requests().iter().map(|request| request.at.since(Workload::START).as_secs_f64() / HOUR)
    }

    fn generate(workload: Workload, users: u32, days: u32, seed: u64) -> Trace {
        workload.generate(users, days, seed).expect("not too many")
    }

    #[test]
    fn seed_decides_the_trace() {
        for workload in Workload::ALL {
            let trace = generate(workload, 50, 9, 7);
            assert_eq!(trace, generate(workload, 50, 9, 7), "{workload:?}");
            assert_ne!(trace, generate(workload, 50, 9, 8), "{workload:?}");
        }
    }

    #[test]
    fn additional_users_do_not_change_the_others() {
        let (few, more) = (generate(Workload::Office, 20, 7, 7), generate(Workload::Office, 60, 7, 7));
        let requests_of = |trace: &Trace, user| trace.requests().iter().filter(|request| request.key == user).count();
        assert!((0..20).all(|user| requests_of(&few, user) == requests_of(&more, user)));
    }

    #[test]
    fn trace_begins_at_its_start_is_sorted_and_counts_its_users() {
        for workload in Workload::ALL {
            for (users, days) in [(1, 30), (40, 1), (300, 10)] {
                let trace = generate(workload, users, days, 3);
                let requests = trace.requests();
                assert_eq!(requests[0].at, Workload::START);
                assert!(requests.is_sorted_by_key(|request| (request.at, request.key)));
                let mut keys: Vec<u32> = requests.iter().map(|request| request.key).collect();
                keys.sort_unstable();
                keys.dedup();
                assert_eq!((keys.len(), keys.len()), (trace.keys(), trace.users()), "{workload:?}");
                assert_eq!(keys.last().map(|key| *key as usize + 1), Some(keys.len()));
                assert!(keys.len() <= users as usize);
                let longest = Duration::from_secs(u64::from(days + 2) * 86_400);
                assert!(requests.iter().all(|request| request.at.since(Workload::START) < longest));
            }
        }
        let start: jiff::Timestamp = "2001-09-10T00:00:00Z".parse().expect("a time");
        assert_eq!(start.as_nanosecond(), i128::from(Workload::START.as_nanos()));
    }

    #[test]
    fn expected_requests_are_within_a_tenth_of_the_generated() {
        for workload in Workload::ALL {
            let users = if workload == Workload::Office { 300 } else { 4_000 };
            let requests = generate(workload, users, 14, 11).requests().len() as f64;
            let ratio = requests / (f64::from(users) * 14.0 * workload.requests_a_day());
            assert!((0.9..1.1).contains(&ratio), "{workload:?}: {ratio} of what was expected");
        }
    }

    #[test]
    fn excessive_sizes_are_rejected_before_generation() {
        for workload in Workload::ALL {
            assert_eq!(workload.generate(1, u32::MAX, 7), Err(WorkloadError::TooLong));
            assert_eq!(workload.generate(0, 5, 7), Err(WorkloadError::Nobody));
            assert_eq!(workload.generate(5, 0, 7), Err(WorkloadError::Nobody));
            let error = workload.generate(u32::MAX, Workload::MAX_DAYS, 7).expect_err("too many").to_string();
            assert!(error.ends_with("at most 200000000 can be generated"), "{error}");
        }
        assert!(Workload::Consumer.generate(1, Workload::MAX_DAYS, 7).is_ok());
    }

    #[test]
    fn office_has_no_requests_at_the_weekend() {
        let trace = generate(Workload::Office, 200, 21, 7);
        let late_friday_to_early_monday =
            |hour: &f64| (5.0 * 24.0 + 10.0..7.0 * 24.0 - 6.0).contains(&(hour % (7.0 * 24.0)));
        assert_eq!(hours(&trace).filter(late_friday_to_early_monday).count(), 0);
        // Of fifteen days, less the days off.
        let requests = trace.requests();
        let mut days: Vec<_> =
            requests.iter().zip(hours(&trace)).map(|(request, hour)| (request.key, (hour / 24.0) as u32)).collect();
        days.sort_unstable();
        days.dedup();
        assert!((11 * 200..15 * 200).contains(&days.len()), "{}", days.len());
    }

    #[test]
    fn few_visitors_make_most_requests() {
        let trace = generate(Workload::Consumer, 5_000, 14, 7);
        let mut counts = vec![0; trace.users()];
        trace.requests().iter().for_each(|request| counts[request.key as usize] += 1);
        counts.sort_unstable_by(|one, other| other.cmp(one));
        let busiest: i32 = counts[..500].iter().sum();
        let share = f64::from(busiest) / trace.requests().len() as f64;
        assert!((0.35..0.65).contains(&share), "{share}");
        // Visitors without a request are no users of the trace.
        assert!((3_500..5_000).contains(&trace.users()), "{}", trace.users());
    }

    #[test]
    fn message_brings_most_users_within_minutes_on_every_second_day() {
        let users = 4_000;
        let trace = generate(Workload::Campaign, users, 8, 7);
        let mut minutes = vec![BTreeSet::new(); 10 * 24 * 60 / 10];
        for (request, hour) in trace.requests().iter().zip(hours(&trace)) {
            minutes[(hour * 6.0) as usize].insert(request.key);
        }
        let crowded: Vec<_> = (0..minutes.len()).filter(|at| minutes[*at].len() > users as usize * 3 / 10).collect();
        let days: BTreeSet<_> = crowded.iter().map(|at| (at + 36) / 144).collect();
        assert_eq!(days.len(), 4, "{crowded:?}");
        assert!(days.iter().zip(days.iter().skip(1)).all(|(day, next)| next - day == 2), "{days:?}");
    }

    #[test]
    fn workload_has_one_name() {
        for workload in Workload::ALL {
            assert_eq!(workload.as_str().parse(), Ok(workload));
        }
        assert_eq!("Office".parse::<Workload>(), Err(UnknownWorkload));
    }
}

//! The memory of the fetching task: failures, and sets without keys.

use std::time::Duration;

use super::fetch::FetchError;
use crate::clock::Moment;

/// The outcomes of fetches since the last that brought keys.
#[derive(Default)]
pub struct History {
    /// The cause that was last logged, and when.
    logged: Option<(String, Moment)>,
    /// From when on a further set without keys is believed.
    second_look: Option<Moment>,
    /// Consecutive fetches without any set.
    failures: u32,
}

/// How often a repeated failure with the same cause is logged.
const REMINDER: Duration = Duration::from_secs(3600);
const MOST_DOUBLINGS: u32 = 3;

impl History {
    /// Records a failure. Returns whether to warn: the cause is new, or the last warning is long ago.
    pub fn should_warn(&mut self, cause: &str, now: Moment) -> bool {
        let is_known =
            self.logged.as_ref().is_some_and(|(known, logged)| known == cause && now.since(*logged) < REMINDER);
        if !is_known {
            self.logged = Some((cause.to_owned(), now));
        }
        !is_known
    }

    /// Records a set with keys. Returns whether fetches were failing.
    pub fn on_keys(&mut self) -> bool {
        std::mem::take(self).logged.is_some()
    }

    /// Records a fetch without keys that began now. Returns whether they are withdrawn: this set and one
    /// at least `apart` before it have none, and none in between has any.
    pub fn withdraws(&mut self, error: &FetchError, now: Moment, apart: Duration) -> bool {
        error.is_without_keys() && *self.second_look.get_or_insert(now + apart) <= now
    }

    /// The wait from now until the second look at a set without keys, if one is due.
    pub fn second_look(&self, now: Moment) -> Option<Duration> {
        self.second_look.map(|due| due.since(now))
    }

    /// Records whether a fetch brought a set. Returns the least time between its start and the next one's:
    /// `pause`, doubled with each failure, so that a host in trouble is spared.
    pub fn pause(&mut self, is_answered: bool, pause: Duration) -> Duration {
        self.failures = if is_answered { 0 } else { self.failures.saturating_add(1) };
        pause * (1 << self.failures.min(MOST_DOUBLINGS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::key_set::KeySetError;

    fn at(seconds: u64) -> Moment {
        Moment::from_nanos(0) + Duration::from_secs(seconds)
    }

    #[test]
    fn repeated_cause_is_news_once_an_hour() {
        let mut history = History::default();
        let minutes = |minutes: u64| at(60 * minutes);
        let warned: Vec<_> = (0..150).filter(|&minute| history.should_warn("refused", minutes(minute))).collect();
        assert_eq!(warned, [0, 60, 120]);
        assert!(history.should_warn("timed out", minutes(150)));
        assert!(!history.should_warn("timed out", minutes(151)));
        assert!(history.on_keys() && !history.on_keys());
        assert!(history.should_warn("timed out", minutes(152)));
    }

    #[test]
    fn keys_are_withdrawn_by_a_second_look_and_never_by_failures() {
        let apart = Duration::from_secs(5);
        let empty = || FetchError::from(KeySetError::Empty);
        let unusable = || FetchError::from(KeySetError::Unusable { count: 1, reasons: String::new() });
        let mut history = History::default();
        for second in 0..100 {
            assert!(!history.withdraws(&FetchError::Status(500), at(second), apart));
            assert!(!history.withdraws(&KeySetError::Shape.into(), at(second), apart));
        }
        assert_eq!(history.second_look(at(100)), None);
        // Any number of looks within the time are one.
        for second in 100..105 {
            assert!(!history.withdraws(&empty(), at(second), apart));
        }
        assert_eq!(history.second_look(at(102)), Some(Duration::from_secs(3)));
        assert!(!history.withdraws(&FetchError::Status(500), at(106), apart));
        assert!(history.withdraws(&unusable(), at(107), apart) && history.withdraws(&empty(), at(108), apart));
        // Keys in between start it anew.
        history.on_keys();
        assert!(!history.withdraws(&empty(), at(200), apart));
    }

    #[test]
    fn pause_doubles_with_failures_up_to_a_limit() {
        let mut history = History::default();
        let mut pause = |is_answered| history.pause(is_answered, Duration::from_secs(1)).as_secs();
        assert_eq!([false; 5].map(&mut pause), [2, 4, 8, 8, 8]);
        assert_eq!([true, false].map(&mut pause), [1, 2]);
    }
}

//! Who asked when: a log that was read, or a workload that was made up.

use std::io::{self, Read};
use std::time::Duration;

use humantime::format_duration;

use super::reading::Reading;
pub use super::row::Broken;
pub use super::selection::Selection;
use crate::token::Moment;

/// A request of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// When it came, in nanoseconds since the Unix epoch.
    pub at: Moment,
    /// The user and scope that it asked for, as a number below [`Trace::keys`].
    pub key: u32,
}

/// Requests in the order of their times; those of one moment in the order in
/// which they were written down.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    requests: Vec<Request>,
    keys: usize,
    users: usize,
    counts: Counts,
}

/// What the lines of a trace were, besides requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// It is an access log, and every URL counts.
    pub every_path: bool,
    /// Requests for whose user an address stands.
    pub by_address: u64,
    /// Requests that don't count, since they name no user.
    pub without_user: u64,
    /// Requests that don't count, since their path is not asked for.
    pub other_paths: u64,
    /// Lines that could not be read.
    pub skipped: u64,
    /// Requests that were written down after a later one, and were sorted in.
    pub out_of_order: u64,
}

impl Trace {
    /// A trace of these requests, in any order, for the keys below `keys`, which
    /// belong to `users` users.
    ///
    /// # Panics
    ///
    /// If a request is for a key that there isn't.
    pub fn from_requests(mut requests: Vec<Request>, keys: usize, users: usize) -> Self {
        assert!(requests.iter().all(|request| (request.key as usize) < keys), "a key beyond the {keys} that there are");
        if !requests.is_sorted_by_key(|request| request.at) {
            requests.sort_by_key(|request| request.at);
        }
        Self { requests, keys, users, counts: Counts::default() }
    }

    /// Reads a trace in plain text or gzip: CSV with the columns `time,user` or
    /// `time,user,scope` (epoch seconds or RFC 3339; a heading may say so), or
    /// an access log in common or combined format. Which it is shows in its
    /// first lines. Empty lines and those that begin with `#` don't count; of the
    /// requests those do that are selected.
    ///
    /// `progress` is told now and then how many bytes of the input, packed or
    /// not, were taken.
    pub fn read(
        input: impl Read,
        selection: &Selection,
        limits: &Limits,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Self, TraceError> {
        Reading::new(selection, limits).finish(input, progress)
    }

    /// With what its lines were.
    pub(super) fn with_counts(self, counts: Counts) -> Self {
        Self { counts, ..self }
    }

    /// All requests.
    pub fn requests(&self) -> &[Request] {
        &self.requests
    }

    /// How many different pairs of user and scope there are.
    pub fn keys(&self) -> usize {
        self.keys
    }

    /// How many different users there are.
    pub fn users(&self) -> usize {
        self.users
    }

    /// What its lines were, if it was read.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Nobody asked for anything.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }
}

/// What a trace that is read may ask of the reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most lines that are skipped because they can't be read.
    pub broken_lines: u64,
    /// How far a line's time may lie behind the latest before it. Servers write a
    /// line when the answer is out, with the time when the request came in: a
    /// long download comes late. More than that is two logs in one, or a clock
    /// that was set back.
    pub disorder: Duration,
    /// The most requests, each of 16 bytes.
    pub requests: usize,
    /// The most pairs of user and scope, each of some 100 bytes.
    pub keys: usize,
}

impl Default for Limits {
    /// A thousand broken lines, an hour of disorder, 200 million requests of 20
    /// million keys.
    fn default() -> Self {
        Self { broken_lines: 1000, disorder: Duration::from_secs(3600), requests: 200_000_000, keys: 20_000_000 }
    }
}

/// Why there is no trace, in one line. Of what was read it repeats a short piece
/// at most.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// Nothing in it.
    #[error("the trace is empty: it has no line with a request")]
    Empty,
    /// No format that is known.
    #[error(
        "the trace is neither CSV with the columns `time,user` or `time,user,scope` nor an access log in common or \
         combined format: line {line} begins with \"{found}\" (as CSV: {csv}; as an access log: {log})"
    )]
    Neither {
        /// The first line.
        line: u64,
        /// How it begins.
        found: String,
        /// Why it is no CSV.
        csv: Broken,
        /// Why it is of no access log.
        log: Broken,
    },
    /// CSV with other columns.
    #[error("line {line} names the columns \"{found}\", but `time,user` or `time,user,scope` are wanted")]
    Heading {
        /// Where.
        line: u64,
        /// How the line begins.
        found: String,
    },
    /// CSV whose columns lack the one that is chosen for the user.
    #[error("line {line} names the columns \"{found}\", of which \"{field}\" can't be the user's")]
    OtherHeading {
        /// Where.
        line: u64,
        /// How the line begins.
        found: String,
        /// The user field.
        field: String,
    },
    /// CSV without a heading, and a column's name.
    #[error("the columns have no names, so \"{field}\" is none: choose the user's by its number")]
    NoHeading {
        /// The user field.
        field: String,
    },
    /// An access log without the field that is chosen for the user.
    #[error("the user of an access log is its field \"address\" or \"user\", not \"{field}\"")]
    NoField {
        /// The user field.
        field: String,
    },
    /// CSV, and a path.
    #[error("CSV has no paths: requests can be selected by path in an access log alone")]
    NoPaths,
    /// No path of an access log begins as is asked for.
    #[error("no request that names a user has a path that begins so; {count} have others")]
    OtherPaths {
        /// How many have another.
        count: u64,
    },
    /// The user's field is empty throughout.
    #[error("none of {count} requests names a user: choose another field for it")]
    NoUsers {
        /// How many there are.
        count: u64,
    },
    /// Beyond [`Limits::broken_lines`].
    #[error("more than {limit} lines can't be read; line {line} is the first: {why}")]
    TooManyBroken {
        /// How many may be broken.
        limit: u64,
        /// The first of them.
        line: u64,
        /// What is wrong with that.
        why: Broken,
    },
    /// Not a request among its lines.
    #[error("no line can be read; line {line} is the first: {why}")]
    AllBroken {
        /// The first of them.
        line: u64,
        /// What is wrong with that.
        why: Broken,
    },
    /// A line that does not end.
    #[error("line {line} has no end: this is no log")]
    Endless {
        /// Which.
        line: u64,
    },
    /// Beyond [`Limits::disorder`].
    #[error(
        "line {line} lies {} behind the latest time before it, and at most {} are put in order: sort the trace by time",
        format_duration(*.behind), format_duration(*.bound)
    )]
    Disorder {
        /// Which.
        line: u64,
        /// How far back it lies.
        behind: Duration,
        /// How far it may.
        bound: Duration,
    },
    /// Beyond [`Limits::requests`].
    #[error("the trace has more than {limit} requests: cut it")]
    TooManyRequests {
        /// How many it may have.
        limit: usize,
    },
    /// Beyond [`Limits::keys`].
    #[error("the trace has more than {limit} different users and scopes: cut it")]
    TooManyKeys {
        /// How many it may have.
        limit: usize,
    },
    /// The gzip data can't be unpacked.
    #[error("the gzip data is cut off or spoilt after line {line}: {error}")]
    Gzip {
        /// The last line that could be read.
        line: u64,
        /// What the unpacker says.
        error: io::Error,
    },
    /// The input failed.
    #[error("can't read on after line {line}: {error}")]
    Io {
        /// The last line that could be read.
        line: u64,
        /// What the input says.
        error: io::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    use super::super::lines::gzip;

    fn read(text: &[u8]) -> Result<Trace, TraceError> {
        Trace::read(text, &Selection::default(), &Limits::default(), &mut |_| {})
    }

    /// Second and key of each request.
    fn requests(trace: &Trace) -> Vec<(u64, u32)> {
        trace.requests().iter().map(|request| (request.at.as_nanos() / 1_000_000_000, request.key)).collect()
    }

    const CSV: &str = "time,user\n5,bob\n6,alice\n6.5,bob\n";
    const LOG: &str = "10.0.0.1 - - [17/May/2015:10:05:03 +0000] \"GET / HTTP/1.1\" 200 5\n\
                       10.0.0.1 - bob [17/May/2015:10:05:04 +0000] \"GET / HTTP/1.1\" 200 5 \"-\" \"curl\"\n\
                       10.0.0.1 - - [17/May/2015:10:05:05 +0000] \"GET /\n";

    #[test]
    fn one_trace_is_the_same_however_it_is_written() {
        let expected = [(5, 0), (6, 1), (6, 0)];
        let crlf = CSV.replace('\n', "\r\n");
        let no_heading = CSV.replace("time,user\n", "");
        let marked = format!("\u{feff}{CSV}");
        let spaced = format!("\n# a trace\n \n{}# its end", CSV.replace("6,", "#\n\n6,"));
        let capital = CSV.replace("time,user", "Time, User");
        let halves = [gzip(&CSV.as_bytes()[..15]), gzip(&CSV.as_bytes()[15..])].concat();
        let texts = [CSV, CSV.trim_end(), &crlf, &no_heading, &marked, &spaced, &capital].map(str::as_bytes);
        for text in texts.into_iter().chain([&halves[..], &gzip(marked.as_bytes())]) {
            let trace = read(text).expect("a trace");
            assert_eq!(requests(&trace), expected, "{}", text.escape_ascii());
            assert_eq!((trace.keys(), trace.users(), trace.counts()), (2, 2, &Counts::default()));
            assert!(!trace.is_empty());
        }
    }

    #[test]
    fn an_access_log_is_known_by_its_first_lines() {
        let start = 1_431_857_103;
        for text in [LOG.to_owned(), format!("started\n\n{LOG}"), format!("a,b\n{LOG}")] {
            let trace = read(text.as_bytes()).expect("a trace");
            assert_eq!(requests(&trace), [(start, 0), (start + 1, 1), (start + 2, 0)]);
            let skipped = u64::from(text.len() > LOG.len());
            assert_eq!(*trace.counts(), Counts { every_path: true, by_address: 2, skipped, ..Counts::default() });
        }
    }

    #[test]
    fn a_key_is_a_user_with_a_scope() {
        let trace = read(b"1,a,x\n2,b,x\n3,a,y\n4,a,x\n5,b,\n").expect("a trace");
        assert_eq!(requests(&trace), [(1, 0), (2, 1), (3, 2), (4, 0), (5, 3)]);
        assert_eq!((trace.keys(), trace.users()), (4, 2));
    }

    #[test]
    fn names_need_not_be_unicode() {
        let trace = read(b"1,\xff\n2,\xfe\n3,\xff\n").expect("a trace");
        assert_eq!(requests(&trace), [(1, 0), (2, 1), (3, 0)]);
    }

    #[test]
    fn requests_are_sorted_in_and_those_of_one_moment_stay_as_they_were() {
        let trace = read(b"100,a\n90,b\n100,c\n90,d\n95,e\n").expect("a trace");
        assert_eq!(requests(&trace), [(90, 1), (90, 3), (95, 4), (100, 0), (100, 2)]);
        assert_eq!(trace.counts().out_of_order, 3);
        let made = Trace::from_requests(trace.requests().iter().rev().copied().collect(), 5, 5);
        assert_eq!(requests(&made), [(90, 3), (90, 1), (95, 4), (100, 2), (100, 0)]);
    }

    #[test]
    #[should_panic(expected = "a key beyond the 1 that there are")]
    fn a_trace_has_no_keys_but_its_own() {
        Trace::from_requests(vec![Request { at: Moment::from_nanos(0), key: 1 }], 1, 1);
    }

    #[test]
    fn progress_is_told_in_bytes_of_the_input_and_ends_with_all_of_them() {
        let text: String = (0..50_000).map(|second| format!("{second},user{}\n", second % 7)).collect();
        for input in [text.clone().into_bytes(), gzip(text.as_bytes())] {
            let mut told = Vec::new();
            let (selection, limits) = (Selection::default(), Limits::default());
            let trace = Trace::read(&input[..], &selection, &limits, &mut |bytes| told.push(bytes)).expect("a trace");
            assert_eq!((trace.requests().len(), trace.keys()), (50_000, 7));
            assert!(told.len() > 5 && told.is_sorted() && told[0] > 0, "{told:?}");
            assert_eq!(told.last(), Some(&(input.len() as u64)));
        }
    }
}

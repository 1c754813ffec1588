//! A trace of requests, from a log or a synthetic workload.

use std::time::Duration;

pub use super::row::Broken;
pub use super::trace_error::TraceError;
use crate::clock::Moment;

/// A request of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The time since the Unix epoch.
    pub at: Moment,
    /// The user and scope, as a number below [`Trace::keys`].
    pub key: u32,
}

/// Requests in order of time; those of one moment in the order of the input.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    requests: Vec<Request>,
    keys: usize,
    users: usize,
    pub(super) counts: Counts,
}

/// The counts of a trace's lines by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Whether it is an access log in which every URL counts.
    pub every_path: bool,
    /// Requests whose user is an address.
    pub by_address: u64,
    /// Requests skipped since they name no user.
    pub without_user: u64,
    /// Requests skipped since their path is not selected.
    pub other_paths: u64,
    /// Lines that could not be read.
    pub skipped: u64,
    /// Requests that came after a later one in the input, and were sorted.
    pub out_of_order: u64,
}

impl Trace {
    /// A trace of these requests, in any order, for keys below `keys` of `users` users.
    ///
    /// # Panics
    ///
    /// If a request's key is not below `keys`.
    pub fn from_requests(mut requests: Vec<Request>, keys: usize, users: usize) -> Self {
        assert!(requests.iter().all(|request| (request.key as usize) < keys), "a key beyond the {keys} that there are");
        if !requests.is_sorted_by_key(|request| request.at) {
            requests.sort_by_key(|request| request.at);
        }
        Self { requests, keys, users, counts: Counts::default() }
    }

    /// All requests.
    pub fn requests(&self) -> &[Request] {
        &self.requests
    }

    /// The number of distinct pairs of user and scope.
    pub fn keys(&self) -> usize {
        self.keys
    }

    /// The number of distinct users.
    pub fn users(&self) -> usize {
        self.users
    }

    /// The counts of its lines, if it was read.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Whether it has no request.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }
}

/// The requests of a trace that count, and the field that names the user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Access log: the prefix of the paths that count, without the query.
    pub path: Option<String>,
    /// The user's field. Access log: `address` or `user`, by default the user, or else the address.
    /// CSV: a column's name or its number from 1, by default `user`.
    pub user_field: Option<String>,
}

/// The limits of reading a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most lines that are skipped because they can't be read.
    pub broken_lines: u64,
    /// How far a line's time may lie behind the latest before it. Servers log a request when it is
    /// answered, with its time of arrival, so a long download comes late. More than that means
    /// two logs in one, or a clock that was set back.
    pub disorder: Duration,
    /// The most requests, each of 16 bytes.
    pub requests: usize,
    /// The most pairs of user and scope, each of some 100 bytes.
    pub keys: usize,
}

impl Default for Limits {
    /// 1,000 broken lines, an hour of disorder, 200 million requests, 20 million keys.
    fn default() -> Self {
        Self { broken_lines: 1000, disorder: Duration::from_secs(3600), requests: 200_000_000, keys: 20_000_000 }
    }
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
    fn trace_is_the_same_in_every_format() {
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
    fn access_log_is_detected_by_its_first_lines() {
        let start = 1_431_857_103;
        for text in [LOG.to_owned(), format!("started\n\n{LOG}"), format!("a,b\n{LOG}")] {
            let trace = read(text.as_bytes()).expect("a trace");
            assert_eq!(requests(&trace), [(start, 0), (start + 1, 1), (start + 2, 0)]);
            let skipped = u64::from(text.len() > LOG.len());
            assert_eq!(*trace.counts(), Counts { every_path: true, by_address: 2, skipped, ..Counts::default() });
        }
    }

    #[test]
    fn selection_takes_a_path_and_a_user_field_and_counts_the_rest() {
        let selected = |path: Option<&str>, user_field: Option<&str>, text: &str| {
            let [path, user_field] = [path, user_field].map(|text| text.map(str::to_owned));
            Trace::read(text.as_bytes(), &Selection { path, user_field }, &Limits::default(), &mut |_| {})
        };
        let log = LOG.replace("\"GET / HTTP/1.1\" 200 5\n", "\"GET /token?x=1 HTTP/1.1\" 200 5\n");
        let trace = selected(Some("/token"), None, &log).expect("a trace");
        assert_eq!(requests(&trace), [(1_431_857_103, 0)]);
        assert_eq!(*trace.counts(), Counts { by_address: 1, other_paths: 2, ..Counts::default() });
        let trace = selected(None, Some("user"), &log).expect("a trace");
        assert_eq!(requests(&trace), [(1_431_857_104, 0)]);
        assert_eq!(*trace.counts(), Counts { every_path: true, without_user: 2, ..Counts::default() });
        let trace = selected(None, Some("address"), &log).expect("a trace");
        assert_eq!((trace.requests().len(), trace.users(), trace.counts().by_address), (3, 1, 3));

        let csv = "when,path,account\n5,/a,ann\n6,/b,-\n7,/c,\n8,/d,ann\n9,/e\n";
        for field in ["account", "3"] {
            let trace = selected(None, Some(field), csv).expect("a trace");
            assert_eq!(requests(&trace), [(5, 0), (8, 0)], "{field}");
            assert_eq!(*trace.counts(), Counts { without_user: 2, skipped: 1, ..Counts::default() });
        }
        let rows = csv.split_once('\n').expect("lines").1;
        assert_eq!(requests(&selected(None, Some("3"), rows).expect("a trace")), [(5, 0), (8, 0)]);
        let error = |path, field, text| selected(path, field, text).expect_err("an error").to_string();
        for (path, field, text, wanted) in [
            (Some("/x"), None, LOG, "no request that names a user has a path that begins so (with other paths: 3)"),
            (Some("/x"), None, CSV, "CSV has no paths: requests can be selected by path in an access log alone"),
            (
                None,
                Some("user"),
                "a - - [17/May/2015:10:05:03 +0000]\n",
                "no request names a user (of 1): choose another field for it",
            ),
            (None, Some("name"), LOG, "the user of an access log is its field \"address\" or \"user\", not \"name\""),
            (
                None,
                Some("name"),
                csv,
                "line 1 names the columns \"when,path,account\", of which \"name\" can't be the user's",
            ),
            (
                None,
                Some("account"),
                rows,
                "the columns have no names, so \"account\" is none: choose the user's by its number",
            ),
            (None, None, "time,user\n5,-\n6,\n", "no request names a user (of 2): choose another field for it"),
        ] {
            assert_eq!(error(path, field, text), wanted);
        }
    }

    #[test]
    fn key_is_a_user_with_a_scope() {
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
    fn requests_are_sorted_stably_by_time() {
        let trace = read(b"100,a\n90,b\n100,c\n90,d\n95,e\n").expect("a trace");
        assert_eq!(requests(&trace), [(90, 1), (90, 3), (95, 4), (100, 0), (100, 2)]);
        assert_eq!(trace.counts().out_of_order, 3);
        let made = Trace::from_requests(trace.requests().iter().rev().copied().collect(), 5, 5);
        assert_eq!(requests(&made), [(90, 3), (90, 1), (95, 4), (100, 2), (100, 0)]);
    }

    #[test]
    #[should_panic(expected = "a key beyond the 1 that there are")]
    fn key_out_of_range_panics() {
        Trace::from_requests(vec![Request { at: Moment::from_nanos(0), key: 1 }], 1, 1);
    }

    #[test]
    fn progress_counts_the_bytes_of_the_input_to_its_end() {
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

//! The reader of a trace.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::io::Read;

use foldhash::fast::RandomState;

use super::format::{Detected, Detector, Format};
use super::lines::{Line, Lines};
use super::row::{Broken, Row};
use super::trace::{Counts, Limits, Request, Selection, Trace};
use super::trace_error::TraceError;
use crate::clock::Moment;

impl Trace {
    /// Reads a trace in plain text or gzip.
    ///
    /// The format is detected from the first lines: CSV with the columns `time,user` or
    /// `time,user,scope` (epoch seconds or RFC 3339, heading optional), or an access log in common
    /// or combined format. Empty lines and those that begin with `#` are skipped.
    ///
    /// `progress` receives the bytes of the input that were read so far.
    pub fn read(
        input: impl Read,
        selection: &Selection,
        limits: &Limits,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Self, TraceError> {
        Reader::new(selection, limits).read_all(input, progress)
    }
}

/// Reads a trace line by line. Broken lines are counted and skipped up to a limit.
struct Reader<'a> {
    selection: &'a Selection,
    limits: &'a Limits,
    detector: Detector<'a>,
    format: Option<Format>,
    counts: Counts,
    first_skipped: Option<(u64, Broken)>,
    /// Pieces of the present line beyond its first.
    pieces: u64,
    latest: Moment,
    requests: Vec<Request>,
    users: Ids<Box<[u8]>>,
    scopes: Ids<Box<[u8]>>,
    keys: Ids<(u32, u32)>,
}

type Ids<K> = HashMap<K, u32, RandomState>;

impl<'a> Reader<'a> {
    /// The most pieces of one line, 64 MiB: a gzip bomb could unpack to terabytes.
    const MOST_PIECES: u64 = (64 << 20) / Lines::MAX_BYTES;
    /// Lines between two progress reports.
    const STRIDE: u64 = 1 << 12;

    /// A reader before its first line.
    fn new(selection: &'a Selection, limits: &'a Limits) -> Self {
        Self {
            selection,
            limits,
            detector: Detector::new(selection),
            format: None,
            counts: Counts::default(),
            first_skipped: None,
            pieces: 0,
            latest: Moment::from_nanos(0),
            requests: Vec::new(),
            users: Ids::default(),
            scopes: Ids::default(),
            keys: Ids::default(),
        }
    }

    /// Reads the whole input.
    fn read_all(mut self, input: impl Read, progress: &mut dyn FnMut(u64)) -> Result<Trace, TraceError> {
        let mut lines = Lines::new(input).map_err(|error| TraceError::Io(0, error))?;
        let mut calls = 0u64;
        loop {
            match lines.next() {
                Ok(Some((number, line))) => self.read(number, line)?,
                Ok(None) => break,
                Err(error) => {
                    let line = lines.number();
                    let is_corrupt = lines.is_corrupt(&error);
                    return Err(if is_corrupt { TraceError::Gzip(line, error) } else { TraceError::Io(line, error) });
                }
            }
            calls += 1;
            if calls.is_multiple_of(Self::STRIDE) {
                progress(lines.bytes());
            }
        }
        progress(lines.bytes());
        self.into_trace()
    }

    fn read(&mut self, number: u64, line: Line<'_>) -> Result<(), TraceError> {
        match line {
            Line::Whole(line) => self.read_whole(number, line),
            Line::TooLong(line) => {
                self.pieces = 0;
                self.inspect_long(number, line)?;
                self.skip(number, Broken::TooLong)
            }
            Line::More if self.pieces == Self::MOST_PIECES => Err(TraceError::Endless(number)),
            Line::More => {
                self.pieces += 1;
                self.inspect_long(number, &[])
            }
        }
    }

    fn inspect_long(&mut self, number: u64, line: &[u8]) -> Result<(), TraceError> {
        if self.format.is_some() { Ok(()) } else { self.detector.inspect_long(number, line).map(drop) }
    }

    fn read_whole(&mut self, number: u64, line: &[u8]) -> Result<(), TraceError> {
        if line.first() == Some(&b'#') || line.trim_ascii_start().is_empty() {
            return Ok(());
        }
        let format = match &mut self.format {
            Some(format) => format,
            None => match self.detector.inspect(number, line)? {
                Detected::Heading(format) => {
                    self.format = Some(format);
                    return Ok(());
                }
                Detected::Row(format) => self.format.insert(format),
                Detected::Neither => return self.skip(number, Broken::Neither),
            },
        };
        match format.row(line) {
            Ok(row) => self.add_request(number, row),
            Err(Broken::NoUser) => {
                self.counts.without_user += 1;
                Ok(())
            }
            Err(Broken::OtherPath) => {
                self.counts.other_paths += 1;
                Ok(())
            }
            Err(why) => self.skip(number, why),
        }
    }

    fn add_request(&mut self, number: u64, row: Row<'_>) -> Result<(), TraceError> {
        let Limits { disorder: bound, requests: limit, .. } = *self.limits;
        if row.at < self.latest {
            let behind = self.latest.since(row.at);
            if behind > bound {
                return Err(TraceError::Disorder { line: number, behind, bound });
            }
            self.counts.out_of_order += 1;
        }
        if self.requests.len() >= limit {
            return Err(TraceError::TooMany(limit, "requests"));
        }
        let key = self.key_of(&row)?;
        self.counts.by_address += u64::from(row.by_address);
        self.latest = self.latest.max(row.at);
        self.requests.push(Request { at: row.at, key });
        Ok(())
    }

    fn key_of(&mut self, row: &Row<'_>) -> Result<u32, TraceError> {
        let limit = self.limits.keys;
        let user = id_of(&mut self.users, &*row.user, limit)?;
        // Without scopes, each user is one key.
        let Some(scope) = &row.scope else { return Ok(user) };
        let scope = id_of(&mut self.scopes, &**scope, limit)?;
        id_of(&mut self.keys, &(user, scope), limit)
    }

    fn skip(&mut self, line: u64, why: Broken) -> Result<(), TraceError> {
        self.counts.skipped += 1;
        self.first_skipped.get_or_insert((line, why));
        // Input that is no log at all gets that error, not one about broken lines.
        if self.format.is_some() { self.check_skipped() } else { Ok(()) }
    }

    fn check_skipped(&self) -> Result<(), TraceError> {
        let limit = self.limits.broken_lines;
        match self.first_skipped.filter(|_| self.counts.skipped > limit) {
            Some((line, why)) => Err(TraceError::TooManyBroken { limit, line, why }),
            None => Ok(()),
        }
    }

    fn into_trace(mut self) -> Result<Trace, TraceError> {
        if self.format.is_none() {
            return Err(self.detector.give_up());
        }
        self.check_skipped()?;
        if self.requests.is_empty() {
            let Counts { other_paths, without_user, .. } = self.counts;
            return Err(match self.first_skipped {
                _ if other_paths > 0 => TraceError::OtherPaths(other_paths),
                _ if without_user > 0 => TraceError::NoUsers(without_user),
                Some((line, why)) => TraceError::AllBroken(line, why),
                None => TraceError::Empty,
            });
        }
        let keys = if self.keys.is_empty() { self.users.len() } else { self.keys.len() };
        let mut trace = Trace::from_requests(self.requests, keys, self.users.len());
        let every_path = matches!(self.format, Some(Format::AccessLog(_))) && self.selection.path.is_none();
        trace.counts = Counts { every_path, ..self.counts };
        Ok(trace)
    }
}

/// The number of a name. A new name gets the next number, up to `limit`.
fn id_of<K, Q>(ids: &mut Ids<K>, name: &Q, limit: usize) -> Result<u32, TraceError>
where
    K: Borrow<Q> + From<Q::Owned> + Hash + Eq,
    Q: ToOwned + Hash + Eq + ?Sized,
{
    if let Some(id) = ids.get(name) {
        return Ok(*id);
    }
    let next = u32::try_from(ids.len())
        .ok()
        .filter(|_| ids.len() < limit)
        .ok_or(TraceError::TooMany(limit, "different users and scopes"))?;
    ids.insert(name.to_owned().into(), next);
    Ok(next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::time::Duration;

    use super::super::lines::gzip;
    use proptest::prelude::*;

    fn read_with(limits: &Limits, input: impl Read) -> Result<Trace, TraceError> {
        Trace::read(input, &Selection::default(), limits, &mut |_| {})
    }

    fn error(input: impl Read) -> String {
        let error = read_with(&Limits::default(), input).expect_err("no trace").to_string();
        assert!(!error.contains('\n') && error.len() < 400, "{error}");
        error
    }

    #[test]
    fn input_without_requests_is_an_error() {
        for text in ["", "\n\r\n", "# nothing\n", "time,user\n", "\u{feff}"] {
            assert_eq!(error(text.as_bytes()), "the trace is empty: it has no line with a request", "{text:?}");
        }
        assert_eq!(error(&gzip(b"")[..]), "the trace is empty: it has no line with a request");
        let error = error(&b"time,user\n\nx,y\n"[..]);
        let why = "its time is neither epoch seconds nor RFC 3339";
        assert_eq!(error, format!("no line can be read; line 3 is the first: {why}"));
    }

    #[test]
    fn unknown_format_is_an_error_that_quotes_the_first_line() {
        let neither = "the trace is neither CSV with the columns `time,user` or `time,user,scope` nor an access log in \
                       common or combined format: line 2 begins with \"<?xml?>\" (as CSV: it has 1 of 2 columns; as an \
                       access log: no time like `[17/May/2015:10:05:03 +0000]` follows its first three words)";
        assert_eq!(error(&b"\n<?xml?>\n"[..]), neither);
        let binary: Vec<u8> = (0..1u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for input in [&binary[..], &gzip(&binary), &gzip(&gzip(b"5,a\n"))] {
            assert!(error(input).starts_with("the trace is neither CSV"));
        }
        let columns = error(&b"user,time\na,5\n"[..]);
        assert_eq!(columns, "line 1 names the columns \"user,time\", but `time,user` or `time,user,scope` are wanted");
    }

    #[test]
    fn endless_line_is_an_error() {
        assert!(error(io::repeat(0)).contains("(as CSV: it is too long; as an access log: it is too long)"));
        assert!(error(io::repeat(b'1')).contains("begins with \"1111"));
        assert_eq!(error((&b"5,a\n6,"[..]).chain(io::repeat(b'b'))), "line 2 is longer than 64 MiB: not a log");
        // 80 MB, packed into a few hundred kB.
        let bomb = gzip(&[b"5,a\n", &vec![0; 80 << 20][..]].concat());
        assert_eq!(error(&bomb[..]), "line 2 is longer than 64 MiB: not a log");
    }

    #[test]
    fn long_line_counts_as_one_broken_line() {
        let long = "x".repeat(1 << 20);
        for text in [format!("5,a\n6,{long}\n7,b\n"), format!("{long}\n5,a\n6,{long}x\n7,b")] {
            let trace = read_with(&Limits::default(), text.as_bytes()).expect("a trace");
            assert_eq!((trace.requests().len(), trace.keys()), (2, 2));
            assert_eq!(trace.counts().skipped, text.matches(&long).count() as u64);
        }
    }

    #[test]
    fn broken_lines_are_skipped_up_to_their_limit() {
        let limits = Limits { broken_lines: 2, ..Limits::default() };
        let trace = read_with(&limits, &b"5,a\n6\n\x00\xff,\n7,b\n"[..]).expect("a trace");
        assert_eq!((trace.requests().len(), trace.counts().skipped), (2, 2));
        let error = read_with(&limits, &b"5,a\n6\n6\n7,b\n6"[..]).expect_err("too many").to_string();
        assert_eq!(error, "more than 2 lines can't be read; line 2 is the first: it has 1 of 2 columns");
        let none = Limits { broken_lines: 0, ..Limits::default() };
        let error = read_with(&none, &b"hello\n5,a\n"[..]).expect_err("one too many").to_string();
        assert!(error.ends_with("line 1 is the first: it is neither a row of CSV nor a line of an access log"));
    }

    #[test]
    fn disorder_is_accepted_up_to_its_bound() {
        let limits = Limits { disorder: Duration::from_secs(60), ..Limits::default() };
        let trace = read_with(&limits, &b"100,a\n40,b\n100,a\n"[..]).expect("a trace");
        assert_eq!(trace.counts().out_of_order, 1);
        let error = read_with(&limits, &b"# x\n100,a\n90,b\n39.5,c\n"[..]).expect_err("too far back").to_string();
        let wanted = "line 4 lies 1m 500ms behind the latest time before it, and at most 1m are put in order: sort the \
                      trace by time";
        assert_eq!(error, wanted);
    }

    #[test]
    fn requests_and_keys_are_limited() {
        let limits = Limits { requests: 3, keys: 2, ..Limits::default() };
        assert!(read_with(&limits, &b"1,a\n2,b\n3,a\n"[..]).is_ok());
        let error = |text: &[u8]| read_with(&limits, text).expect_err("a limit").to_string();
        assert_eq!(error(b"1,a\n2,b\n3,a\n4,a\n"), "the trace has more than 3 requests: cut it");
        assert_eq!(error(b"1,a\n2,b\n3,c\n"), "the trace has more than 2 different users and scopes: cut it");
        assert_eq!(error(b"1,a,x\n2,a,y\n3,b,x\n"), "the trace has more than 2 different users and scopes: cut it");
    }

    #[test]
    fn corrupt_gzip_data_is_an_error_at_any_place() {
        let text: String = (0..50_000).map(|second| format!("{second},user{}\n", second % 777)).collect();
        let packed = gzip(text.as_bytes());
        for length in [2, 9, 10, packed.len() / 2, packed.len() - 8, packed.len() - 1] {
            let error = error(&packed[..length]);
            assert!(error.starts_with("the gzip data is truncated or corrupt after line "), "{length}: {error}");
        }
        for place in [packed.len() / 2, packed.len() - 6] {
            let mut corrupt = packed.clone();
            corrupt[place] ^= 0x55;
            assert!(read_with(&Limits::default(), &corrupt[..]).is_err(), "{place}");
        }
        let trailed = [&packed[..], b"more"].concat();
        assert!(error(&trailed[..]).starts_with("the gzip data is truncated or corrupt after line 50000"));
    }

    #[test]
    fn failing_input_is_an_error() {
        struct Failing;
        impl Read for Failing {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("the disk is gone"))
            }
        }
        assert_eq!(error(Failing), "cannot read the trace after line 0: the disk is gone");
        assert_eq!(error((&b"5,a\n6,b\n"[..]).chain(Failing)), "cannot read the trace after line 2: the disk is gone");
        let packed = gzip(b"5,a\n6,b\n");
        assert!(error(packed[..15].chain(Failing)).ends_with(": the disk is gone"));
    }

    proptest! {
        #[test]
        fn any_input_ends_in_a_trace_or_an_error(
            start in prop::sample::select(vec![&b""[..], b"5,a\n", b"time,user\n", b"\x1f\x8b\x08\0", b"# x\n"]),
            bytes in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            if let Ok(trace) = read_with(&Limits::default(), start.chain(&bytes[..])) {
                prop_assert!(trace.requests().iter().all(|request| (request.key as usize) < trace.keys()));
                prop_assert!(trace.requests().is_sorted_by_key(|request| request.at));
                prop_assert!(!trace.is_empty());
            }
        }
    }
}

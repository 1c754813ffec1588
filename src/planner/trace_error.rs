//! The errors of reading a trace.

use std::io;
use std::time::Duration;

use humantime::format_duration;

use super::row::Broken;

/// Why a trace can't be read, in one line. It quotes a short piece of the input at most.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// No line with a request.
    #[error("the trace is empty: it has no line with a request")]
    Empty,
    /// Of no known format.
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
    /// This line of CSV names other columns.
    #[error("line {0} names the columns \"{1}\", but `time,user` or `time,user,scope` are wanted")]
    Heading(u64, String),
    /// CSV without the column that is selected for the user.
    #[error("line {line} names the columns \"{found}\", of which \"{field}\" can't be the user's")]
    OtherHeading {
        /// Its number.
        line: u64,
        /// How the line begins.
        found: String,
        /// The user field.
        field: String,
    },
    /// The user's column is selected by this name, but the CSV has no heading.
    #[error("the columns have no names, so \"{0}\" is none: choose the user's by its number")]
    NoHeading(String),
    /// This is no user field of an access log.
    #[error("the user of an access log is its field \"address\" or \"user\", not \"{0}\"")]
    NoField(String),
    /// A path is selected, but CSV has none.
    #[error("CSV has no paths: requests can be selected by path in an access log alone")]
    NoPaths,
    /// No path of the access log has the selected prefix, but so many others.
    #[error("no request that names a user has a path that begins so (with other paths: {0})")]
    OtherPaths(u64),
    /// The user's field is empty in all of these requests.
    #[error("no request names a user (of {0}): choose another field for it")]
    NoUsers(u64),
    /// Beyond [`Limits::broken_lines`](super::trace::Limits::broken_lines).
    #[error("more than {limit} lines can't be read; line {line} is the first: {why}")]
    TooManyBroken {
        /// How many may be broken.
        limit: u64,
        /// The first of them.
        line: u64,
        /// The mistake in it.
        why: Broken,
    },
    /// No line is readable, this one first.
    #[error("no line can be read; line {0} is the first: {1}")]
    AllBroken(u64, Broken),
    /// This line has no end.
    #[error("line {0} is longer than 64 MiB: not a log")]
    Endless(u64),
    /// Beyond [`Limits::disorder`](super::trace::Limits::disorder).
    #[error(
        "line {line} lies {} behind the latest time before it, and at most {} are put in order: sort the trace by time",
        format_duration(*.behind), format_duration(*.bound)
    )]
    Disorder {
        /// Its number.
        line: u64,
        /// How far it lies back.
        behind: Duration,
        /// How far it may.
        bound: Duration,
    },
    /// Beyond [`Limits::requests`](super::trace::Limits::requests) or [`Limits::keys`](super::trace::Limits::keys).
    #[error("the trace has more than {0} {1}: cut it")]
    TooMany(usize, &'static str),
    /// The gzip data can't be unpacked beyond this line.
    #[error("the gzip data is truncated or corrupt after line {0}: {1}")]
    Gzip(u64, io::Error),
    /// The input failed after this line.
    #[error("cannot read the trace after line {0}: {1}")]
    Io(u64, io::Error),
}

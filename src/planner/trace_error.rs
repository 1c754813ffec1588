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
    /// CSV with other columns.
    #[error("line {line} names the columns \"{found}\", but `time,user` or `time,user,scope` are wanted")]
    Heading {
        /// Where.
        line: u64,
        /// How the line begins.
        found: String,
    },
    /// CSV without the column that is selected for the user.
    #[error("line {line} names the columns \"{found}\", of which \"{field}\" can't be the user's")]
    OtherHeading {
        /// Where.
        line: u64,
        /// How the line begins.
        found: String,
        /// The user field.
        field: String,
    },
    /// The user's column is selected by name, but the CSV has no heading.
    #[error("the columns have no names, so \"{field}\" is none: choose the user's by its number")]
    NoHeading {
        /// The user field.
        field: String,
    },
    /// An unknown user field of an access log.
    #[error("the user of an access log is its field \"address\" or \"user\", not \"{field}\"")]
    NoField {
        /// The user field.
        field: String,
    },
    /// A path is selected, but CSV has none.
    #[error("CSV has no paths: requests can be selected by path in an access log alone")]
    NoPaths,
    /// No path of the access log has the selected prefix.
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
    /// No line is readable.
    #[error("no line can be read; line {line} is the first: {why}")]
    AllBroken {
        /// The first of them.
        line: u64,
        /// The mistake in it.
        why: Broken,
    },
    /// A line without an end.
    #[error("line {line} is longer than 64 MiB: not a log")]
    Endless {
        /// Which.
        line: u64,
    },
    /// Beyond [`Limits::disorder`](super::trace::Limits::disorder).
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
    /// Beyond [`Limits::requests`](super::trace::Limits::requests).
    #[error("the trace has more than {limit} requests: cut it")]
    TooManyRequests {
        /// How many it may have.
        limit: usize,
    },
    /// Beyond [`Limits::keys`](super::trace::Limits::keys).
    #[error("the trace has more than {limit} different users and scopes: cut it")]
    TooManyKeys {
        /// How many it may have.
        limit: usize,
    },
    /// The gzip data can't be unpacked.
    #[error("the gzip data is truncated or corrupt after line {line}: {error}")]
    Gzip {
        /// The last line that could be read.
        line: u64,
        /// The unpacker's message.
        error: io::Error,
    },
    /// The input failed.
    #[error("cannot read the trace after line {line}: {error}")]
    Io {
        /// The last line that could be read.
        line: u64,
        /// The input's message.
        error: io::Error,
    },
}

//! One request of a trace, as its line has it.

use std::borrow::Cow;
use std::time::Duration;

use crate::clock::Moment;

/// A request as its line has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row<'a> {
    /// The time since the Unix epoch.
    pub(super) at: Moment,
    /// The user.
    pub(super) user: Cow<'a, [u8]>,
    /// Whether the user is an address.
    pub(super) by_address: bool,
    /// The scope, if the trace has scopes.
    pub(super) scope: Option<Cow<'a, [u8]>>,
}

impl<'a> Row<'a> {
    /// The longest user and the longest scope, in bytes; bounds the memory for names.
    pub(super) const MAX_NAME_BYTES: usize = 512;

    /// A request, if its names are present and short enough.
    pub(super) fn new(at: Moment, user: Cow<'a, [u8]>, scope: Option<Cow<'a, [u8]>>) -> Result<Self, Broken> {
        if matches!(&*user, b"" | b"-") {
            return Err(Broken::NoUser);
        }
        if user.len().max(scope.as_ref().map_or(0, |scope| scope.len())) > Self::MAX_NAME_BYTES {
            return Err(Broken::LongName);
        }
        Ok(Self { at, user, by_address: false, scope })
    }
}

/// The moment so long after the Unix epoch, if it is in the years 1970 to 2200.
pub(super) fn moment(seconds: i64, nanos: u32) -> Result<Moment, Broken> {
    /// The end of the year 2200.
    const END: u64 = 7_289_654_400;
    let seconds = u64::try_from(seconds).ok().filter(|seconds| *seconds < END).ok_or(Broken::OutOfRange)?;
    Ok(Moment::from_nanos(0) + Duration::new(seconds, nanos))
}

/// Why a line gives no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// Longer than the longest line that is read.
    #[error("it is too long")]
    TooLong,
    /// Before the format was detected: of no known format.
    #[error("it is neither a row of CSV nor a line of an access log")]
    Neither,
    /// CSV: not as many columns as the other rows.
    #[error("it has {found} of {wanted} columns")]
    Columns {
        /// Its columns.
        found: usize,
        /// The columns of the other rows.
        wanted: usize,
    },
    /// CSV: a quote is missing or misplaced.
    #[error("its quotes do not match")]
    Quotes,
    /// CSV: the time can't be parsed.
    #[error("its time is neither epoch seconds nor RFC 3339")]
    Time,
    /// Access log: no time at its place.
    #[error("no time like `[17/May/2015:10:05:03 +0000]` follows its first three words")]
    Stamp,
    /// A time out of range.
    #[error("its time is not in the years 1970 to 2200 (epoch times are in seconds)")]
    OutOfRange,
    /// No user, or `-` in its place.
    #[error("it names no user")]
    NoUser,
    /// Access log: a path that is not selected.
    #[error("its path is not selected")]
    OtherPath,
    /// CSV: the user's column does not exist, or is that of the time.
    #[error("column {0} can't be its user")]
    NoColumn(usize),
    /// A name that is too long.
    #[error("its user or scope is longer than {} bytes", Row::MAX_NAME_BYTES)]
    LongName,
}

impl Broken {
    /// Whether the line is readable and only its request does not count.
    pub(super) const fn is_readable(self) -> bool {
        matches!(self, Self::NoUser | Self::OtherPath)
    }
}

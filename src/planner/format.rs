//! Detection of a trace's format from its first lines.

use super::access_log::AccessLog;
use super::csv::{self, Csv, Heading};
use super::row::{Broken, Row};
use super::trace::Selection;
use super::trace_error::TraceError;

/// A trace format.
#[derive(Debug)]
pub(super) enum Format {
    /// Comma-separated values.
    Csv(Csv),
    /// A web server's access log.
    AccessLog(AccessLog),
}

impl Format {
    /// Reads a line.
    pub(super) fn row<'a>(&mut self, line: &'a [u8]) -> Result<Row<'a>, Broken> {
        match self {
            Self::Csv(csv) => csv.row(line),
            Self::AccessLog(log) => log.row(line),
        }
    }

    fn of(line: &[u8], user_field: Option<&str>) -> Result<Self, (Broken, Broken)> {
        let csv = match Csv::of_row(line, user_field) {
            Ok(csv) => return Ok(Self::Csv(csv)),
            Err(broken) => broken,
        };
        let mut log = AccessLog::default();
        match log.row(line) {
            Err(broken) if !broken.is_readable() => Err((csv, broken)),
            _ => Ok(Self::AccessLog(log)),
        }
    }

    /// Applies the selection, if this format supports it.
    fn selecting(self, selection: &Selection, has_heading: bool) -> Result<Self, TraceError> {
        let field = selection.user_field.clone().unwrap_or_default();
        match self {
            Self::Csv(_) if selection.path.is_some() => Err(TraceError::NoPaths),
            Self::Csv(_) if !has_heading && !field.is_empty() && csv::number(&field).is_none() => {
                Err(TraceError::NoHeading(field))
            }
            Self::Csv(csv) => Ok(Self::Csv(csv)),
            Self::AccessLog(_) => AccessLog::new(selection).map(Self::AccessLog).ok_or(TraceError::NoField(field)),
        }
    }
}

/// Detects the format, line by line.
#[derive(Debug)]
pub(super) struct Detector<'a> {
    selection: &'a Selection,
    lines: u32,
    first: Option<First>,
}

/// The first line that did not show the format, for the error.
#[derive(Debug)]
struct First {
    line: u64,
    found: String,
    is_heading: bool,
    why: (Broken, Broken),
}

/// The result of inspecting a line.
#[derive(Debug)]
pub(super) enum Detected {
    /// A heading, which shows the format.
    Heading(Format),
    /// A request, which shows the format.
    Row(Format),
    /// Neither.
    Neither,
}

impl<'a> Detector<'a> {
    /// A detector before its first line.
    pub(super) fn new(selection: &'a Selection) -> Self {
        Self { selection, lines: 0, first: None }
    }

    /// Detection gives up after so many lines.
    const MOST_LINES: u32 = 100;

    /// Inspects a line that is not empty.
    pub(super) fn inspect(&mut self, number: u64, line: &[u8]) -> Result<Detected, TraceError> {
        let user_field = self.selection.user_field.as_deref();
        let heading = if self.lines == 0 { Csv::heading(line, user_field) } else { None };
        if let Some(Heading::Known(csv)) = heading {
            return Ok(Detected::Heading(Format::Csv(csv).selecting(self.selection, true)?));
        }
        match Format::of(line, user_field) {
            // Under an unknown heading, the columns could mean anything.
            Ok(Format::Csv(_)) if self.first.as_ref().is_some_and(|first| first.is_heading) => Err(self.give_up()),
            Ok(format) => Ok(Detected::Row(format.selecting(self.selection, false)?)),
            Err(why) => self.pass(number, line, heading.is_some(), why),
        }
    }

    /// Inspects a line, or a piece of one, that is too long to be parsed.
    pub(super) fn inspect_long(&mut self, number: u64, line: &[u8]) -> Result<Detected, TraceError> {
        self.pass(number, line, false, (Broken::TooLong, Broken::TooLong))
    }

    fn pass(
        &mut self,
        line: u64,
        text: &[u8],
        is_heading: bool,
        why: (Broken, Broken),
    ) -> Result<Detected, TraceError> {
        self.first.get_or_insert_with(|| First { line, found: excerpt(text), is_heading, why });
        self.lines += 1;
        if self.lines < Self::MOST_LINES { Ok(Detected::Neither) } else { Err(self.give_up()) }
    }

    /// The error for a trace whose format was not detected.
    pub(super) fn give_up(&mut self) -> TraceError {
        match self.first.take() {
            None => TraceError::Empty,
            Some(First { line, found, is_heading: true, .. }) => match &self.selection.user_field {
                None => TraceError::Heading(line, found),
                Some(field) => TraceError::OtherHeading { line, found, field: field.clone() },
            },
            Some(First { line, found, why: (csv, log), .. }) => TraceError::Neither { line, found, csv, log },
        }
    }
}

/// A short excerpt, escaped for a terminal.
fn excerpt(text: &[u8]) -> String {
    const MOST_BYTES: usize = 24;
    let start = &text[..text.len().min(MOST_BYTES)];
    format!("{}{}", start.escape_ascii(), if start.len() < text.len() { "..." } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detect(detector: &mut Detector<'_>, line: &str) -> Result<Detected, TraceError> {
        detector.inspect(7, line.as_bytes())
    }

    #[test]
    fn detection_gives_up_after_its_limit() {
        let selection = Selection::default();
        for line in ["a,b", "\0\0"] {
            let mut detector = Detector::new(&selection);
            for _ in 1..Detector::MOST_LINES {
                assert!(matches!(detect(&mut detector, line), Ok(Detected::Neither)));
            }
            assert!(detect(&mut detector, line).is_err());
        }
    }

    #[test]
    fn excerpt_is_short_and_escaped() {
        assert_eq!(excerpt(b"\x1b[31m\"\xff"), r#"\x1b[31m\"\xff"#);
        assert_eq!(excerpt(&[b'x'; 24]), "x".repeat(24));
        assert_eq!(excerpt(&[b'x'; 25]), "x".repeat(24) + "...");
    }
}

//! Parser of traces in CSV.

use std::borrow::Cow;

use jiff::fmt::temporal::DateTimeParser;

use super::row::{Broken, Row, moment};
use crate::clock::Moment;

/// Parses `time,user` or `time,user,scope`, or any columns if that of the user is selected.
///
/// A heading is optional. Times are epoch seconds (`1431857103`, `1431857103.25`) or RFC 3339.
/// Fields may be quoted as in RFC 4180, but not span lines; space around unquoted ones is
/// trimmed. All rows must have as many columns as the first: an extra comma would otherwise
/// turn half a name into a scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Csv {
    columns: usize,
    time: usize,
    user: usize,
    scope: Option<usize>,
}

impl Csv {
    const TIME_USER: Self = Self { columns: 2, time: 0, user: 1, scope: None };
    const TIME_USER_SCOPE: Self = Self { columns: 3, time: 0, user: 1, scope: Some(2) };

    /// Parses a first line as a heading; `None` if it is none.
    ///
    /// With a user field, the time is the column `time` or the first, and the scope the column
    /// `scope`, if there is one.
    pub(super) fn heading(line: &[u8], user_field: Option<&str>) -> Option<Heading> {
        let mut rest = Some(line);
        let mut names = Vec::new();
        while rest.is_some() {
            names.push(field(&mut rest).ok()?.to_ascii_lowercase());
        }
        let names: Vec<_> = names.iter().map(Vec::as_slice).collect();
        let place = |wanted: &[u8]| names.iter().position(|name| name.eq_ignore_ascii_case(wanted));
        let chosen = user_field.and_then(|wanted| place(wanted.as_bytes()));
        let is_name = |name: &&[u8]| {
            name.first().is_some_and(u8::is_ascii_alphabetic)
                && name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"_-. ".contains(byte))
        };
        if chosen.is_none() && !names.iter().all(is_name) {
            return None;
        }
        if let Some(wanted) = user_field {
            let columns = names.len();
            let time = place(b"time").unwrap_or(0);
            let chosen = chosen.or_else(|| number(wanted)).filter(|user| *user < columns && *user != time);
            let csv = |user| Self { columns, time, user, scope: place(b"scope").filter(|scope| *scope != user) };
            return Some(chosen.map_or(Heading::Other, |user| Heading::Known(csv(user))));
        }
        match names[..] {
            [b"time", b"user"] => Some(Heading::Known(Self::TIME_USER)),
            [b"time", b"user", b"scope"] => Some(Heading::Known(Self::TIME_USER_SCOPE)),
            [] | [_] => None,
            _ => Some(Heading::Other),
        }
    }

    /// The columns of a first row. Without a heading, the user field is a column's number.
    pub(super) fn of_row(line: &[u8], user_field: Option<&str>) -> Result<Self, Broken> {
        let found = match Self::TIME_USER.row(line) {
            Err(Broken::Columns { found, .. }) => found,
            Err(Broken::Quotes) => return Err(Broken::Quotes),
            _ => Self::TIME_USER.columns,
        };
        let csv = match (user_field, found) {
            (None, 3) => Self::TIME_USER_SCOPE,
            (None, _) => Self::TIME_USER,
            (Some(wanted), columns) => {
                let user = number(wanted).unwrap_or(Self::TIME_USER.user);
                if user == 0 || user >= columns {
                    return Err(Broken::NoColumn(user + 1));
                }
                Self { columns, user, ..Self::TIME_USER }
            }
        };
        match csv.row(line) {
            Err(why) if !why.is_readable() => Err(why),
            _ => Ok(csv),
        }
    }

    /// Reads a row.
    pub(super) fn row<'a>(&self, line: &'a [u8]) -> Result<Row<'a>, Broken> {
        let [mut at, mut user, mut scope] = [const { Cow::Borrowed(&[] as &[u8]) }; 3];
        let (mut found, mut rest) = (0, Some(line));
        while rest.is_some() {
            let field = field(&mut rest)?;
            if found == self.time {
                at = field;
            } else if found == self.user {
                user = field;
            } else if Some(found) == self.scope {
                scope = field;
            }
            found += 1;
        }
        if found != self.columns {
            return Err(Broken::Columns { found, wanted: self.columns });
        }
        Row::new(time(&at)?, user, self.scope.map(|_| scope))
    }
}

/// A heading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heading {
    /// It names the required columns.
    Known(Csv),
    /// It names other columns, or is a row whose fields look like names.
    Other,
}

/// The index of the column with this number, from 1.
pub(super) fn number(text: &str) -> Option<usize> {
    text.parse::<usize>().ok()?.checked_sub(1)
}

/// Takes the next field; `rest` is `None` after the last.
fn field<'a>(rest: &mut Option<&'a [u8]>) -> Result<Cow<'a, [u8]>, Broken> {
    let text = rest.take().unwrap_or_default();
    if let Some(text) = text.strip_prefix(b"\"") {
        return quoted(text, rest);
    }
    let end = text.iter().position(|byte| matches!(byte, b',' | b'"')).unwrap_or(text.len());
    match text.get(end) {
        Some(b'"') => return Err(Broken::Quotes),
        Some(_) => *rest = Some(&text[end + 1..]),
        None => {}
    }
    Ok(text[..end].trim_ascii().into())
}

fn quoted<'a>(text: &'a [u8], rest: &mut Option<&'a [u8]>) -> Result<Cow<'a, [u8]>, Broken> {
    let (mut field, mut from) = (Vec::new(), 0);
    loop {
        let end = text[from..].iter().position(|byte| *byte == b'"').ok_or(Broken::Quotes)? + from;
        match text.get(end + 1) {
            // Doubled quotes are one; keep the text up to the first of them.
            Some(b'"') => field.extend_from_slice(&text[from..=end]),
            after => {
                if after.is_some() {
                    *rest = Some(text[end + 1..].strip_prefix(b",").ok_or(Broken::Quotes)?);
                }
                if from == 0 {
                    return Ok(text[..end].into());
                }
                field.extend_from_slice(&text[from..end]);
                return Ok(field.into());
            }
        }
        from = end + 2;
    }
}

fn time(text: &[u8]) -> Result<Moment, Broken> {
    static PARSER: DateTimeParser = DateTimeParser::new();
    if let Some((seconds, nanos)) = decimal(text) {
        return moment(seconds, nanos);
    }
    if text.strip_prefix(b"-").is_some_and(|text| decimal(text).is_some()) {
        return Err(Broken::OutOfRange);
    }
    let time = PARSER.parse_timestamp(text).map_err(|_| Broken::Time)?;
    // Before 1970 the fraction is negative.
    moment(time.as_second(), u32::try_from(time.subsec_nanosecond()).map_err(|_| Broken::OutOfRange)?)
}

/// Parses digits with an optional fraction, of which nine digits count.
fn decimal(text: &[u8]) -> Option<(i64, u32)> {
    let whole = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (digits, rest) = text.split_at(whole);
    let digit = |byte: &u8| byte - b'0';
    let seconds = digits.iter().fold(0i64, |sum, byte| sum.saturating_mul(10).saturating_add(digit(byte).into()));
    let fraction = match rest {
        _ if whole == 0 => return None,
        [] => return Some((seconds, 0)),
        [b'.', fraction @ ..] if !fraction.is_empty() && fraction.iter().all(u8::is_ascii_digit) => fraction,
        _ => return None,
    };
    let padded = fraction.iter().map(digit).chain(std::iter::repeat(0));
    Some((seconds, padded.take(9).fold(0, |sum, digit| sum * 10 + u32::from(digit))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TWO: Csv = Csv::TIME_USER;
    const THREE: Csv = Csv::TIME_USER_SCOPE;

    fn user(line: &str) -> Result<String, Broken> {
        TWO.row(line.as_bytes()).map(|row| String::from_utf8_lossy(&row.user).into_owned())
    }

    fn nanos(time: &str) -> Result<u64, Broken> {
        TWO.row(format!("{time},u").as_bytes()).map(|row| row.at.as_nanos())
    }

    const S: u64 = 1_000_000_000;

    #[test]
    fn times_are_epoch_seconds_or_rfc_3339() {
        for (time, expected) in [
            ("0", 0),
            ("1431857103", 1_431_857_103 * S),
            ("1431857103.0", 1_431_857_103 * S),
            ("1000000000.1", 1_000_000_000 * S + S / 10),
            ("5.123456789999", 5 * S + 123_456_789),
            (" 5 ", 5 * S),
            ("\"5\"", 5 * S),
            ("2015-05-17T10:05:03Z", 1_431_857_103 * S),
            ("2015-05-17 10:05:03z", 1_431_857_103 * S),
            ("2015-05-17T12:35:03.25+02:30", 1_431_857_103 * S + S / 4),
            ("1969-12-31T19:00:01-05:00", S),
            ("2200-12-31T23:59:59.999999999Z", 7_289_654_400 * S - 1),
        ] {
            assert_eq!(nanos(time), Ok(expected), "{time}");
        }
    }

    #[test]
    fn invalid_times_are_broken() {
        for time in ["", "NaN", "inf", "Infinity", "1e9", "0x10", "1.", ".5", "5.-1", "+5", "--5", "5 5", "١"] {
            assert_eq!(nanos(time), Err(Broken::Time), "{time}");
        }
        // A day, no offset, no such month.
        for time in ["2015-05-17", "2015-05-17T10:05:03", "2015-13-01T00:00:00Z"] {
            assert_eq!(nanos(time), Err(Broken::Time), "{time}");
        }
        let digits = "9".repeat(10_000);
        for time in ["-1", "-0.5", "1431857103000", "1969-12-31T23:59:59.5Z", "2201-01-01T00:00:00Z", &digits] {
            assert_eq!(nanos(time), Err(Broken::OutOfRange), "{time}");
        }
    }

    #[test]
    fn quotes_hold_commas_and_doubled_quotes() {
        assert_eq!(user("1,\"a,b\"").as_deref(), Ok("a,b"));
        assert_eq!(user("\"1\",\"a \"\"b\"\" c\"").as_deref(), Ok("a \"b\" c"));
        assert_eq!(user("1,\"\"\"\"").as_deref(), Ok("\""));
        assert_eq!(user("1, a b ").as_deref(), Ok("a b"));
        let row = THREE.row(b"1,\"a\",\"x,\"\"y\"").expect("a row");
        assert_eq!((&*row.user, row.scope.as_deref()), (&b"a"[..], Some(&b"x,\"y"[..])));
        for line in ["1,\"a", "1,\"a\"b", "1,a\"b\"", "1,\"a\"\"", "1, \"a\"", "\"1,a"] {
            assert_eq!(user(line), Err(Broken::Quotes), "{line}");
        }
    }

    #[test]
    fn all_rows_have_as_many_columns_as_the_first() {
        let columns = |csv: Csv, line: &str| csv.row(line.as_bytes()).map(drop);
        assert_eq!(columns(TWO, "1"), Err(Broken::Columns { found: 1, wanted: 2 }));
        assert_eq!(columns(TWO, "1,a,"), Err(Broken::Columns { found: 3, wanted: 2 }));
        assert_eq!(columns(THREE, "1,a"), Err(Broken::Columns { found: 2, wanted: 3 }));
        assert_eq!(columns(THREE, "1,a,b,c,d"), Err(Broken::Columns { found: 5, wanted: 3 }));
        assert_eq!(columns(THREE, "1,a,"), Ok(()));
        assert_eq!(columns(TWO, "1,"), Err(Broken::NoUser));
        let named =
            |user: usize, scope: usize| columns(THREE, &format!("1,{},{}", "u".repeat(user), "s".repeat(scope)));
        assert_eq!(named(Row::MAX_NAME_BYTES, Row::MAX_NAME_BYTES), Ok(()));
        assert_eq!(named(Row::MAX_NAME_BYTES + 1, 0), Err(Broken::LongName));
        assert_eq!(named(1, Row::MAX_NAME_BYTES + 1), Err(Broken::LongName));
        assert_eq!(Csv::of_row(b"1,a", None), Ok(TWO));
        assert_eq!(Csv::of_row(b"1,a,b", None), Ok(THREE));
        assert_eq!(Csv::of_row(b"1,a,b,c", None), Err(Broken::Columns { found: 4, wanted: 2 }));
        assert_eq!(Csv::of_row(b"1", None), Err(Broken::Columns { found: 1, wanted: 2 }));
    }

    #[test]
    fn heading_is_told_from_a_row() {
        for (line, expected) in [
            ("time,user", Some(Heading::Known(TWO))),
            ("Time, \tUSER ,\"Scope\"", Some(Heading::Known(THREE))),
            ("user,time", Some(Heading::Other)),
            ("time,user,scope,more", Some(Heading::Other)),
            ("timestamp,user id", Some(Heading::Other)),
            ("time", None),
            ("", None),
            ("5,a", None),
            ("a,5", None),
            ("2015-05-17T10:05:03Z,a", None),
            ("a - - [x] \"GET /a,b\"", None),
        ] {
            assert_eq!(Csv::heading(line.as_bytes(), None), expected, "{line}");
        }
    }

    #[test]
    fn user_field_is_a_column_by_name_or_number() {
        let csv = |columns, time, user, scope| Some(Heading::Known(Csv { columns, time, user, scope }));
        for (line, field, expected) in [
            ("when,path,account", "account", csv(3, 0, 2, None)),
            ("when,path,account", "Account", csv(3, 0, 2, None)),
            ("when,path,account", "3", csv(3, 0, 2, None)),
            ("path,took (ms),scope,account,time", "account", csv(5, 4, 3, Some(2))),
            ("time,user,scope", "scope", csv(3, 0, 2, None)),
            ("time,user", "user", csv(2, 0, 1, None)),
            ("when,path,account", "name", Some(Heading::Other)),
            ("when,path,account", "4", Some(Heading::Other)),
            ("when,path,account", "0", Some(Heading::Other)),
            ("when,path,account", "1", Some(Heading::Other)),
            ("when,path,account", "when", Some(Heading::Other)),
            ("5,/x,ann", "3", None),
        ] {
            assert_eq!(Csv::heading(line.as_bytes(), Some(field)), expected, "{line} {field}");
        }
        let row = |line: &str, field| {
            let csv = Csv::of_row(line.as_bytes(), Some(field))?;
            csv.row(line.as_bytes()).map(|row| String::from_utf8_lossy(&row.user).into_owned())
        };
        assert_eq!(row("5,/x,ann,200", "3").as_deref(), Ok("ann"));
        assert_eq!(row("5,/x,-,200", "3"), Err(Broken::NoUser));
        assert_eq!(row("5,/x,,200", "3"), Err(Broken::NoUser));
        assert_eq!(row("5,/x,ann", "1"), Err(Broken::NoColumn(1)));
        assert_eq!(row("5,/x,ann", "4"), Err(Broken::NoColumn(4)));
        assert_eq!(row("x,/x,ann", "3"), Err(Broken::Time));
    }

    proptest! {
        #[test]
        fn parser_never_panics(line in "[0-9,\"a .-]{0,30}") {
            for user_field in [None, Some("3"), Some("a")] {
                let _ = Csv::heading(line.as_bytes(), user_field);
                let _ = Csv::of_row(line.as_bytes(), user_field);
            }
        }

        #[test]
        fn quoted_name_round_trips(name in prop::collection::vec(any::<u8>(), 1..20)) {
            // That is no user.
            prop_assume!(name != b"-");
            let doubled = name.iter().flat_map(|byte| std::iter::repeat_n(*byte, if *byte == b'"' { 2 } else { 1 }));
            let line: Vec<_> = b"1,\"".iter().copied().chain(doubled).chain(*b"\"").collect();
            prop_assert_eq!(&*TWO.row(&line).expect("a row").user, &name[..]);
        }
    }
}

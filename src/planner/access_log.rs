//! Parser of access logs in common or combined format.

use jiff::fmt::strtime::BrokenDownTime;

use super::row::{Broken, Row, moment};
use super::trace::Selection;
use crate::clock::Moment;

/// Parses `host ident authuser [17/May/2015:10:05:03 +0000] "GET /path?query ..." ...`.
///
/// The request is parsed only if a path is selected; the rest is ignored. The user is
/// `authuser`, or the host if that is empty, unless the selection names one of them. Lines
/// with another first word, such as a virtual host, would give the wrong user and are rejected.
#[derive(Debug, Default)]
pub(super) struct AccessLog {
    user: UserField,
    path: Option<Box<[u8]>>,
    /// The last parsed time, which often is the next line's too: parsing it takes longer than the rest.
    last: Option<([u8; STAMP.len() - 2], Moment)>,
}

/// The word that names the user.
#[derive(Clone, Copy, Debug, Default)]
enum UserField {
    /// `authuser`, or the host if that is empty.
    #[default]
    Any,
    Address,
    User,
}

/// The time in brackets, for its length.
const STAMP: &[u8] = b"[17/May/2015:10:05:03 +0000]";

impl AccessLog {
    /// A parser for this selection; `None` if its user field is unknown.
    pub(super) fn new(selection: &Selection) -> Option<Self> {
        let user = match selection.user_field.as_deref() {
            None => UserField::Any,
            Some("address") => UserField::Address,
            Some("user") => UserField::User,
            Some(_) => return None,
        };
        Some(Self { user, path: selection.path.as_deref().map(|path| path.as_bytes().into()), last: None })
    }

    /// Reads a line.
    pub(super) fn row<'a>(&mut self, line: &'a [u8]) -> Result<Row<'a>, Broken> {
        let (host, rest) = word(line).ok_or(Broken::Stamp)?;
        let (_, rest) = word(rest).ok_or(Broken::Stamp)?;
        let (user, rest) = word(rest).ok_or(Broken::Stamp)?;
        let at = self.time(rest)?;
        if self.path.as_ref().is_some_and(|wanted| !path(rest).is_some_and(|path| path.starts_with(wanted))) {
            return Err(Broken::OtherPath);
        }
        // Apache writes an empty name as "".
        let user = Some(user).filter(|user| !matches!(*user, b"-" | b"\"\""));
        let (user, by_address) = match (self.user, user) {
            (UserField::Any | UserField::User, Some(user)) => (user, false),
            (UserField::Any | UserField::Address, _) => (host, true),
            (UserField::User, None) => return Err(Broken::NoUser),
        };
        Ok(Row { by_address, ..Row::new(at, user.into(), None)? })
    }

    fn time(&mut self, rest: &[u8]) -> Result<Moment, Broken> {
        let [b'[', stamp @ .., b']'] = rest.get(..STAMP.len()).ok_or(Broken::Stamp)? else { return Err(Broken::Stamp) };
        if let Some((last, at)) = &self.last
            && last == stamp
        {
            return Ok(*at);
        }
        let parsed = BrokenDownTime::parse("%d/%b/%Y:%H:%M:%S %z", stamp).and_then(|time| time.to_timestamp());
        let at = moment(parsed.map_err(|_| Broken::Stamp)?.as_second(), 0)?;
        self.last = stamp.try_into().ok().map(|stamp| (stamp, at));
        Ok(at)
    }
}

/// The path of the request after the time, without host and query.
fn path(rest: &[u8]) -> Option<&[u8]> {
    let request = rest.get(STAMP.len()..)?.strip_prefix(b" \"")?;
    let (_, target) = word(request)?;
    let end = target.iter().position(|byte| matches!(byte, b' ' | b'"' | b'?' | b'#')).unwrap_or(target.len());
    let target = &target[..end];
    // A proxy receives an absolute URL.
    match target.windows(3).position(|bytes| bytes == b"://") {
        Some(scheme) if !target.starts_with(b"/") => {
            let authority = &target[scheme + 3..];
            authority.iter().position(|byte| *byte == b'/').map(|start| &authority[start..])
        }
        _ => Some(target),
    }
}

/// Splits a line at the first space.
fn word(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = line.iter().position(|byte| *byte == b' ').filter(|end| *end > 0)?;
    Some((&line[..end], &line[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::tz::Offset;
    use proptest::prelude::*;

    fn read(line: &str) -> Result<(u64, String), Broken> {
        AccessLog::default()
            .row(line.as_bytes())
            .map(|row| (row.at.as_nanos(), String::from_utf8_lossy(&row.user).into_owned()))
    }

    fn at(time: &str) -> Result<u64, Broken> {
        read(&format!("10.0.0.1 - - [{time}] \"GET / HTTP/1.1\" 200 5")).map(|(nanos, _)| nanos)
    }

    const S: u64 = 1_000_000_000;

    #[test]
    fn user_is_authuser_or_the_host() {
        let seconds = 1_431_857_103 * S;
        for (line, user) in [
            ("83.149.9.216 - - [17/May/2015:10:05:03 +0000] \"GET / HTTP/1.1\" 200 203023", "83.149.9.216"),
            ("::1 - frank [17/May/2015:10:05:03 +0000] \"GET / HTTP/1.1\" 200 1 \"-\" \"curl\"", "frank"),
            ("host.example - \"\" [17/May/2015:10:05:03 +0000] \"-\" 408 -", "host.example"),
            ("a b c [17/May/2015:10:05:03 +0000]", "c"),
            ("a - - [17/may/2015:10:05:03 +0000] \x00\x01 [18/May/2015:10:05:03 +0000]", "a"),
        ] {
            assert_eq!(read(line), Ok((seconds, user.to_owned())), "{line}");
        }
    }

    #[test]
    fn user_field_names_the_word_that_is_the_user() {
        let user = |field: &str, line: &str| {
            let selection = Selection { user_field: Some(field.to_owned()), path: None };
            let row =
                AccessLog::new(&selection).expect("a field").row(line.as_bytes()).map(|row| row.user.into_owned());
            row.map(|user| String::from_utf8_lossy(&user).into_owned())
        };
        let [known, unknown, empty] =
            ["frank", "-", "\"\""].map(|user| format!("::1 - {user} [17/May/2015:10:05:03 +0000]"));
        assert_eq!(user("address", &known).as_deref(), Ok("::1"));
        assert_eq!(user("address", &unknown).as_deref(), Ok("::1"));
        assert_eq!(user("user", &known).as_deref(), Ok("frank"));
        assert_eq!(user("user", &unknown), Err(Broken::NoUser));
        assert_eq!(user("user", &empty), Err(Broken::NoUser));
        assert!(AccessLog::new(&Selection { user_field: Some("name".to_owned()), path: None }).is_none());
    }

    #[test]
    fn path_selects_requests_without_regard_to_query_and_host() {
        let selection = Selection { path: Some("/api/token".to_owned()), user_field: None };
        let mut log = AccessLog::new(&selection).expect("no field");
        let mut counts = |request: &str| {
            let line = format!("a - - [17/May/2015:10:05:03 +0000]{request}");
            match log.row(line.as_bytes()) {
                Ok(_) => true,
                Err(why) => {
                    assert_eq!(why, Broken::OtherPath, "{line}");
                    false
                }
            }
        };
        for request in [
            " \"GET /api/token HTTP/1.1\" 200 5",
            " \"POST /api/token?next=/other HTTP/1.1\" 200 5",
            " \"GET /api/tokens/7 HTTP/2.0\" 200 5",
            " \"GET https://example.org/api/token HTTP/1.1\" 200 5",
            " \"GET /api/token\" 200 5",
            " \"GET /api/token",
        ] {
            assert!(counts(request), "{request}");
        }
        for request in [
            "",
            " \"-\" 408 -",
            " \"GET / HTTP/1.1\" 200 5",
            " \"GET /other?path=/api/token HTTP/1.1\" 200 5",
            " \"GET /API/token HTTP/1.1\" 200 5",
            " \"GET /x://h/api/token HTTP/1.1\" 200 5",
            " \"GET http://api/tokens HTTP/1.1\" 200 5",
            " \"GET http:///api HTTP/1.1\" 200 \"/api/token\"",
            " \"CONNECT host:443 HTTP/1.1\" 200 5",
        ] {
            assert!(!counts(request), "{request}");
        }
    }

    #[test]
    fn line_without_three_words_and_a_time_is_broken() {
        for line in [
            "",
            " ",
            "a",
            "a - -",
            "a - - ",
            "a  - [17/May/2015:10:05:03 +0000]",
            "a - [17/May/2015:10:05:03 +0000] x",
            "vhost:80 10.0.0.1 - - [17/May/2015:10:05:03 +0000] x",
            "a - - [17/May/2015:10:05:03 +0000",
            "a - - 17/May/2015:10:05:03 +0000] \"GET\"",
        ] {
            assert_eq!(read(line), Err(Broken::Stamp), "{line}");
        }
    }

    #[test]
    fn times_apply_their_offset_and_invalid_dates_are_broken() {
        assert_eq!(at("01/Jan/1970:00:00:00 +0000"), Ok(0));
        assert_eq!(at("01/Jan/1970:02:30:01 +0230"), Ok(S));
        assert_eq!(at("31/Dec/1969:19:00:01 -0500"), Ok(S));
        // A leap second counts as the one before.
        assert_eq!(at("29/Feb/2016:23:59:60 +0000"), Ok(1_456_790_399 * S));
        for time in [
            "29/Feb/2015:00:00:00 +0000",
            "00/Jan/2015:00:00:00 +0000",
            "01/Mai/2015:00:00:00 +0000",
            "01/anF/2015:00:00:00 +0000",
            "01/Jan/2015:24:00:00 +0000",
            "01/Jan/2015:00:60:00 +0000",
            "01/Jan/2015:00:00:61 +0000",
            "01/Jan/2015:00:00:-1 +0000",
            "01/Jan/2015:00:00:00 00000",
            "01/Jan/2015:00:00:00 +0060",
            "01/Jan/2015:00:00:00 +9900",
            "01-Jan-2015:00:00:00 +0000",
        ] {
            assert_eq!(at(time), Err(Broken::Stamp), "{time}");
        }
        assert_eq!(at("01/Jan/1970:00:00:00 +0001"), Err(Broken::OutOfRange));
        assert_eq!(at("01/Jan/2201:00:00:00 +0000"), Err(Broken::OutOfRange));
    }

    #[test]
    fn cached_time_is_not_used_for_another() {
        let mut log = AccessLog::default();
        let mut at = |time: &str| log.row(format!("a - - [{time}]").as_bytes()).map(|row| row.at.as_nanos() / S);
        assert_eq!(at("01/Jan/1970:00:00:05 +0000"), Ok(5));
        assert_eq!(at("01/Jan/1970:00:01:05 +0000"), Ok(65));
        assert_eq!(at("01/Jan/1970:00:01:06 -0001"), Ok(126));
        assert_eq!(at("01/Foo/1970:00:01:06 -0001"), Err(Broken::Stamp));
        assert_eq!(at("01/Jan/1970:00:01:07 -0001"), Ok(127));
    }

    proptest! {
        #[test]
        fn parser_never_panics(line in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = AccessLog::default().row(&line);
            let selection = Selection { path: Some("/".to_owned()), user_field: None };
            let line = [b"a - - [17/May/2015:10:05:03 +0000] ", &line[..]].concat();
            let _ = AccessLog::new(&selection).map(|mut log| log.row(&line).is_ok());
        }

        #[test]
        fn time_is_read_as_it_was_written(second in 0i64..7_289_654_400, quarter in -56i32..=56) {
            let offset = Offset::from_seconds(quarter * 900).expect("an offset");
            let time = jiff::Timestamp::from_second(second).expect("a time");
            let written = time.to_zoned(offset.to_time_zone()).strftime("%d/%b/%Y:%H:%M:%S %z").to_string();
            prop_assert_eq!(at(&written), Ok(second as u64 * S), "{}", written);
        }
    }
}

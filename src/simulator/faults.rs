//! The fault injection flags of the simulator.

use std::ops::Range;
use std::time::Duration;

use super::fault::Fault;

/// The fault injection flags. By default the simulator never fails and responds at once.
///
/// Precedence: an outage, the rate limit, the error rate. Latency applies to every response,
/// errors too.
#[derive(Clone, Debug, Default, PartialEq, clap::Args)]
// Otherwise clap would use the lines above as the description of the command.
#[command(about = None, long_about = None, next_help_heading = "Faults")]
pub struct Faults {
    /// How long each answer takes
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration, allow_hyphen_values = true)]
    pub latency: Duration,

    /// How far an answer's latency may be from --latency, either way
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration, allow_hyphen_values = true)]
    pub latency_jitter: Duration,

    /// Share of the calls that go wrong, from 0 to 1
    #[arg(long, value_name = "SHARE", default_value = "0", value_parser = share, allow_hyphen_values = true)]
    pub error_rate: f64,

    /// Failure of those calls: 500, 502, 503, 504, 429, 409, reset, drip, endless, hang, html, empty, not-json, array,
    /// no-token, empty-token, other-user, expired, ended, reissued, not-yet, text-exp, no-iat or redirect
    #[arg(long, value_name = "KIND", default_value = "500", value_parser = Fault::named, allow_hyphen_values = true)]
    pub error_kind: Fault,

    /// Most calls in any one second; what is beyond is answered 429
    #[arg(long, value_name = "CALLS", value_parser = clap::value_parser!(u32).range(1..=1_000_000), allow_hyphen_values = true)]
    pub rate_limit: Option<u32>,

    /// When all calls are answered 503, counted from the start, such as 10s..30s; may be repeated
    #[arg(long, value_name = "START..END", value_parser = outage, allow_hyphen_values = true)]
    pub outage: Vec<Range<Duration>>,

    /// Issue opaque tokens, as old workspaces do, instead of JWTs
    #[arg(long)]
    pub opaque_tokens: bool,
}

/// The longest duration that a flag accepts.
const LONGEST: Duration = Duration::from_secs(86_400);

impl Faults {
    /// Whether there is an outage at `age`, the time since the start.
    pub(super) fn is_outage_at(&self, age: Duration) -> bool {
        self.outage.iter().any(|outage| outage.contains(&age))
    }

    /// Whether this call fails, drawn anew each time.
    pub(super) fn should_fail(&self) -> bool {
        fastrand::f64() < self.error_rate
    }

    /// The latency of this call, drawn anew each time.
    pub(super) fn delay(&self) -> Duration {
        let latency = nanos(self.latency);
        let jitter = nanos(self.latency_jitter);
        let above_least = fastrand::u64(..=jitter.saturating_mul(2));
        Duration::from_nanos(latency.saturating_add(above_least).saturating_sub(jitter))
    }
}

fn nanos(length: Duration) -> u64 {
    u64::try_from(length.as_nanos()).unwrap_or(u64::MAX)
}

fn duration(text: &str) -> Result<Duration, String> {
    const WANTED: &str = "must be a duration of at most one day, such as 120ms or 1m 30s";
    if !is_small(text) {
        return Err(WANTED.to_owned());
    }
    match humantime::parse_duration(text) {
        Ok(length) if length <= LONGEST => Ok(length),
        Ok(_) => Err(WANTED.to_owned()),
        Err(error) => Err(format!("{error}; {WANTED}")),
    }
}

/// Whether humantime parses `text` without a panic.
///
/// Its sums overflow on crafted numbers of 20 digits, and white space does not end a number.
fn is_small(text: &str) -> bool {
    let mut digits = 0;
    text.len() <= 64
        && text.chars().all(|c| {
            if c.is_ascii_digit() {
                digits += 1;
            } else if !c.is_whitespace() {
                digits = 0;
            }
            digits <= 10
        })
}

fn share(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|share| (0.0..=1.0).contains(share))
        .ok_or_else(|| "must be a share from 0 to 1, such as 0.1".to_owned())
}

fn outage(text: &str) -> Result<Range<Duration>, String> {
    let (start, end) = text.split_once("..").ok_or("must be START..END, such as 10s..30s")?;
    let outage = duration(start)?..duration(end)?;
    if outage.is_empty() {
        return Err("the start must be before the end".to_owned());
    }
    Ok(outage)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulator::fault::KINDS;
    use clap::{CommandFactory, Parser};
    use proptest::prelude::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        faults: Faults,
    }

    fn parse(flags: &[&str]) -> Result<Faults, String> {
        Command::try_parse_from([&["simulator"], flags].concat())
            .map(|command| command.faults)
            .map_err(|error| error.to_string())
    }

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn help_names_every_kind() {
        let command = Command::command();
        let flag = command.get_arguments().find(|flag| flag.get_long() == Some("error-kind")).unwrap();
        let help = flag.get_help().unwrap().to_string();
        let words: Vec<_> = help.split([' ', ',']).collect();
        for (name, _) in KINDS {
            assert!(words.contains(name), "{name}: {help}");
            assert!(Fault::named(name).is_ok(), "{name}");
        }
        assert_eq!(Fault::named("500"), Ok(Fault::default()));
    }

    #[test]
    fn every_flag_is_parsed() {
        let flags = "--latency 120ms --latency-jitter 30ms --error-rate 0.1 --error-kind html --rate-limit 20 \
                     --outage 10s..30s --outage 1m..1m5s --opaque-tokens";
        let flags: Vec<_> = flags.split_whitespace().collect();
        let expected = Faults {
            latency: Duration::from_millis(120),
            latency_jitter: Duration::from_millis(30),
            error_rate: 0.1,
            error_kind: Fault::HTML,
            rate_limit: Some(20),
            outage: vec![seconds(10)..seconds(30), seconds(60)..seconds(65)],
            opaque_tokens: true,
        };
        assert_eq!(parse(&flags), Ok(expected));
        assert_eq!(parse(&[]), Ok(Faults::default()));
    }

    #[test]
    fn invalid_value_is_rejected_in_one_line_that_names_its_flag() {
        let table = [
            ("--latency", "-5s"),
            ("--latency", "5"),
            ("--latency", ""),
            ("--latency", "25h"),
            ("--latency", "18446744073709551615s 1000ms"),
            ("--latency", "1844674407 3709551615s 1000ms"),
            ("--latency-jitter", "soon"),
            ("--error-rate", "1.1"),
            ("--error-rate", "-0.1"),
            ("--error-rate", "NaN"),
            ("--error-rate", "10%"),
            ("--error-kind", "418"),
            ("--error-kind", "HTML"),
            ("--error-kind", ""),
            ("--error-kind", "-1"),
            ("--rate-limit", "0"),
            ("--rate-limit", "-1"),
            ("--rate-limit", "1.5"),
            ("--rate-limit", "1000001"),
            ("--outage", "10s"),
            ("--outage", "30s..10s"),
            ("--outage", "10s..10s"),
            ("--outage", "10s..=30s"),
            ("--outage", "-1s..10s"),
            ("--outage", "10s..2 days"),
        ];
        for (flag, value) in table {
            let error = parse(&[flag, value]).unwrap_err();
            let line = error.lines().next().unwrap_or_default();
            assert!(line.contains(flag), "{flag} {value}: {error}");
        }
    }

    #[test]
    fn outage_includes_its_start_and_excludes_its_end() {
        let faults = parse(&["--outage", "10s..30s"]).unwrap();
        let ages = [9, 10, 29, 30].map(|age| faults.is_outage_at(seconds(age)));
        assert_eq!(ages, [false, true, true, false]);
    }

    #[test]
    fn error_rate_is_a_share_of_the_calls() {
        let struck = |error_rate| {
            let faults = Faults { error_rate, ..Faults::default() };
            (0..10_000).filter(|_| faults.should_fail()).count()
        };
        assert_eq!(struck(0.0), 0);
        assert_eq!(struck(1.0), 10_000);
        // Twenty standard deviations to either side.
        assert!((2000..4000).contains(&struck(0.3)));
    }

    #[test]
    fn jitter_goes_both_ways_but_never_below_zero() {
        let delays = |latency, jitter| {
            let faults = Faults { latency: seconds(latency), latency_jitter: seconds(jitter), ..Faults::default() };
            let delays: Vec<_> = (0..1000).map(|_| faults.delay()).collect();
            (*delays.iter().min().unwrap(), *delays.iter().max().unwrap())
        };
        let (least, most) = delays(10, 4);
        assert!(least >= seconds(6) && least < seconds(9), "{least:?}");
        assert!(most <= seconds(14) && most > seconds(11), "{most:?}");
        assert_eq!(delays(10, 0), (seconds(10), seconds(10)));
        assert_eq!(delays(1, 100).0, Duration::ZERO);
        // As near to "for ever" as the clock goes, and no overflow.
        assert!(delays(u64::MAX, 0).0 > seconds(500 * 31_557_600));
    }

    proptest! {
        #[test]
        fn duration_parser_never_panics(text in "[0-9. ]{0,25}(ns|ms|s|h|years)?[0-9 ]{0,25}(ns|ms|s|y)?") {
            if let Ok(length) = duration(&text) {
                prop_assert!(length <= LONGEST);
            }
            let _ = outage(&format!("{text}..{text}"));
        }
    }
}

//! The requests and retry policies of Courier's official SDKs as data, for tests of SDKs that cannot be run here.

use std::collections::BTreeMap;

use serde::Deserialize;

/// An SDK as described by its sources.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sdk {
    pub name: String,
    pub version: String,
    pub sources: Vec<String>,
    pub request: Request,
    pub retry: Rule,
}

impl Sdk {
    /// Its own name in `X-Stainless-Lang`.
    pub fn language(&self) -> &str {
        let (_, value) = self
            .request
            .headers
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case("x-stainless-lang"))
            .expect("each has it");
        value
    }
}

/// Its request for a token.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The paths for a base URL without and with a slash at its end.
    pub paths: [String; 2],
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

/// Its retry policy.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    most: u32,
    should_retry: ShouldRetry,
    after_ms: bool,
    heeds: Option<(f64, f64)>,
    fractions: bool,
    date: Date,
    growth: Growth,
    first: f64,
    longest: f64,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
enum ShouldRetry {
    LowerCase,
    AnyCase,
    Ignored,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
enum Date {
    Waits,
    TurnedRound,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
enum Growth {
    Double,
    Squares,
}

/// The part of an answer that decides about retries.
#[derive(Clone, Debug)]
pub struct RetryHints {
    status: u16,
    should_retry: Option<String>,
    after_ms: Option<String>,
    after: Option<String>,
}

impl RetryHints {
    /// Reads an answer with this status and these headers.
    pub fn new<'a>(status: u16, header: impl Fn(&str) -> Option<&'a str>) -> Self {
        let header = |name| header(name).map(str::to_owned);
        let [should_retry, after_ms, after] = ["x-should-retry", "retry-after-ms", "retry-after"].map(header);
        Self { status, should_retry, after_ms, after }
    }
}

/// The bounds of a random wait before a retry, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wait {
    pub shortest: f64,
    pub longest: f64,
}

impl Rule {
    /// The waits before each retry, if each gets the same answer.
    pub fn waits(&self, hints: &RetryHints) -> Vec<Wait> {
        (0..).map_while(|retries| self.wait(retries, hints)).collect()
    }

    /// The wait before the next retry after so many; `None` if there is no further retry.
    pub fn wait(&self, retries: u32, hints: &RetryHints) -> Option<Wait> {
        if retries >= self.most || !self.retries(hints) {
            return None;
        }
        let own = match self.growth {
            Growth::Double => self.first * f64::from(1u32 << retries),
            Growth::Squares => self.first * f64::from(retries * retries),
        };
        let own = own.min(self.longest);
        Some(match self.demanded_wait(hints) {
            Some(wait) => Wait { shortest: wait, longest: wait },
            None => Wait { shortest: 0.75 * own, longest: own },
        })
    }

    fn retries(&self, hints: &RetryHints) -> bool {
        let said = hints.should_retry.as_deref().map(|said| match self.should_retry {
            ShouldRetry::AnyCase => said.to_ascii_lowercase(),
            ShouldRetry::LowerCase => said.to_owned(),
            ShouldRetry::Ignored => String::new(),
        });
        match said.as_deref() {
            Some("true") => true,
            Some("false") => false,
            _ => matches!(hints.status, 408 | 409 | 429 | 500..),
        }
    }

    /// The wait that the answer demands, if the SDK obeys it.
    fn demanded_wait(&self, hints: &RetryHints) -> Option<f64> {
        let milliseconds =
            hints.after_ms.as_deref().filter(|_| self.after_ms).and_then(|text| text.parse::<f64>().ok());
        let seconds = milliseconds.map(|milliseconds| milliseconds / 1000.0).or_else(|| {
            let text = hints.after.as_deref()?;
            // Any other value may be a date, which counts as an endless wait here.
            Some(text.parse().unwrap_or(if self.date == Date::Waits { f64::INFINITY } else { 0.0 }))
        })?;
        let heeded = self.heeds.is_none_or(|(above, most)| seconds > above && seconds <= most);
        let seconds = if self.fractions { seconds } else { seconds.floor() };
        heeded.then(|| seconds.max(0.0))
    }
}

/// All SDKs of `rules.toml`.
pub fn sdks() -> Vec<Sdk> {
    #[derive(Deserialize)]
    struct Sdks {
        sdk: Vec<Sdk>,
    }
    let Sdks { sdk } = toml::from_str(include_str!("../sdk/rules.toml")).expect("good data");
    sdk
}

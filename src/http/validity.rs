//! From when until when a certificate is valid.

use std::time::{Duration, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The time in which a certificate is valid, in whole seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    begins: Duration,
    ends: Duration,
}

/// Before its end a certificate is warned of for so long.
const NOTICE: Duration = Duration::from_secs(14 * 86_400);

impl Validity {
    /// Of a certificate, if it can be read.
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        let validity = certificate.validity();
        let seconds = |seconds: i64| Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
        Some(Self { begins: seconds(validity.not_before.timestamp()), ends: seconds(validity.not_after.timestamp()) })
    }

    /// Since 1970.
    pub const fn ends(self) -> Duration {
        self.ends
    }

    /// The last second counts as valid.
    pub fn is_over(self, now: Duration) -> bool {
        now.as_secs() > self.ends.as_secs()
    }

    /// It does not count yet.
    pub fn is_early(self, now: Duration) -> bool {
        now < self.begins
    }

    /// What an operator must know of it at this time, if anything.
    pub fn remark(self, now: Duration) -> Option<String> {
        // RFC 5280 has no year after 9999, and humantime has none either.
        let date = |at: Duration| humantime::format_rfc3339_seconds(UNIX_EPOCH + at);
        if self.is_over(now) {
            Some(format!("expired at {}: replace it", date(self.ends)))
        } else if self.is_early(now) {
            Some(format!("is not valid before {}: is this machine's clock right?", date(self.begins)))
        } else if self.ends.saturating_sub(now) < NOTICE {
            Some(format!("expires at {}: replace it", date(self.ends)))
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn remark_tells_what_is_wrong_at_that_time() {
        let validity = Validity { begins: 100 * DAY, ends: 200 * DAY };
        let at = |now| validity.remark(now).unwrap_or_default();
        assert_eq!(at(99 * DAY), "is not valid before 1970-04-11T00:00:00Z: is this machine's clock right?");
        assert_eq!((at(100 * DAY), at(186 * DAY)), Default::default());
        assert_eq!(at(186 * DAY + DAY / 2), "expires at 1970-07-20T00:00:00Z: replace it");
        assert_eq!(at(200 * DAY), "expires at 1970-07-20T00:00:00Z: replace it");
        assert_eq!(at(200 * DAY + DAY / 2), "expired at 1970-07-20T00:00:00Z: replace it");
    }

    #[test]
    fn garbage_has_no_validity() {
        assert_eq!(Validity::of(&CertificateDer::from(b"garbage".to_vec())), None);
    }
}

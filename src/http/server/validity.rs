//! The validity period of a certificate.

use std::time::{Duration, UNIX_EPOCH};

use rustls::pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, Error, KeyUsage};

/// When a certificate is valid, in whole seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    begins: Duration,
    ends: Duration,
}

/// How long before its end a certificate is warned about.
const NOTICE: Duration = Duration::from_secs(14 * 86_400);

impl Validity {
    /// Reads the period of a certificate; `None` if it can't be read.
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let certificate = EndEntityCert::try_from(certificate).ok()?;
        // webpki reports the times only in the error of a check, and it checks them first.
        let error_at = |seconds| {
            let time = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
            certificate.verify_for_usage(&[], &[], &[], time, KeyUsage::server_auth(), None, None).err()
        };
        let seconds = |time: UnixTime| Duration::from_secs(time.as_secs());
        let Some(Error::CertExpired { not_after, .. }) = error_at(u64::MAX) else { return None };
        let begins = match error_at(0) {
            Some(Error::CertNotValidYet { not_before, .. }) => seconds(not_before),
            _ => Duration::ZERO,
        };
        Some(Self { begins, ends: seconds(not_after) })
    }

    /// The end, since 1970.
    pub const fn ends(self) -> Duration {
        self.ends
    }

    /// Whether it has expired. The last second is still valid.
    pub fn is_expired(self, now: Duration) -> bool {
        now.as_secs() > self.ends.as_secs()
    }

    /// Whether it is not valid yet.
    pub fn is_not_yet_valid(self, now: Duration) -> bool {
        now < self.begins
    }

    /// A warning for the operator at this time, if there is one.
    pub fn warning(self, now: Duration) -> Option<String> {
        // RFC 5280 has no year after 9999, and humantime has none either.
        let date = |at: Duration| humantime::format_rfc3339_seconds(UNIX_EPOCH + at);
        if self.is_expired(now) {
            Some(format!("expired at {}: replace it", date(self.ends)))
        } else if self.is_not_yet_valid(now) {
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
    fn warning_depends_on_the_time() {
        let validity = Validity { begins: 100 * DAY, ends: 200 * DAY };
        let at = |now| validity.warning(now).unwrap_or_default();
        assert_eq!(at(99 * DAY), "is not valid before 1970-04-11T00:00:00Z: is this machine's clock right?");
        assert_eq!((at(100 * DAY), at(186 * DAY)), Default::default());
        assert_eq!(at(186 * DAY + DAY / 2), "expires at 1970-07-20T00:00:00Z: replace it");
        assert_eq!(at(200 * DAY), "expires at 1970-07-20T00:00:00Z: replace it");
        assert_eq!(at(200 * DAY + DAY / 2), "expired at 1970-07-20T00:00:00Z: replace it");
    }

    #[test]
    fn validity_is_read_from_the_certificate() {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::new(Vec::new()).expect("no names");
        for (begins, ends) in
            [((1970, 1, 1), (1999, 12, 31)), ((2024, 2, 29), (2049, 12, 31)), ((2050, 1, 1), (9999, 12, 31))]
        {
            let date = |(year, month, day)| rcgen::date_time_ymd(year, month, day);
            (params.not_before, params.not_after) = (date(begins), date(ends));
            for is_ca in [rcgen::IsCa::NoCa, rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained)] {
                params.is_ca = is_ca;
                let certificate = params.self_signed(&key).expect("a certificate");
                let seconds = |at| Duration::from_secs(u64::try_from(date(at).unix_timestamp()).expect("after 1970"));
                let expected = Validity { begins: seconds(begins), ends: seconds(ends) };
                assert_eq!(Validity::of(certificate.der()), Some(expected));
            }
        }
    }

    #[test]
    fn garbage_has_no_validity() {
        assert_eq!(Validity::of(&CertificateDer::from(b"garbage".to_vec())), None);
    }
}

//! The trace context of a request, passed on to Courier.

use std::fmt;
use std::ops::Range;

/// A valid `traceparent` header of W3C Trace Context, version 00.
///
/// A call to Courier gets it as it came, or with the broker's own span if the request is traced.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TraceParent([u8; LENGTH]);

/// `00-`, 32 digits of the trace, `-`, 16 of the parent, `-`, 2 of the flags.
const LENGTH: usize = 55;

impl TraceParent {
    /// The name of the header.
    pub const HEADER: &str = "traceparent";

    /// The context of a span that is sampled.
    pub fn new(trace_id: u128, span_id: u64) -> Self {
        let mut bytes = [0; LENGTH];
        bytes.copy_from_slice(format!("00-{trace_id:032x}-{span_id:016x}-01").as_bytes());
        Self(bytes)
    }

    /// The id of the trace.
    pub fn trace_id(&self) -> u128 {
        self.digits(3..35)
    }

    /// The id of the span.
    pub fn span_id(&self) -> u64 {
        self.digits(36..52) as u64
    }

    /// Whether the trace is recorded.
    pub fn is_sampled(&self) -> bool {
        self.digits(53..55) & 1 == 1
    }

    fn digits(&self, place: Range<usize>) -> u128 {
        let digits = str::from_utf8(&self.0[place]).unwrap_or_default();
        u128::from_str_radix(digits, 16).unwrap_or_default()
    }

    /// Reads the value of a header; `None` if it is invalid.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let bytes: [u8; LENGTH] = value.try_into().ok()?;
        let is_hex = |digits: &[u8]| digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        let is_id = |digits: &[u8]| is_hex(digits) && digits.iter().any(|digit| *digit != b'0');
        let has_dashes = [2, 35, 52].iter().all(|place| bytes[*place] == b'-');
        let is_valid = bytes.starts_with(b"00-") && has_dashes && is_id(&bytes[3..35]) && is_id(&bytes[36..52]);
        (is_valid && is_hex(&bytes[53..])).then_some(Self(bytes))
    }

    /// The value of the header.
    pub const fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for TraceParent {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(str::from_utf8(&self.0).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn only_a_valid_header_of_version_00_is_read() {
        let read = |text: &str| TraceParent::parse(text.as_bytes());
        let valid = read(VALID).expect("valid");
        assert_eq!(valid.as_bytes(), VALID.as_bytes());
        assert_eq!(TraceParent::new(valid.trace_id(), valid.span_id()), valid);
        for (flags, is_sampled) in [("-00", false), ("-01", true), ("-02", false), ("-ff", true)] {
            assert_eq!(read(&VALID.replace("-01", flags)).expect("valid").is_sampled(), is_sampled, "{flags}");
        }
        for invalid in [
            "",
            "00",
            &VALID.to_uppercase(),
            &VALID.replace("00-4b", "01-4b"),
            &VALID.replace("00-4b", "ff-4b"),
            &VALID.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &VALID.replace("00f067aa0ba902b7", &"0".repeat(16)),
            &VALID.replace("-01", "-0g"),
            &VALID.replace("-01", "_01"),
            &format!("{VALID}-more"),
            &VALID.replace("4bf9", "4b\r\n"),
        ] {
            assert!(read(invalid).is_none(), "{invalid}");
        }
    }
}

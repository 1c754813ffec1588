//! The trace context of a request, passed on to Courier.

use std::fmt;

/// A valid `traceparent` header of W3C Trace Context, version 00.
///
/// It is passed on as it came: the broker has no span of its own.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TraceParent([u8; LENGTH]);

/// `00-`, 32 digits of the trace, `-`, 16 of the parent, `-`, 2 of the flags.
const LENGTH: usize = 55;

impl TraceParent {
    /// The name of the header.
    pub const HEADER: &str = "traceparent";

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
        assert_eq!(read(VALID).expect("valid").as_bytes(), VALID.as_bytes());
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

//! Checked reads of encoded numbers: `None` at the end of the input, or if a number is out of range.

use bytes::Buf;

use crate::clock::Moment;

/// Reads a number from 0 to `most`; NaN is in no range.
pub fn read_f32(input: &mut &[u8], most: f32) -> Option<f32> {
    input.try_get_f32_le().ok().filter(|number| (0.0..=most).contains(number))
}

/// Reads numbers from 0 to `most`.
pub fn read_f32s<const N: usize>(input: &mut &[u8], most: f32) -> Option<[f32; N]> {
    let mut numbers = [0.0; N];
    for number in &mut numbers {
        *number = read_f32(input, most)?;
    }
    Some(numbers)
}

/// Reads a number from 0 to `most`.
pub fn read_f64(input: &mut &[u8], most: f64) -> Option<f64> {
    input.try_get_f64_le().ok().filter(|number| (0.0..=most).contains(number))
}

/// Reads a whole number up to `most`.
pub fn read_u64(input: &mut &[u8], most: u64) -> Option<u64> {
    input.try_get_u64_le().ok().filter(|number| *number <= most)
}

/// Reads a moment up to `latest`.
pub fn read_moment(input: &mut &[u8], latest: Moment) -> Option<Moment> {
    read_u64(input, latest.as_nanos()).map(Moment::from_nanos)
}

/// Reads a moment up to `latest`, or [`Moment::NEVER`] for none.
pub fn read_optional_moment(input: &mut &[u8], latest: Moment) -> Option<Option<Moment>> {
    let moment = read_moment(input, Moment::NEVER)?;
    match moment {
        Moment::NEVER => Some(None),
        moment => (moment <= latest).then_some(Some(moment)),
    }
}

//! Texts from outside as one harmless line, for logs, errors and answers.

/// Whether a character is white space, a control or invisible.
///
/// White space is that of Unicode and of JavaScript (U+FEFF, and U+180E in older engines).
/// Invisible marks would make two texts look alike; those that set the direction reorder a line.
pub fn is_blank(character: char) -> bool {
    character.is_whitespace()
        || character.is_control()
        || matches!(
            character,
            '\u{00AD}'
                | '\u{034F}'
                | '\u{061C}'
                | '\u{115F}'..='\u{1160}'
                | '\u{17B4}'..='\u{17B5}'
                | '\u{180B}'..='\u{180F}'
                | '\u{200B}'..='\u{200F}'
                | '\u{202A}'..='\u{202E}'
                | '\u{2060}'..='\u{206F}'
                | '\u{2800}'
                | '\u{3164}'
                | '\u{FE00}'..='\u{FE0F}'
                | '\u{FEFF}'
                | '\u{FFA0}'
                | '\u{FFF0}'..='\u{FFFB}'
                | '\u{1BCA0}'..='\u{1BCA3}'
                | '\u{1D173}'..='\u{1D17A}'
                | '\u{E0000}'..='\u{E0FFF}'
        )
}

/// The text on one line: white space and controls become spaces, invisible characters are left out.
///
/// Left out rather than replaced, so that a secret with such a character in it is still found and
/// redacted afterwards.
pub fn line(text: &str) -> String {
    let plain = |character: char| match character {
        _ if character.is_whitespace() || character.is_control() => Some(' '),
        _ if is_blank(character) => None,
        _ => Some(character),
    };
    text.chars().filter_map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_has_no_separators_controls_or_invisible_characters() {
        for breaking in
            ['\n', '\r', '\t', '\0', '\u{b}', '\u{1b}', '\u{7f}', '\u{85}', '\u{9b}', '\u{2028}', '\u{2029}']
        {
            assert_eq!(line(&format!("a{breaking}b")), "a b", "{breaking:?}");
        }
        let marks = ('\u{200b}'..='\u{200f}').chain('\u{202a}'..='\u{202e}').chain('\u{2060}'..='\u{206f}');
        for invisible in marks.chain(['\u{ad}', '\u{61c}', '\u{feff}', '\u{e0041}']) {
            assert_eq!(line(&format!("a{invisible}b")), "ab", "{invisible:?}");
        }
        for text in ["", "plain text: \"it's\" <ok>", "zoë 用户 שלום 👍"] {
            assert_eq!(line(text), text);
        }
    }
}

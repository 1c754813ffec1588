//! The last warnings and errors of the log, for operators without the log at hand.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;

use crate::plain_text;

/// The last warnings and errors. A process has one log, however many brokers it runs.
pub static RECENT_ERRORS: RecentErrors = RecentErrors(Mutex::new(VecDeque::new()));

/// A bounded list of warnings and errors, in which equal ones are counted.
pub struct RecentErrors(Mutex<VecDeque<RecentError>>);

/// The content of a line of the log: never its users or scopes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorLine {
    /// Whether it needs a person now: an error, not a warning.
    pub is_error: bool,
    /// The event.
    pub message: String,
    /// Its cause, if the line has one.
    pub cause: Option<String>,
    /// The workspace, if it is about one.
    pub workspace: Option<String>,
    /// The client, if it is about one.
    pub client: Option<String>,
}

/// A warning or an error, as often as it was logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecentError {
    /// The text of the lines.
    pub line: ErrorLine,
    /// How many lines there were.
    pub count: u64,
    /// The time of the first one since 1970.
    pub first: Duration,
    /// The time of the last one since 1970.
    pub last: Duration,
}

/// The most that are kept.
const MOST: usize = 30;
/// The most that are kept of one message: a caller can cause any number of causes, which are not to displace the others.
const MOST_OF_A_MESSAGE: usize = 5;
/// The most characters of a text.
const MOST_CHARACTERS: usize = 300;

impl RecentErrors {
    /// Adds a line that was logged at this time since 1970.
    pub fn add(&self, line: ErrorLine, unix: Duration) {
        let ErrorLine { is_error, message, cause, workspace, client } = line;
        let line = ErrorLine {
            is_error,
            message: cut(&message),
            cause: cause.as_deref().map(cut),
            workspace: workspace.as_deref().map(cut),
            client: client.as_deref().map(cut),
        };
        let mut errors = self.0.lock();
        let known = errors.iter().position(|known| known.line == line).and_then(|place| errors.remove(place));
        let (count, first) = known.map_or((0, unix), |known| (known.count, known.first));
        errors.push_front(RecentError { line, count: count + 1, first, last: unix });
        let mut of_message =
            errors.iter().enumerate().filter(|(_, known)| known.line.message == errors[0].line.message);
        if let Some((oldest, _)) = of_message.nth(MOST_OF_A_MESSAGE) {
            errors.remove(oldest);
        }
        errors.truncate(MOST);
    }

    /// The errors, the last one first.
    pub fn list(&self) -> Vec<RecentError> {
        self.0.lock().iter().cloned().collect()
    }
}

fn cut(text: &str) -> String {
    let text = plain_text::line(text);
    match text.char_indices().nth(MOST_CHARACTERS) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_lines_are_counted_and_the_last_ones_are_kept() {
        let errors = RecentErrors(Mutex::default());
        let line = |message: &str| ErrorLine { message: message.to_owned(), ..ErrorLine::default() };
        let at = Duration::from_secs;
        errors.add(line("a"), at(1));
        errors.add(line("b"), at(2));
        errors.add(line("a"), at(3));
        let list = errors.list();
        let shown: Vec<_> = list.iter().map(|one| (&*one.line.message, one.count, one.first, one.last)).collect();
        assert_eq!(shown, [("a", 2, at(1), at(3)), ("b", 1, at(2), at(2))]);
        (0..100).for_each(|number| errors.add(line(&number.to_string()), at(4)));
        assert_eq!((errors.list().len(), &*errors.list()[0].line.message), (MOST, "99"));
    }

    #[test]
    fn many_causes_of_one_message_leave_the_other_messages() {
        let errors = RecentErrors(Mutex::default());
        let line = |message: &str, cause: usize| ErrorLine {
            message: message.to_owned(),
            cause: Some(cause.to_string()),
            ..ErrorLine::default()
        };
        errors.add(line("reload rejected", 0), Duration::ZERO);
        (0..100).for_each(|cause| errors.add(line("token request failed", cause), Duration::ZERO));
        let list = errors.list();
        assert_eq!((list.len(), &*list[MOST_OF_A_MESSAGE].line.message), (MOST_OF_A_MESSAGE + 1, "reload rejected"));
        assert_eq!(list[0].line.cause.as_deref(), Some("99"));
    }

    #[test]
    fn text_is_one_line_of_a_bounded_length() {
        let errors = RecentErrors(Mutex::default());
        let cause = Some(format!("\u{202e}a\n{}", "\u{e9}".repeat(1000)));
        errors.add(ErrorLine { cause, ..ErrorLine::default() }, Duration::ZERO);
        let cause = errors.list()[0].line.cause.clone().expect("a cause");
        assert!(cause.starts_with("a \u{e9}") && cause.chars().count() == MOST_CHARACTERS + 3, "{cause}");
    }
}

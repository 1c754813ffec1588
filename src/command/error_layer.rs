//! Keeps the last warnings and errors of the log for the status page.

use std::fmt;

use courier_token_broker::audit;
use courier_token_broker::clock::Clock;
use courier_token_broker::recent_errors::{ErrorLine, RecentErrors};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// A layer of the log that adds its warnings and errors to a list.
pub struct ErrorLayer(pub &'static RecentErrors);

impl<S: Subscriber> Layer<S> for ErrorLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let (level, target) = (*event.metadata().level(), event.metadata().target());
        if level > Level::WARN || target == audit::TARGET {
            return;
        }
        let mut line = ErrorLine { is_error: level == Level::ERROR, ..ErrorLine::default() };
        event.record(&mut Fields(&mut line));
        self.0.add(line, Clock::system().unix());
    }
}

/// The fields that are kept: users and scopes are not among them.
struct Fields<'a>(&'a mut ErrorLine);

impl Fields<'_> {
    fn keep(&mut self, field: &Field, text: String) {
        match field.name() {
            "message" => self.0.message = text,
            "error" | "cause" => self.0.cause = Some(text),
            "workspace" => self.0.workspace = Some(text),
            "client" => self.0.client = Some(text),
            _ => {}
        }
    }
}

impl Visit for Fields<'_> {
    fn record_str(&mut self, field: &Field, text: &str) {
        self.keep(field, text.to_owned());
    }

    /// A value that is to be displayed comes here too, with its text as the debug form.
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.keep(field, format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use courier_token_broker::recent_errors::RECENT_ERRORS;
    use tracing_subscriber::layer::SubscriberExt;

    #[test]
    fn warnings_and_errors_are_kept_without_users() {
        let subscriber = tracing_subscriber::registry().with(ErrorLayer(&RECENT_ERRORS));
        tracing::subscriber::with_default(subscriber, || {
            let error = "no route to host";
            tracing::warn!(workspace = "eu", users = "jane", client = "web", %error, "kept warning");
            tracing::error!("kept error");
            tracing::info!("left out");
            tracing::warn!(target: audit::TARGET, "left out");
        });
        let list = RECENT_ERRORS.list();
        let text = |message: &str| list.iter().find(|one| one.line.message == message).map(|one| one.line.clone());
        let kept = text("kept warning").expect("it is kept");
        assert_eq!(kept.cause.as_deref(), Some("no route to host"));
        assert_eq!(
            (kept.workspace.as_deref(), kept.client.as_deref(), kept.is_error),
            (Some("eu"), Some("web"), false)
        );
        assert!(text("kept error").is_some_and(|line| line.is_error));
        assert!(text("left out").is_none() && !format!("{list:?}").contains("jane"));
    }
}

//! Captures log lines.

use std::fs;
use std::sync::Arc;

use tempfile::NamedTempFile;
use tracing::subscriber::DefaultGuard;

/// Captured log lines.
pub struct LogLines(NamedTempFile);

impl LogLines {
    /// Captures the log lines of this thread until the guard is dropped.
    pub fn collect() -> (Self, DefaultGuard) {
        // While no subscriber of any thread wants a line, the library turns its place off for all. One that is always
        // there keeps tests that begin and end at the same time from losing lines of each other.
        let _ = tracing::subscriber::set_global_default(tracing_subscriber::fmt().with_writer(std::io::sink).finish());
        let file = NamedTempFile::new().expect("a file");
        let writer = Arc::new(file.reopen().expect("a file"));
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(writer).finish();
        (Self(file), tracing::subscriber::set_default(subscriber))
    }

    pub fn text(&self) -> String {
        fs::read_to_string(self.0.path()).expect("UTF-8")
    }

    /// The lines that contain this text.
    pub fn with(&self, text: &str) -> Vec<String> {
        self.text().lines().filter(|line| line.contains(text)).map(str::to_owned).collect()
    }
}

//! Captures log lines.

use std::io::{Result, Write};
use std::sync::Arc;

use parking_lot::Mutex;
use tracing::subscriber::DefaultGuard;

/// Captured log lines.
#[derive(Clone, Default)]
pub struct LogLines(Arc<Mutex<Vec<u8>>>);

impl LogLines {
    /// Captures the log lines of this thread until the guard is dropped.
    pub fn collect() -> (Self, DefaultGuard) {
        // While no subscriber of any thread wants a line, the library turns its place off for all. One that is always
        // there keeps tests that begin and end at the same time from losing lines of each other.
        let _ = tracing::subscriber::set_global_default(tracing_subscriber::fmt().with_writer(std::io::sink).finish());
        let lines = Self::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        (lines, tracing::subscriber::set_default(subscriber))
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().clone()).expect("UTF-8")
    }

    /// The lines that contain this text.
    pub fn with(&self, text: &str) -> Vec<String> {
        self.text().lines().filter(|line| line.contains(text)).map(str::to_owned).collect()
    }
}

impl Write for LogLines {
    fn write(&mut self, line: &[u8]) -> Result<usize> {
        self.0.lock().write(line)
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

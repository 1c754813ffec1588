//! Writing to standard output and standard error.

use std::io::{self, Write};
use std::thread;
use std::time::Duration;

use courier_token_broker::config::SettingsError;
use courier_token_broker::log_writer::LogWriter;

use super::failure::Failure;

/// The longest wait at exit for the reader of the log, and for the disk of the audit log.
pub const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Prints the output of a command that ends. A closed pipe, as of `head`, is no error.
pub fn print_to_end(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => done,
    }
}

/// Prints the output of a command that keeps running. A standard output that is closed, full or not
/// read does not block it.
pub fn print(text: String) {
    thread::spawn(move || {
        let mut out = io::stdout().lock();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    });
}

/// Writes to standard error. If it does not accept the text, the program exits after a time limit.
pub fn print_stderr(text: &str) {
    if let Ok(mut errors) = LogWriter::stderr()
        && errors.write_all(text.as_bytes()).is_ok()
    {
        errors.flush_within(FLUSH_TIMEOUT);
    }
}

/// Prints why a command failed.
pub fn report(failure: &Failure) {
    // Settings may have many errors, one a line.
    print_stderr(&failure.to_string().lines().map(|line| format!("error: {line}\n")).collect::<String>());
}

/// Prints warnings to standard error, before the log is set up.
pub fn warn(warnings: &[SettingsError]) {
    print_stderr(&warnings.iter().map(|warning| format!("warning: {warning}\n")).collect::<String>());
}

//! The runtime of a command, and the signals that end it or reload its settings.

use std::future::Future;
use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::failure::Failure;

/// Runs a command's future on a new runtime.
pub fn block_on<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(future);
    // Tasks still running have had their time.
    runtime.shutdown_background();
    outcome
}

/// Resolves at the first SIGTERM or SIGINT; the second ends the program at once.
pub fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            exit_now();
        });
    })
}

/// Sends a message for each SIGHUP.
pub fn reload_signals() -> io::Result<mpsc::Receiver<()>> {
    let mut hangup = signal(SignalKind::hangup())?;
    let (sender, requests) = mpsc::channel(1);
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            // If it is full, a reload that has not begun yet will read the new files too.
            let _ = sender.try_send(());
        }
    });
    Ok(requests)
}

#[expect(clippy::disallowed_methods, reason = "a second signal ends the program at once")]
fn exit_now() -> ! {
    std::process::exit(1)
}

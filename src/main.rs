//! The program: reads the command line and the environment, runs a command, and returns its exit code.

mod command;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match command::Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            command::report(&failure);
            ExitCode::from(failure.code())
        }
    }
}

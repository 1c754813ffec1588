//! The program: reads the command line and the environment, runs a command, and
//! turns its end into an exit code.

mod command;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match command::Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Settings may have many.
            failure.to_string().lines().for_each(|line| eprintln!("error: {line}"));
            ExitCode::from(failure.code())
        }
    }
}

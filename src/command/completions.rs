//! `completions`: prints the completions of the commands and flags for a shell.

use clap::Args;
use clap_complete::{Shell, generate};

use super::failure::Failure;
use super::output::print_to_end;

#[derive(Args)]
pub struct Completions {
    /// The shell.
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

impl Completions {
    /// Prints those of `program`.
    pub fn run(self, mut program: clap::Command) -> Result<(), Failure> {
        let name = program.get_name().to_owned();
        // It panics where it can't write, so it writes to memory.
        let mut script = Vec::new();
        generate(self.shell, &mut program, name, &mut script);
        Ok(print_to_end(&String::from_utf8_lossy(&script))?)
    }
}

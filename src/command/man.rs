//! `man`: prints the man page, or writes one for each command.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use super::failure::Failure;
use super::output::print_to_end;

#[derive(Args)]
pub struct Man {
    /// A folder for this page and those of the commands, in place of printing it.
    #[arg(value_name = "FOLDER")]
    folder: Option<PathBuf>,
}

impl Man {
    /// Prints or writes that of `program`.
    pub fn run(self, program: clap::Command) -> Result<(), Failure> {
        let program = program.disable_help_subcommand(true);
        match self.folder {
            Some(folder) => {
                let shown = folder.display().to_string();
                clap_mangen::generate_to(program, folder)
                    .with_context(|| format!("{shown}: the pages can't be written"))?;
            }
            None => {
                let mut page = Vec::new();
                clap_mangen::Man::new(program).render(&mut page)?;
                print_to_end(&String::from_utf8_lossy(&page))?;
            }
        }
        Ok(())
    }
}

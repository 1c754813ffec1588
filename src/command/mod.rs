//! The commands.

mod check;
mod client_key;
mod completions;
mod error_layer;
mod failure;
mod health;
mod logs;
mod man;
mod notify;
mod output;
mod plan;
mod proxy;
mod runtime;
mod sandbox;
mod schema;
mod serve;
mod simulate;
mod sources;
mod started;
mod store_key;

use clap::{CommandFactory, Parser, Subcommand};

pub use failure::Failure;
pub use output::report;
use sources::Sources;

/// Issues, caches, shares and renews Courier's user-scoped tokens for many apps,
/// inside one rate budget.
#[derive(Parser)]
#[command(
    name = "courier-token-broker",
    version = VERSION,
    after_help = "Without a command it serves. Exit codes: 0 done, 2 bad usage or settings, 1 anything else.\n\n\
        Environment:\n  \
        COURIER_API_KEY                        API key of the workspace \"default\"\n  \
        COURIER_BASE_URL                       base URL of the workspace \"default\" (https://api.courier.com)\n  \
        COURIER_TOKEN_BROKER_CLIENT_KEY        key of one client, for the simplest set-up\n  \
        COURIER_TOKEN_BROKER_CLIENT_SCOPES     scopes that it may request (every scope that Courier documents)\n  \
        COURIER_TOKEN_BROKER_CLIENT_MAX_LIFETIME  longest lifetime that it may request (tokens.max_lifetime)\n  \
        COURIER_TOKEN_BROKER__SECTION__KEY     any setting of the files but tables and lists"
)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: serve::Serve,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the broker.
    Serve(serve::Serve),
    /// Runs a broker and a Courier simulator in one process: no key, no file, no network.
    Sandbox(sandbox::Sandbox),
    /// Runs the Courier simulator alone.
    SimulateCourier(simulate::SimulateCourier),
    /// Shows what each mode of renewal would do with a log of requests.
    Plan(plan::Plan),
    /// Checks the settings and prints them, secrets redacted.
    Check(check::Check),
    /// Makes a client key, or that of the admin listener; prints it once, and its settings entry.
    ClientKey(client_key::ClientKey),
    /// Makes a key file for a store that outlives the process.
    StoreKey(store_key::StoreKey),
    /// Prints the JSON Schema of the settings, for editors.
    Schema,
    /// Asks the running broker whether it answers, for health checks of containers.
    Health(health::Health),
    /// Prints the completions for a shell.
    Completions(completions::Completions),
    /// Prints the man page.
    Man(man::Man),
}

/// The version, with the commit where the build knew it.
const VERSION: &str = if COMMIT.is_empty() {
    env!("CARGO_PKG_VERSION")
} else {
    concat!(env!("CARGO_PKG_VERSION"), " (", env!("BUILD_COMMIT"), ")")
};
/// The first digits of the commit; empty where the build did not know it.
const COMMIT: &str = env!("BUILD_COMMIT");

impl Cli {
    /// Runs the command.
    pub fn run(self) -> Result<(), Failure> {
        let Self { command, serve } = self;
        let Some(mut command) = command else { return serve.run() };
        // Before a command, only --config is allowed.
        let files = serve.files_alone().ok_or_else(|| Failure::Settings(MISPLACED.to_owned()))?;
        match command.sources() {
            Some(sources) => {
                sources.files.splice(..0, files);
            }
            None if files.is_empty() => {}
            None => return Err(Failure::Settings("--config: this command takes no settings files".to_owned())),
        }
        match command {
            Command::Serve(serve) => serve.run(),
            Command::Sandbox(sandbox) => sandbox.run(),
            Command::SimulateCourier(simulate) => simulate.run(),
            Command::Plan(plan) => plan.run(),
            Command::Check(check) => check.run(),
            Command::ClientKey(client_key) => client_key.run(),
            Command::StoreKey(store_key) => store_key.run(),
            Command::Schema => schema::run(),
            Command::Health(health) => health.run(),
            Command::Completions(completions) => completions.run(Self::command()),
            Command::Man(man) => man.run(Self::command()),
        }
    }
}

const MISPLACED: &str = "put options after the command, such as `courier-token-broker serve --listen ADDRESS`: only \
    --config may also come before it";

impl Command {
    /// The command's settings sources, if it has any.
    const fn sources(&mut self) -> Option<&mut Sources> {
        match self {
            Self::Serve(serve) => Some(&mut serve.sources),
            Self::Check(check) => Some(&mut check.sources),
            Self::Health(health) => Some(&mut health.sources),
            _ => None,
        }
    }
}

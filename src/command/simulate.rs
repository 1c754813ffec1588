//! `simulate-courier`: the Courier simulator alone.

use std::net::SocketAddr;

use clap::Args;
use courier_token_broker::clock::Clock;
use courier_token_broker::simulator::{Faults, Simulator};
use tokio::net::TcpListener;

use super::failure::{Failure, bound};
use super::output::print;
use super::runtime::{block_on, stop_signal};

#[derive(Args)]
pub struct SimulateCourier {
    /// Address to listen on.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8081")]
    listen: SocketAddr,
    /// The only API key that is accepted; without it, any is.
    #[arg(long, value_name = "KEY")]
    api_key: Option<String>,
    #[command(flatten)]
    faults: Faults,
}

impl SimulateCourier {
    pub fn run(self) -> Result<(), Failure> {
        block_on(async {
            let listener = TcpListener::bind(self.listen).await.map_err(bound(self.listen))?;
            let stop = stop_signal()?;
            print(format!("Courier simulator on http://{}\n", listener.local_addr()?));
            Simulator::new(self.api_key, self.faults, Clock::system()).serve(listener, stop).await;
            Ok(())
        })
    }
}

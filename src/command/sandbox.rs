//! `sandbox`: a broker with a simulated Courier, for trying it out.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;

use clap::Args;
use courier_token_broker::app::App;
use courier_token_broker::auth::Digest;
use courier_token_broker::clock::Clock;
use courier_token_broker::config::{Layers, Raw, RawClient, RawWorkspace, Settings};
use courier_token_broker::policy::access::SetBy;
use courier_token_broker::secrets::Secret;
use courier_token_broker::simulator::{Faults, Simulator};
use tokio::net::TcpListener;

use super::failure::{Failure, bound};
use super::logs::start_logs;
use super::output::print;
use super::runtime::{block_on, stop_signal};
use super::serve::{addresses, raise_open_files};

#[derive(Args)]
pub struct Sandbox {
    /// Address for apps.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Address of the status page, metrics and health.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9090")]
    admin_listen: SocketAddr,
    /// Address of the simulated Courier.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8081")]
    courier_listen: SocketAddr,
    #[command(flatten)]
    faults: Faults,
}

const CLIENT_KEY: &str = "sandbox";
const API_KEY: &str = "sandbox-api-key";

impl Sandbox {
    pub fn run(self) -> Result<(), Failure> {
        block_on(async {
            let listener = TcpListener::bind(self.courier_listen).await.map_err(bound(self.courier_listen))?;
            let courier = listener.local_addr()?;
            let settings = self.settings(courier)?;
            let _logs = start_logs(&settings)?;
            let open_files = raise_open_files()?;
            let clock = Clock::system();
            let app = App::bind_with(settings, Vec::new(), open_files, clock).await?;
            let stop = stop_signal()?;
            print(addresses(&app) + &explain(&app, courier));
            let simulator = Simulator::new(Some(API_KEY.to_owned()), self.faults, clock);
            // It runs until exit: the broker's last calls need it.
            tokio::spawn(simulator.serve(listener, std::future::pending()));
            app.run(stop).await;
            Ok(())
        })
    }

    /// Settings that read no files and no environment.
    fn settings(&self, courier: SocketAddr) -> Result<Settings, Failure> {
        let mut raw = Raw::default();
        raw.server.listen.0 = vec![self.listen.to_string()];
        raw.server.insecure = true;
        raw.admin.listen = self.admin_listen.to_string();
        raw.admin.insecure = true;
        raw.workspaces = BTreeMap::from([(
            "default".to_owned(),
            RawWorkspace {
                api_key: Secret::new(API_KEY).ok(),
                base_url: format!("http://{courier}"),
                insecure: true,
                ..RawWorkspace::default()
            },
        )]);
        let digest = Digest::of(CLIENT_KEY);
        raw.clients = vec![RawClient::with_documented_scopes(CLIENT_KEY, digest, &raw.tokens, SetBy::Sandbox)];
        Ok(Settings::resolve(&raw, &Layers::default())?)
    }
}

fn explain(app: &App, courier: SocketAddr) -> String {
    let mut text = format!("Courier simulator on http://{courier} (its requests: http://{courier}/simulator/calls)\n");
    if let Some(address) = app.addresses().first() {
        // Writing to a string can't fail.
        let _ = writeln!(
            text,
            "\nTry it (the second time it comes from memory):\n\n  \
             curl -i http://{address}/v1/tokens -H 'Authorization: Bearer {CLIENT_KEY}' \\\n    \
             -H 'Content-Type: application/json' -d '{{\"user_id\": \"jane\", \"profile\": \"inbox\"}}'\n"
        );
    }
    text
}

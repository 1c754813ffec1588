//! `check`: validates the settings and prints them, with a last line `OK: ...`.

use anyhow::Context;
use clap::Args;
use courier_token_broker::app::{StartError, dispatcher};
use courier_token_broker::clock::{Clock, Moment};
use courier_token_broker::config::{Settings, StoreSettings, WorkspaceSettings};
use courier_token_broker::metrics::Metrics;
use courier_token_broker::otlp::Tracer;
use courier_token_broker::store::redis::{self, RedisSettings};
use courier_token_broker::token::{Lifetime, ScopeClaim, TokenKey};
use courier_token_broker::upstream::Party;

use super::failure::Failure;
use super::output::{print_stderr, print_to_end, warn};
use super::proxy::ignored_proxies;
use super::runtime::block_on;
use super::sources::{Sources, environment};

#[derive(Args)]
pub struct Check {
    #[command(flatten)]
    pub(super) sources: Sources,
    /// Also requests a token of one minute from each workspace's Courier, and looks at the store in Redis.
    #[arg(long)]
    probe: bool,
}

/// The claim of a probe's token.
const PROBE: &str = "user_id:courier-token-broker-probe inbox:read:messages";

impl Check {
    pub fn run(self) -> Result<(), Failure> {
        let (layers, raw) = self.sources.read(&environment()?)?;
        let settings = Settings::resolve(&raw, &layers).inspect_err(|errors| warn(&errors.warnings))?;
        warn(&settings.warnings);
        if let Some(certificates) = &settings.tls {
            let now = Clock::system().unix();
            certificates.refuse_unusable(now).map_err(StartError::from)?;
            certificates.warnings(now).for_each(|warning| {
                print_stderr(&format!("warning: server.tls.{}: {warning}\n", warning.setting));
            });
        }
        for warning in ignored_proxies(&settings.workspaces) {
            print_stderr(&format!("warning: {warning}\n"));
        }
        let summary = summary(&settings);
        let shown = toml::to_string(&raw).context("the settings can't be shown")?;
        print_to_end(&format!("{shown}\n"))?;
        if self.probe {
            block_on(probe(settings.workspaces, settings.store))?;
        }
        Ok(print_to_end(&format!("{summary}\n"))?)
    }
}

/// The last line: a summary of the broker with these settings.
fn summary(settings: &Settings) -> String {
    let count = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let addresses: Vec<_> = settings.listen.iter().map(ToString::to_string).collect();
    format!(
        "OK: {}, {}, sessions {}, listening on {}, admin on {}",
        count(settings.workspaces.len(), "workspace"),
        count(settings.clients.iter().count(), "client"),
        if settings.sessions.is_some() { "on" } else { "off" },
        addresses.join(" and "),
        settings.admin_listen,
    )
}

async fn probe(workspaces: Vec<WorkspaceSettings>, store: Option<StoreSettings>) -> Result<(), Failure> {
    let clock = Clock::system();
    let metrics = Metrics::new().context("the metrics can't be set up")?;
    let mut failed = Vec::new();
    for workspace in workspaces {
        let name = workspace.name.clone();
        let claim = ScopeClaim::parse(PROBE).context("the probe is no claim")?;
        let key = TokenKey::new(&name, &claim, Lifetime::parse("1m").context("the probe has no lifetime")?);
        let (dispatcher, _) = dispatcher(workspace, clock, &metrics, &Tracer::off())?;
        let sent = clock.now();
        // The budget is full, so the call gets its permit at once.
        let origin = dispatcher.origin(&key, dispatcher.party(Party::Users, &key), false);
        let Ok(pending) = dispatcher.queue("", origin, Moment::NEVER) else { continue };
        let Ok(permit) = pending.permit().await else { continue };
        match dispatcher.issue(permit, &key).await {
            Ok(_) => {
                let milliseconds = clock.now().since(sent).as_millis();
                print_to_end(&format!("# workspace {name}: token issued in {milliseconds} ms\n"))?;
            }
            Err(failure) => failed.push(format!("workspace {name}: {failure}")),
        }
    }
    if let Some(StoreSettings::Redis(settings)) = store
        && let Err(why) = probe_redis(*settings).await
    {
        failed.push(format!("store: {why}"));
    }
    if failed.is_empty() { Ok(()) } else { Err(anyhow::anyhow!(failed.join("; ")).into()) }
}

/// Prints what Redis is like, and warns of what should be changed there.
async fn probe_redis(settings: RedisSettings) -> Result<(), String> {
    let redis::Probe { address, fine, advice } = redis::probe(settings).await?;
    for line in fine {
        print_to_end(&format!("# store {address}: {line}\n")).map_err(|error| error.to_string())?;
    }
    for line in advice {
        print_stderr(&format!("warning: store {address}: {line}\n"));
    }
    Ok(())
}

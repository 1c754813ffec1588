//! The scripts in virtual time: on a real server they answer as the model of the fleet's rules does.

#[allow(dead_code, reason = "the other tests use the rest")]
#[path = "../../../tests/support/redis_server.rs"]
mod redis_server;

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

use arc_swap::ArcSwap;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseResult, TestRunner};
use tokio::runtime::Runtime;

use super::context::Context;
use super::endpoint;
use super::event::TokenPrint;
use super::link::Link;
use super::lookup::{FlightId, Opened, OpenedAt, Place};
use super::membership::{self, Membership};
use super::names::{NAMES, Names};
use super::outbox;
use super::script::Scripts;
use super::sealer::Sealer;
use super::settings::{StoredWorkspace, Workspaces};
use super::user_connection::UserConnection;
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::policy::admission::budget::Budget;
use crate::policy::fleet::lease::Look;
use crate::policy::fleet::member::Request;
use crate::policy::fleet::permits::PurseRequest;
use crate::policy::fleet::record::{Landing, RecordTimes};
use crate::policy::fleet::tests::rule::Rules;
use crate::policy::fleet::tests::{server, store};
use crate::policy::fleet::{ServerTime, Share};
use crate::store::{Record, StoreKeys, StoredToken, WorkspaceIdentity};
use crate::token::{Lifetime, ScopeClaim, Token, TokenKey, WorkspaceName};
use redis_server::RedisServer;

/// The store's clock at the beginning, in microseconds.
const ORIGIN: u64 = 1_700_000_000_000_000;

const TIME: &str = include_str!("lua/virtual_time.lua");

/// A real server whose scripts run in virtual time.
struct World {
    runtime: Runtime,
    _server: RedisServer,
    context: Context,
    link: Link,
    now: u64,
}

fn workspace() -> WorkspaceName {
    WorkspaceName::new("default").expect("a name")
}

fn identity() -> WorkspaceIdentity {
    WorkspaceIdentity::new(&workspace(), "https://courier.test", None)
}

/// The workspace with a budget of this rate.
fn workspaces(rate: f64) -> Workspaces {
    let budget = Some(Budget::new(rate, 10).expect("a budget"));
    Workspaces::from([(workspace(), StoredWorkspace { identity: identity(), budget })])
}

impl World {
    fn new() -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), hex::encode([7; 32])).expect("written");
        let context = Context {
            scripts: Scripts::with_time(TIME),
            sealer: Sealer::new(StoreKeys::read(file.path()).expect("a key")).expect("randomness"),
            workspaces: ArcSwap::from_pointee(workspaces(20.0)),
            timeout: Duration::from_secs(10),
            clock: Clock::system(),
            metrics: Metrics::new().expect("metrics").store("redis"),
        };
        let (server, link) = runtime.block_on(async {
            let server = RedisServer::start(&[]).await;
            let client = ::redis::Client::open(server.url()).expect("a URL");
            // By default it would wait for half a second, which an answer takes on a busy machine.
            let connection = endpoint::connect(&client).await.expect("a connection");
            let users = UserConnection::Server(connection.clone());
            let names = Names::new(&[7; 32]).expect("a key");
            (server, Link { connection, users, names, server: client, number: 1 })
        });
        Self { runtime, _server: server, context, link, now: ORIGIN }
    }

    fn forget(&mut self) {
        self.run(&["FLUSHALL"]);
        self.run(&["SET", NAMES, "names"]);
        self.now = ORIGIN;
        self.advance(0);
    }

    fn advance(&mut self, millis: u64) {
        self.now += millis * 1000;
        let now = self.now.to_string();
        self.run(&["SET", "time", &now]);
    }

    fn now(&self) -> ServerTime {
        ServerTime::from_micros(self.now)
    }

    fn run(&mut self, command: &[&str]) {
        let run = async {
            let mut command_line = ::redis::cmd(command[0]);
            let ran = command_line.arg(&command[1..]).query_async::<::redis::Value>(&mut self.link.connection).await;
            ran.expect("an answer");
        };
        self.runtime.block_on(run);
    }

    fn place<'a>(context: &'a Context, link: &Link, key: &'a TokenKey) -> Place<'a> {
        Place { key, names: link.names.record(key, identity()), identity: identity(), context }
    }
}

/// 100 cases, or as many as `PROPTEST_CASES` says.
fn config() -> Config {
    let config = Config { failure_persistence: None, ..Config::default() };
    let is_set = std::env::var_os("PROPTEST_CASES").is_some();
    if is_set { config } else { Config { cases: 100, ..config } }
}

/// A step of members and permits.
#[derive(Clone, Debug)]
enum Step {
    Advance(u64),
    Join {
        id: usize,
        members: u32,
        known: u32,
        largest: u32,
    },
    Beat {
        id: usize,
        is_of_another: bool,
    },
    Leave {
        id: usize,
    },
    Take {
        permits: u32,
        live: u32,
    },
    /// The budget is another one from now on.
    SetRate(f64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => prop_oneof![0u64..800, 900u64..1100, 50_000u64..70_000].prop_map(Step::Advance),
        2 => (0usize..4, 1u32..12, 0u32..6, 0u32..12)
            .prop_map(|(id, members, known, largest)| Step::Join { id, members, known, largest }),
        6 => (0usize..4, prop::bool::weighted(0.1)).prop_map(|(id, is_of_another)| Step::Beat { id, is_of_another }),
        1 => (0usize..4).prop_map(|id| Step::Leave { id }),
        4 => (0u32..12, 1u32..5).prop_map(|(permits, live)| Step::Take { permits, live }),
        1 => prop::sample::select(vec![0.7, 20.0, 300.0]).prop_map(Step::SetRate),
    ]
}

#[test]
fn members_and_permits_are_those_of_the_model() {
    let world = RefCell::new(World::new());
    let mut runner = TestRunner::new(config());
    let steps = prop::collection::vec(step(), 1..40);
    runner.run(&steps, |steps| compare_members(&mut world.borrow_mut(), steps)).expect("equal answers");
}

fn compare_members(world: &mut World, steps: Vec<Step>) -> TestCaseResult {
    world.forget();
    let mut model = server::Server::new(Rules(None));
    let mut seen: HashMap<usize, ServerTime> = HashMap::new();
    let of = |id: usize| Membership { id: id.to_string(), sealed_names: b"names".to_vec(), members: 0 };
    for step in steps {
        let (now, context) = (world.now(), &world.context);
        let budget = context.workspaces.load()[&workspace()].budget.expect("a budget");
        let tolerance = budget.period() * budget.departing_burst();
        match step {
            Step::SetRate(rate) => context.workspaces.store(workspaces(rate).into()),
            Step::Advance(millis) => world.advance(millis),
            Step::Join { id, members, known, largest } => {
                let (share, largest) = (Share::of_each(members), Share::of_each(largest));
                let (member, link) = (of(id), &mut world.link);
                let joined = member.join(context, link, share, (known, largest));
                let joined = world.runtime.block_on(joined).expect("an answer");
                model.empty(tolerance, now);
                model.member(id, Request::Join { share, members: known, largest }, now);
                prop_assert_eq!(joined, now);
                seen.insert(id, joined);
            }
            Step::Beat { id, is_of_another } => {
                let last = seen.get(&if is_of_another { (id + 1) % 4 } else { id }).copied().unwrap_or_default();
                let (member, link) = (of(id), &mut world.link);
                let beat = world.runtime.block_on(member.beat(context, link, last)).expect("an answer");
                prop_assert_eq!(beat, model.member(id, Request::Beat { seen: last }, now));
                if let Some(answer) = beat {
                    seen.insert(id, answer.seen);
                }
            }
            Step::Leave { id } => {
                let last = seen.get(&id).copied().unwrap_or_default();
                let (member, link) = (of(id), &mut world.link);
                world.runtime.block_on(member.leave(context, link, last)).expect("an answer");
                model.member(id, Request::Leave { seen: last }, now);
            }
            Step::Take { permits, live } => {
                let period = Share::of_each(live).period(budget.period()).expect("some calls");
                let request = PurseRequest { sent: context.clock.now(), permits, period, tolerance };
                let take = membership::take(context, &mut world.link, "default", &request);
                prop_assert_eq!(world.runtime.block_on(take).expect("an answer"), model.take(&request, now));
            }
        }
    }
    Ok(())
}

/// A step of tokens.
#[derive(Clone, Debug)]
enum TokenStep {
    Advance(u64),
    Open {
        key: usize,
        flight: u64,
        least: u64,
    },
    Renew {
        key: usize,
        flight: u64,
    },
    Land {
        key: usize,
        flight: u64,
        life: u64,
        number: u64,
    },
    SignOut {
        user: usize,
    },
    Reject {
        key: usize,
        number: u64,
    },
    /// A record is damaged, so that it opens no more.
    Damage {
        key: usize,
    },
}

fn token_step() -> impl Strategy<Value = TokenStep> {
    let (key, flight) = (0usize..3, 0u64..3);
    prop_oneof![
        3 => prop_oneof![Just(0), 1u64..800, Just(1000u64)].prop_map(TokenStep::Advance),
        6 => (key.clone(), flight.clone(), prop_oneof![Just(0), 1u64..9000])
            .prop_map(|(key, flight, least)| TokenStep::Open { key, flight, least }),
        1 => (key.clone(), flight.clone()).prop_map(|(key, flight)| TokenStep::Renew { key, flight }),
        6 => (key.clone(), flight, prop_oneof![Just(0), Just(2000), Just(3000), 1u64..9000], 0u64..4)
            .prop_map(|(key, flight, life, number)| TokenStep::Land { key, flight, life, number }),
        1 => (0usize..2).prop_map(|user| TokenStep::SignOut { user }),
        3 => (key.clone(), 0u64..4).prop_map(|(key, number)| TokenStep::Reject { key, number }),
        2 => key.prop_map(|key| TokenStep::Damage { key }),
    ]
}

#[test]
fn tokens_leases_and_sign_outs_are_those_of_the_model() {
    let world = RefCell::new(World::new());
    let mut runner = TestRunner::new(config());
    let steps = prop::collection::vec(token_step(), 1..40);
    runner.run(&steps, |steps| compare_tokens(&mut world.borrow_mut(), steps)).expect("equal answers");
}

fn compare_tokens(world: &mut World, mut steps: Vec<TokenStep>) -> TestCaseResult {
    world.forget();
    let mut model = store::Store::new(Rules(None));
    let mut opened: HashMap<(usize, u64), OpenedRecord> = HashMap::new();
    let mut damaged = Vec::new();
    steps.extend((0..3).map(|key| TokenStep::Open { key, flight: 9, least: 0 }));
    for step in steps {
        let (now, context) = (world.now(), &world.context);
        match step {
            TokenStep::Advance(millis) => world.advance(millis),
            TokenStep::Open { key, flight, least } => {
                let wanted = store::Wanted { key, flight, least: Duration::from_millis(least), useless: None };
                let at = compare_look(world, &mut model, &damaged, wanted)?;
                opened.insert((key, flight), at);
            }
            TokenStep::Renew { key, flight } => {
                let token_key = token_key(key);
                let place = World::place(context, &world.link, &token_key);
                let renewed = world.runtime.block_on(place.renew(&mut world.link, flight_id(flight)));
                prop_assert_eq!(renewed.expect("an answer"), model.renew(key, flight, now));
            }
            TokenStep::Land { key, flight, life, number } => {
                let Some((at, useless)) = opened.get(&(key, flight)).copied() else { continue };
                let life = Duration::from_millis(life);
                let record = record(key, number, life, context.clock);
                let place = World::place(context, &world.link, &record.key);
                let landed = world.runtime.block_on(place.land(&mut world.link, flight_id(flight), at, &record));
                let landed = landed.expect("an answer");
                let token = store::Token { number: key as u64 * 10 + number, key, sent: 0, ends: 0 };
                let record = store::Record { token, times: RecordTimes::new(at.time, life), unix_ends: 0 };
                prop_assert_eq!(landed, model.land(record, flight, useless, now));
                if landed == Landing::Stored {
                    // It may be the same record again, whole.
                    damaged.retain(|head| *head != record.head());
                }
            }
            TokenStep::Damage { key } => {
                let Some(head) = model.head(key).filter(|head| !damaged.contains(head)) else { continue };
                let name = World::place(context, &world.link, &token_key(key)).names.token;
                world.run(&["APPEND", &name, "x"]);
                damaged.push(head);
            }
            TokenStep::SignOut { user } => {
                let event = super::Event::SignedOut { workspace: workspace(), user: Some(format!("u{user}").into()) };
                world.runtime.block_on(outbox::send(context, &mut world.link, &event)).expect("an answer");
                model.sign_out(user, now);
            }
            TokenStep::Reject { key, number } => {
                let print = TokenPrint::of(&token(key, key as u64 * 10 + number));
                let event = super::Event::Rejected { key: token_key(key), print };
                world.runtime.block_on(outbox::send(context, &mut world.link, &event)).expect("an answer");
                model.reject(key, key as u64 * 10 + number);
            }
        }
    }
    prop_assert_eq!(model.broken, None);
    Ok(())
}

/// When a flight looked, and the damaged record that it found.
type OpenedRecord = (OpenedAt, Option<store::Head>);

fn compare_look(
    world: &mut World,
    model: &mut store::Store,
    damaged: &[store::Head],
    wanted: store::Wanted,
) -> Result<OpenedRecord, TestCaseError> {
    let (now, key) = (world.now(), token_key(wanted.key));
    let place = World::place(&world.context, &world.link, &key);
    let look = place.open(&mut world.link, flight_id(wanted.flight), wanted.least);
    let answer = world.runtime.block_on(look).expect("an answer");
    let mut expected = model.open(wanted, false, now);
    let found = expected.record.filter(|_| expected.look == Look::Found).map(|record| record.head());
    let useless = found.filter(|head| damaged.contains(head));
    if useless.is_some() {
        expected = model.open(store::Wanted { useless, ..wanted }, false, now);
    }
    prop_assert_eq!(answer.look(), Some(expected.look));
    match answer {
        Opened::Found(record) => {
            let number = expected.record.expect("a record").token.number;
            prop_assert_eq!(record.token.expect("a token").token, token(wanted.key, number));
        }
        Opened::Leased(at) => {
            prop_assert_eq!((at.time, at.useless.is_some()), (expected.now, useless.is_some()));
            return Ok((at, useless));
        }
        Opened::Held(_) | Opened::Away => {}
    }
    Ok((OpenedAt { time: now, useless: None }, None))
}

fn flight_id(number: u64) -> FlightId {
    FlightId::of(number.into())
}

fn token_key(key: usize) -> TokenKey {
    let users: Vec<_> = store::USERS[key].iter().map(|user| format!("user_id:u{user}")).collect();
    let claim = format!("{} inbox:read", users.join(" "));
    TokenKey::new(&workspace(), &ScopeClaim::parse(&claim).expect("a claim"), Lifetime::MAX)
}

fn token(key: usize, number: u64) -> Token {
    Token::new(&format!("token-{key}-{number}")).expect("a token")
}

/// A record whose Unix time decides nothing: the store's clock is virtual.
fn record(key: usize, number: u64, life: Duration, clock: Clock) -> Record {
    let sent = clock.now() + Duration::from_secs(3600);
    let token = token(key, key as u64 * 10 + number);
    let token = Some(StoredToken { token, sent, life });
    Record { key: token_key(key), token, demand: Vec::new().into(), owners: Vec::new() }
}

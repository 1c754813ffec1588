//! A token broker for Courier.
//!
//! The broker stands between a company's apps and Courier. It answers requests for
//! user-scoped JWTs from a cache, calls Courier only on a miss, renews tokens that are
//! likely to be requested again, and keeps all calls within one rate budget.
//!
//! # Request path
//!
//! ```text
//! listener -> route -> client key, certificate or session -> access check -> token key
//!   -> key table --fresh enough--> response that was built when the token arrived
//!             \--miss or stale--> place (a client's share of the waiting requests)
//!                                   -> negative cache -> flight (one per token key; all requests follow it)
//!                                      -> admission (class waiting) -> Courier -> checks -> grant
//!                                         -> key table, schedule, followers
//! ```
//!
//! # Renewal path
//!
//! ```text
//! schedule (next due, while the queue has room) -> refresher: is a call worth it?
//!   --renew--> a flight -> admission (class renewal or ahead) -> Courier -> grant
//!   --wait---> schedule: decide again later (mode learned)
//!   --stop---> nothing, until the key is asked for
//! breaker wants a probe -> prober -> a flight (class waiting)
//! ```
//!
//! In mode used a token is worth a call if it was handed out; in mode learned, if the benefit of the
//! call exceeds its price. There is one path to Courier: a miss, a renewal, a prefetch and a probe are
//! flights, and differ in how they queue. A retry is another call of its flight, with a permit of its own.
//!
//! # Glossary
//!
//! Code, metrics, logs and documentation use these terms alike.
//!
//! | term | meaning |
//! |---|---|
//! | workspace | one Courier API key and base URL |
//! | client | an app with a client key or certificate |
//! | party, owner | for whose sake a call is made, which its failures are held against: a client, or a session's user; for whose sake an entry is kept: a client, or all sessions |
//! | session | an end user's own login token (JWT) |
//! | profile | a named scope set |
//! | token key | workspace, users in order, scope set, lifetime: the cache key of a token |
//! | grant | an issued token with its times |
//! | key table, entry | the cache; its value for a token key: demand, plan, and the grant if there is one |
//! | floor, hard floor | the least remaining life that may be handed out; the same where no new token can be had |
//! | window | how long after its issue a token is above its floor |
//! | request, hit, miss, stale, collapsed | as in HTTP caching; a *collapsed* request waits for another one's call (RFC 9211) |
//! | flight (single-flight), leader, follower | one shared call to Courier for a token key; the side of the task that makes it; a request that waits for it |
//! | detached | of a flight: its followers get the outcome, but the token is not stored |
//! | permit, budget, burst, admission | the right to make one call; the permitted rate; how many calls may leave at once; the decision which call gets the next permit |
//! | class | waiting (a request or a probe waits), renewal (the token is about to cross its floor), ahead (any other call before a request): the order of admission |
//! | line, place | the queued calls of one client; a call's number in it; on the routes for apps, a client's share of the waiting requests |
//! | failure, rejection, refusal | a call brought no token; admission lets no call leave; a request gets no token |
//! | renewal, prefetch, return | issuing before the floor; issuing before a request; prefetch for a user who is away |
//! | demand history | the remembered request times of a token key |
//! | circuit breaker (closed, open, half-open), retry budget, back-off, negative cache | as everywhere |
//! | hedge | a call beside one for the same token key that is late; the first token wins |
//! | suspicion, probe | failures that may be Courier's; a call that tests them, or an open circuit |
//! | sign-out, revocation, not-before | forgetting a user's tokens; making them void; the moment before which they are void |
//! | fleet, member, share | brokers that use one budget; one of them; what it may use of the budget while it is cut off |
//! | lease, purse | the right to call for a token key in the fleet; permits that a broker takes at once |
//! | coverage | the share of demand that would survive an outage of a given length |
//! | simulator | the Courier that the project ships for tests and `sandbox` |
//!
//! # Modules
//!
//! Imports run one way, `main -> app -> http -> broker -> upstream -> policy -> token`;
//! `tests/architecture/` enforces it.
//!
//! | module | contents | does not depend on |
//! |---|---|---|
//! | [`token`] | data types: users, scopes, lifetimes, token keys, grants | async, settings, HTTP; of the clock only [`Moment`](clock::Moment) |
//! | [`policy`] | rules: freshness, access, session, [`schedule`](policy::schedule), [`admission`](policy::admission), [`refresh`](policy::refresh), the [`fleet`](policy::fleet) | IO, async, logs, metrics; of the clock only [`Moment`](clock::Moment) |
//! | [`broker`] | the request path: key table, flights; and the refresher | HTTP, settings files, reqwest |
//! | [`store`] | what outlives the process, sealed: [`disk`](store::disk), [`redis`](store::redis) | the cache, HTTP, settings files |
//! | [`upstream`] | Courier: client, dispatcher (drives [`policy::admission`]), checks of the response | the cache, the HTTP server |
//! | [`auth`] | authentication of client keys and sessions | the cache, Courier |
//! | [`otlp`] | traces and metrics for an OpenTelemetry collector, with the cargo feature `otlp` | the cache, the HTTP server |
//! | [`http`] | [`server`](http::server): sockets, TLS, connections; [`api`](http::api): routes for apps; [`admin`](http::admin): routes for operators | reqwest, governor |
//! | [`planner`] | replays of a trace through the same rules in virtual time | tokio, moka, reqwest |
//! | [`simulator`] | the Courier simulator, an independent oracle for tests | everything but the clock |
//! | [`config`] | settings: layers, shape, checks | |
//! | [`app`] | wiring, runtimes, reload | |
//! | [`clock`], [`secrets`], [`files`], [`plain_text`], [`error_chain`], [`http_client`], [`metrics`], [`audit`], [`log_writer`], [`recent_errors`] | services that every module may use | |
//!
//! [`token`] and [`policy`] are given the time and do no IO, so tests run them through a
//! year in a moment.

pub mod app;
pub mod audit;
pub mod auth;
pub mod broker;
pub mod clock;
pub mod config;
pub mod error_chain;
pub mod files;
pub mod http;
pub mod http_client;
pub mod log_writer;
pub mod metrics;
pub mod otlp;
pub mod plain_text;
pub mod planner;
pub mod policy;
pub mod recent_errors;
pub mod secrets;
pub mod simulator;
pub mod store;
pub mod token;
pub mod upstream;

//! The routes for apps: requests and responses. `CONTRIBUTING.md` lists the steps to add one.

mod allowed_headers;
mod body;
mod cache_status;
mod contract;
mod cors;
mod courier;
mod denied;
mod fields;
mod frontend;
mod native;
mod places;
mod plain_object;
mod problem;
mod refuse;
mod removal;
mod request;
mod request_log;
mod response;
mod retry;
mod serve;
mod session;
mod session_auth;
mod user_rates;

use std::collections::BTreeMap;
use std::future::Future;
use std::mem;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use hyper::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE};
use hyper::{Method, Request, Response, Uri};

pub use allowed_headers::{AllowedHeaderError, AllowedHeaders};
pub use body::Incoming;
pub use cors::{OriginError, Origins};
pub use session_auth::{SessionRoute, SessionSource};

use crate::auth::{AllowedScopes, Client, ClientKeys, KnownClient, Sessions};
use crate::broker::{Answer, Broker};
use crate::clock::Clock;
use crate::http::log_limit::LogLimit;
use crate::http::response_body::{JSON, NO_STORE, ResponseBody};
use crate::http::server::{BadHost, PeerNames};
use crate::metrics::{CallerLabels, CallerRequests, Metrics, MetricsResult, RequestOutcome, Route};
use crate::otlp;
use crate::token::{Lifetime, Profile};
use body::{Received, Waiting};
use cache_status::{CACHE_STATUS, cache_status};
use places::{Caller, Places};
use problem::Problem;
use request::{Course, REQUEST_ID, bare_path, header_bytes, header_text, is_from_broker, request_id, user_in_path};
use session_auth::SessionAuth;
use user_rates::UserRates;

/// The settings of the app listener.
#[derive(Clone, Debug)]
pub struct ApiSettings {
    /// The lifetime of a token whose request names none.
    pub default_lifetime: Lifetime,
    /// The longest lifetime that any client may request.
    pub max_lifetime: Lifetime,
    /// The named scope sets; `inbox` is always there.
    pub profiles: BTreeMap<String, Profile>,
    /// The largest request body, in bytes.
    pub body_bytes: usize,
    /// The most bytes of a request's headers.
    pub header_bytes: usize,
    /// The most headers of a request. hyper takes 100; with any other limit it would allocate them on
    /// the heap for each request.
    pub header_count: usize,
    /// The longest that a request's body may take to arrive.
    pub body_timeout: Duration,
    /// The most requests that wait for Courier at once, over all listeners; and the most that wait for their bodies.
    pub requests_in_flight: usize,
    /// The share of users whose requests are logged.
    pub log_requests: f64,
}

/// The routes for apps.
pub struct Api {
    settings: ApiSettings,
    broker: Broker,
    clients: ClientKeys,
    session_auth: Option<SessionAuth>,
    /// The counters of callers that are neither a client nor a session.
    unknown: CallerRequests,
    log_limit: LogLimit,
    /// The places of requests that wait for a token from Courier.
    waiting_for_token: Arc<Places>,
    /// The places of requests that wait for their bodies, by the memory that they take.
    waiting_for_body: Arc<Places>,
    clock: Clock,
    metrics: Arc<Metrics>,
    /// The OpenAPI document.
    contract: Bytes,
}

impl Api {
    /// The routes for apps, answered by this broker. The error is a bug in a metric's declaration.
    pub fn new(
        settings: ApiSettings,
        broker: Broker,
        mut clients: ClientKeys,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> MetricsResult<Self> {
        clients.count_requests(metrics.callers())?;
        let unknown = metrics.callers().requests(&CallerLabels::unknown())?;
        let [waiting_for_token, waiting_for_body] = [(); 2].map(|()| Places::new(settings.requests_in_flight));
        Ok(Self {
            settings,
            broker,
            clients,
            session_auth: None,
            unknown,
            log_limit: LogLimit::new(clock),
            waiting_for_token,
            waiting_for_body,
            clock,
            metrics,
            contract: Self::contract(),
        })
    }

    /// The settings of the routes.
    pub const fn settings(&self) -> &ApiSettings {
        &self.settings
    }

    /// The known clients.
    pub const fn clients(&self) -> &ClientKeys {
        &self.clients
    }

    /// The session check, if users may call.
    pub fn sessions(&self) -> Option<&Sessions> {
        self.session_auth.as_ref().map(|session_auth| &session_auth.sessions)
    }

    /// Lets users call the front-end route with their own sessions.
    pub fn with_sessions(self, sessions: Sessions, route: SessionRoute) -> MetricsResult<Self> {
        let rates = route.client.rate.map(UserRates::new).map(Arc::new);
        let requests = self.metrics.callers().requests(&route.caller())?;
        Ok(Self {
            session_auth: Some(SessionAuth { sessions, route, rates, requests, allowed: AllowedScopes::default() }),
            ..self
        })
    }

    /// The callers whose requests are counted.
    pub fn callers(&self) -> Vec<CallerLabels> {
        let sessions = self.session_auth.iter().map(|session_auth| session_auth.route.caller());
        self.clients.iter().map(Client::caller).chain(sessions).chain([CallerLabels::unknown()]).collect()
    }

    /// Takes over the places that are taken, and the rates of users, from the routes that these replace, if there are any.
    #[must_use]
    pub fn taking_over_from(mut self, before: Option<&Self>) -> Self {
        let Some(before) = before else { return self };
        self.waiting_for_token = Arc::clone(&before.waiting_for_token);
        self.waiting_for_body = Arc::clone(&before.waiting_for_body);
        for places in [&self.waiting_for_token, &self.waiting_for_body] {
            places.set_total(self.settings.requests_in_flight);
        }
        if let (Some(new), Some(old)) = (&mut self.session_auth, &before.session_auth) {
            new.take_over_rates(old);
        }
        self
    }

    /// Answers one request. `peer` is the caller's address, for the audit log.
    #[expect(clippy::manual_async_fn, reason = "an `async fn` would hold the request twice, in each hit's future")]
    pub fn answer<B: Incoming>(
        self: Arc<Self>,
        mut request: Request<B>,
        peer: Option<IpAddr>,
    ) -> impl Future<Output = Response<ResponseBody>> {
        async move {
            let arrived = self.clock.now();
            let (route, methods) = Self::find(request.uri());
            let mut course = Course { counters: &self.unknown, now: arrived };
            // Read first, since a token's response takes the request's header map.
            let sent_id = request_id(request.headers());
            let session_route = self.session_auth.as_ref().filter(|_| route == Route::Frontend);
            let page = session_route.map(|session_auth| session_auth.route.origins.allowed(request.headers()));
            let answered = match route {
                _ if request.extensions().get::<BadHost>().is_some() => Err(Problem::Host),
                _ if request.headers().len() > self.settings.header_count => Err(Problem::HeadersTooLarge),
                _ if header_bytes(&request) > self.settings.header_bytes => Err(Problem::HeadersTooLarge),
                // Checked before the client key: the key that it sends is Courier's.
                Route::IssueToken | Route::Other if is_from_broker(&request) => Err(Problem::Loop),
                Route::Other => Err(Problem::NotFound),
                Route::Frontend if *request.method() == Method::OPTIONS && self.session_auth.is_some() => {
                    match self.preflight(&request) {
                        // A preflight requests no token, so it is not counted.
                        Ok(response) => return response,
                        Err(problem) => Err(problem),
                    }
                }
                _ if !methods.contains(request.method()) => Err(Problem::Method(methods)),
                Route::IssueToken => self.issue_token(&mut request, &mut course).await,
                Route::Frontend => self.frontend(&mut request, &mut course).await,
                Route::Tokens if *request.method() == Method::DELETE => {
                    self.sign_out_in_body(&mut request, &mut course).await
                }
                Route::Tokens => self.tokens(&mut request, &mut course).await,
                Route::Rejected => self.rejected(&mut request, &mut course).await,
                Route::SignOut => self.sign_out_in_path(&mut request, &mut course).await,
                Route::OpenApi => Ok(self.open_api()),
            };
            let (outcome, mut response) = match answered {
                Ok((outcome, mut response)) => {
                    if let Some(id) = sent_id {
                        response.headers_mut().insert(REQUEST_ID, id);
                    }
                    (outcome, response)
                }
                Err(problem) => {
                    let response = Box::pin(self.refuse(&problem, &mut request, route, peer)).await;
                    (problem.outcome(), response)
                }
            };
            if let Some(page) = page {
                Origins::set_headers(page, response.headers_mut());
            }
            otlp::note_route(route, outcome);
            self.metrics.request(route, outcome, self.clock.now().since(arrived));
            course.counters[outcome].inc();
            response
        }
    }

    /// Finds the route of a path, and its methods.
    fn find(uri: &Uri) -> (Route, &'static [Method]) {
        let route = match bare_path(uri) {
            "auth/issue-token" => Route::IssueToken,
            "api/generate-courier-jwt" => Route::Frontend,
            "v1/tokens" => Route::Tokens,
            "v1/tokens/rejected" => Route::Rejected,
            path if user_in_path(path).is_some() => Route::SignOut,
            "openapi.json" => Route::OpenApi,
            _ => Route::Other,
        };
        (route, Self::methods(route))
    }

    /// The methods of a route.
    const fn methods(route: Route) -> &'static [Method] {
        match route {
            Route::IssueToken | Route::Rejected => &[Method::POST],
            Route::Frontend => &[Method::POST, Method::GET],
            Route::Tokens => &[Method::POST, Method::DELETE],
            Route::SignOut => &[Method::DELETE],
            Route::OpenApi => &[Method::GET],
            Route::Other => &[],
        }
    }

    /// Authenticates the client, whose counters then count the request, and checks its rate.
    fn client<'a, B>(&'a self, request: &Request<B>, course: &mut Course<'a>) -> Result<&'a KnownClient, Problem> {
        let known = self.known_client(request)?;
        if let Some(requests) = known.requests() {
            course.counters = requests;
        }
        otlp::note_caller(|| known.client().caller());
        known.admit().map_err(|wait| Problem::RateLimited(known.client().name.clone(), wait))?;
        Ok(known)
    }

    /// Finds the client by its key, or without one by the connection's certificate.
    fn known_client<B>(&self, request: &Request<B>) -> Result<&KnownClient, Problem> {
        let mut values = request.headers().get_all(AUTHORIZATION).iter();
        let value = match (values.next(), values.next()) {
            (Some(value), None) => value,
            (Some(_), Some(_)) => return Err(Problem::MissingKey),
            (None, _) => {
                let names = request.extensions().get::<PeerNames>().ok_or(Problem::MissingKey)?;
                return self.clients.find_by_certificate(names.iter()).ok_or(Problem::UnknownKey);
            }
        };
        let (scheme, key) = header_text(value).and_then(|text| text.split_once(' ')).ok_or(Problem::MissingKey)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(Problem::MissingKey);
        }
        self.clients.find(key.trim()).ok_or(Problem::UnknownKey)
    }

    /// The conditions on which a request of this caller waits for its body.
    const fn waiting<'a>(&'a self, caller: Caller<'a>) -> Waiting<'a> {
        Waiting { places: &self.waiting_for_body, caller, timeout: self.settings.body_timeout }
    }

    /// Reads the body of a request of this caller.
    async fn read_body<B: Incoming>(
        &self,
        request: &mut Request<B>,
        caller: Caller<'_>,
        course: &mut Course<'_>,
    ) -> Result<Bytes, Problem> {
        let Received { bytes, has_waited } =
            body::read(request, self.settings.body_bytes, &self.waiting(caller)).await?;
        if has_waited {
            course.now = self.clock.now();
        }
        Ok(bytes)
    }

    /// The end of a token with this remaining life, as RFC 3339 in UTC.
    fn expires_at(&self, remaining: Duration) -> String {
        humantime::format_rfc3339_seconds(UNIX_EPOCH + self.clock.unix() + remaining).to_string()
    }
}

/// The outcome for the metrics, and the response.
type Answered = (RequestOutcome, Response<ResponseBody>);

/// A response that carries a token. Caches must not store it. It takes the request's header map, which is already
/// allocated; the connection then keeps it for the next request.
fn token_response<B>(request: &mut Request<B>, answer: &Answer, body: ResponseBody) -> Answered {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    mem::swap(headers, request.headers_mut());
    headers.clear();
    headers.insert(CONTENT_TYPE, JSON);
    headers.insert(CACHE_CONTROL, NO_STORE);
    headers.insert(CACHE_STATUS, cache_status(answer));
    (answer.source.outcome(), response)
}

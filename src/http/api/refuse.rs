//! Answers a request with an error, and logs it with the id that its caller is told.

use std::net::IpAddr;

use hyper::header::HeaderValue;
use hyper::{Request, Response, Version};

use super::Api;
use super::body::{self, Incoming};
use super::problem::Problem;
use super::request::{REQUEST_ID, error_id};
use super::response::Style;
use super::retry::ClientKind;
use crate::audit;
use crate::http::log_limit::FailedRequest;
use crate::http::response_body::ResponseBody;
use crate::http::server::Cancelled;
use crate::metrics::{RequestOutcome, Route};

impl Api {
    /// Answers a request with an error, and reads the rest of its body where the connection stays in use.
    pub(super) async fn refuse<B: Incoming>(
        &self,
        problem: &Problem,
        request: &mut Request<B>,
        route: Route,
        peer: Option<IpAddr>,
    ) -> Response<ResponseBody> {
        let id = error_id(request.headers());
        self.log_refusal(problem, request, route, &id, peer);
        if let Some(held) = problem.held(self.clock.now()) {
            self.broker.count_held(&held);
        }
        let given_up = match problem {
            Problem::BodyBroken => true,
            Problem::BodyTimeout | Problem::Overload(_) => false,
            // An HTTP/2 stream can be answered before its body ends; reading the rest would keep it open.
            _ if request.version() == Version::HTTP_2 => false,
            _ => body::discard(request, self.settings.body_timeout).await,
        };
        let mut response = problem.response(Style::of(route), ClientKind::of(request.headers()));
        response.headers_mut().insert(REQUEST_ID, id);
        if given_up {
            response.extensions_mut().insert(Cancelled);
        }
        response
    }

    /// Logs an error with the id that the caller is told, unless the request itself is at fault.
    fn log_refusal<B>(
        &self,
        problem: &Problem,
        request: &Request<B>,
        route: Route,
        id: &HeaderValue,
        peer: Option<IpAddr>,
    ) {
        let request_id = id.to_str().unwrap_or_default();
        if let Some(refusal) = problem.refusal() {
            return self.log_limit.refused(&audit::Refusal { request_id: Some(request_id), ..refusal }, peer);
        }
        if matches!(problem.outcome(), RequestOutcome::Failed | RequestOutcome::Limited) {
            let client = self.known_client(request).ok().map(|known| known.client().name.as_str());
            let (route, status, error) = (route.as_str(), problem.status().as_u16(), &problem.message());
            self.log_limit.failed(&FailedRequest { request_id, client, route, status, error });
        }
    }
}

//! Why Courier cannot be reached.

use std::error::Error;
use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::sync::Arc;

use crate::error_chain::{describe_sources, links};

/// Why a connection to Courier failed. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreachable {
    cause: Cause,
    /// The host, the cause and the errors that led to it, for operators.
    details: Arc<str>,
}

/// The kind of connection failure. It names no host, so callers may see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// No process listens at the address.
    #[error("connection refused")]
    Refused,
    /// The name has no address, or no name server answers.
    #[error("host name not resolved")]
    Unresolved,
    /// The certificate is expired, for another name, or from an untrusted authority.
    #[error("certificate not trusted")]
    Untrusted,
    /// The peer answers in another protocol than TLS, for example plain HTTP.
    #[error("the peer does not speak TLS")]
    NotTls,
    /// Another failure of the TLS handshake.
    #[error("TLS handshake failed")]
    Tls,
    /// The network has no route, or a firewall blocks it.
    #[error("no route to host")]
    NoRoute,
    /// The connection was not made within `connect_timeout`.
    #[error("connection timed out")]
    TimedOut,
    /// The connection was closed or reset before the answer was complete.
    #[error("connection closed or reset")]
    Closed,
    /// The same, on a connection that calls share (HTTP/2): another call may be the reason.
    #[error("connection closed or reset")]
    SharedClosed,
    /// The peer stopped answering on a connection that had worked.
    #[error("connection lost")]
    Lost,
    /// The answer is not HTTP, or has too many headers.
    #[error("the answer is not readable HTTP")]
    Protocol,
    /// The workspace's proxy cannot be reached, or refuses the connection.
    #[error("the proxy made no connection")]
    Proxy,
    /// Another failure, described in the details.
    #[error("connection failed")]
    Other,
}

impl Unreachable {
    /// Describes the error of a call to `host`.
    pub fn new(host: &str, error: &reqwest::Error) -> Self {
        let cause = cause(error);
        let details = format!("{host}: {cause} ({})", describe_sources(error));
        Self { cause, details: details.into() }
    }

    /// Describes a call to `host` that was given up.
    pub fn lost(host: &str) -> Self {
        let cause = Cause::Lost;
        Self { cause, details: format!("{host}: {cause} (it worked before, and no answer comes)").into() }
    }

    /// The same failure on a connection that calls share.
    pub fn on_shared_connection(self) -> Self {
        Self { cause: Cause::SharedClosed, ..self }
    }

    /// The kind of failure.
    pub const fn cause(&self) -> Cause {
        self.cause
    }
}

impl From<Cause> for Unreachable {
    /// For a cause without details.
    fn from(cause: Cause) -> Self {
        Self { cause, details: format!("Courier: {cause}").into() }
    }
}

impl fmt::Display for Unreachable {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.details)
    }
}

fn cause(error: &reqwest::Error) -> Cause {
    // This error's type is private, so match its text. The errors under it concern the proxy.
    if links(error).any(|link| link.to_string().starts_with("tunnel error")) {
        return Cause::Proxy;
    }
    if error.is_dns() {
        return Cause::Unresolved;
    }
    if error.is_timeout() {
        return Cause::TimedOut;
    }
    let unknown = if error.is_connect() { Cause::Other } else { Cause::Closed };
    links(error).find_map(cause_of).unwrap_or(unknown)
}

/// The cause that a single error of a chain indicates.
fn cause_of(link: &(dyn Error + 'static)) -> Option<Cause> {
    if let Some(error) = link.downcast_ref::<rustls::Error>() {
        return Some(match error {
            rustls::Error::InvalidCertificate(_) => Cause::Untrusted,
            rustls::Error::InvalidMessage(_) => Cause::NotTls,
            _ => Cause::Tls,
        });
    }
    if let Some(error) = link.downcast_ref::<hyper::Error>() {
        let is_closed = error.is_incomplete_message() || error.is_closed() || error.is_canceled();
        return if error.is_parse() { Some(Cause::Protocol) } else { is_closed.then_some(Cause::Closed) };
    }
    Some(match link.downcast_ref::<io::Error>()?.kind() {
        ErrorKind::ConnectionRefused => Cause::Refused,
        ErrorKind::HostUnreachable
        | ErrorKind::NetworkUnreachable
        | ErrorKind::AddrNotAvailable
        | ErrorKind::NetworkDown
        | ErrorKind::PermissionDenied => Cause::NoRoute,
        ErrorKind::TimedOut => Cause::TimedOut,
        ErrorKind::ConnectionReset
        | ErrorKind::ConnectionAborted
        | ErrorKind::BrokenPipe
        | ErrorKind::NotConnected
        | ErrorKind::UnexpectedEof => Cause::Closed,
        _ => return None,
    })
}

/// Whether the error is that of an HTTP/2 connection whose peer acknowledges no ping.
pub fn is_unanswered_ping(error: &reqwest::Error) -> bool {
    links(error).any(|link| link.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_timeout))
}

/// Whether the limit of open files, of the process or the machine, caused the error.
pub fn is_out_of_files(error: &reqwest::Error) -> bool {
    // The resolver reports a lack of descriptors as an unresolved name.
    let has_no_descriptor = || File::open("/dev/null").is_err_and(|error| is_file_limit(&error));
    links(error).any(is_file_limit) || (error.is_dns() && has_no_descriptor())
}

fn is_file_limit(link: &(dyn Error + 'static)) -> bool {
    use rustix::io::Errno;
    let code = link.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
    code.is_some_and(|code| [Errno::MFILE, Errno::NFILE].map(Errno::raw_os_error).contains(&code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] io::Error);

    fn found(error: io::Error) -> Option<Cause> {
        links(&Outer(error)).find_map(cause_of)
    }

    #[test]
    fn cause_is_found_under_wrapping_errors() {
        let untrusted = || rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let twice = io::Error::other(io::Error::new(ErrorKind::InvalidData, untrusted()));
        assert_eq!(found(twice), Some(Cause::Untrusted));
        let plain = rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType);
        assert_eq!(found(io::Error::other(plain)), Some(Cause::NotTls));
        for (kind, cause) in [
            (ErrorKind::ConnectionRefused, Some(Cause::Refused)),
            (ErrorKind::ConnectionReset, Some(Cause::Closed)),
            (ErrorKind::NetworkUnreachable, Some(Cause::NoRoute)),
            (ErrorKind::TimedOut, Some(Cause::TimedOut)),
            (ErrorKind::InvalidInput, None),
        ] {
            assert_eq!(found(kind.into()), cause, "{kind:?}");
        }
    }

    #[test]
    fn lack_of_descriptors_differs_from_other_errors() {
        for (code, is_ours) in [(24, true), (23, true), (111, false), (104, false)] {
            let error = Outer(io::Error::other(io::Error::from_raw_os_error(code)));
            assert_eq!(links(&error).any(is_file_limit), is_ours, "{code}");
        }
    }
}

//! Why Courier can't be reached.

use std::error::Error;
use std::fmt::{self, Write};
use std::fs::File;
use std::io::{self, ErrorKind};
use std::sync::Arc;

use crate::upstream::Failure;

/// Why there was no answer. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreachable {
    cause: Cause,
    /// The host, the cause and the errors that led to it, for operators.
    details: Arc<str>,
}

/// The kind of trouble. It names no host, so callers may be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// Nothing listens at the address.
    #[error("connection refused")]
    Refused,
    /// The name has no address, or no name server answers.
    #[error("host name not resolved")]
    Unresolved,
    /// By none of the authorities that this machine trusts, expired, or for another name.
    #[error("certificate not trusted")]
    Untrusted,
    /// The peer answers in something else than TLS, plain HTTP for example.
    #[error("the peer does not speak TLS")]
    NotTls,
    /// Any other failure of the handshake.
    #[error("TLS handshake failed")]
    Tls,
    /// The network knows no way there, or a firewall forbids it.
    #[error("no route to host")]
    NoRoute,
    /// No connection within `connect_timeout`.
    #[error("connection timed out")]
    TimedOut,
    /// Closed or reset before the answer was complete.
    #[error("connection closed or reset")]
    Closed,
    /// Not HTTP, or with more headers than are read.
    #[error("the answer is not readable HTTP")]
    Protocol,
    /// The workspace's proxy can't be reached, or does not let the connection through.
    #[error("the proxy made no connection")]
    Proxy,
    /// Something else; the details say what.
    #[error("connection failed")]
    Other,
}

impl Unreachable {
    /// `host` was called, and its HTTP client says this.
    fn new(host: &str, cause: Cause, error: &reqwest::Error) -> Self {
        let details = format!("{host}: {cause} ({})", chain(error));
        Self { cause, details: details.into() }
    }

    /// The kind of trouble.
    pub const fn cause(&self) -> Cause {
        self.cause
    }
}

impl From<Cause> for Unreachable {
    /// Where no more is known.
    fn from(cause: Cause) -> Self {
        Self { cause, details: format!("Courier: {cause}").into() }
    }
}

impl fmt::Display for Unreachable {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.details)
    }
}

/// The failure that this error of a call to this host means.
pub fn failure(host: &str, error: &reqwest::Error) -> Failure {
    if error.is_timeout() && !error.is_connect() {
        return Failure::Timeout;
    }
    if links(error).any(is_out_of_files) || (error.is_dns() && has_no_descriptor()) {
        return Failure::OutOfFiles;
    }
    Failure::Connect(Unreachable::new(host, cause(error), error))
}

fn cause(error: &reqwest::Error) -> Cause {
    // The type of this one is private, so its text tells it. The errors under it happened on the way to the proxy.
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

/// The cause that one error of a chain tells by itself.
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

/// Is this the limit of open files, of this process or of the machine?
fn is_out_of_files(link: &(dyn Error + 'static)) -> bool {
    use rustix::io::Errno;
    let code = link.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
    code.is_some_and(|code| [Errno::MFILE, Errno::NFILE].map(Errno::raw_os_error).contains(&code))
}

/// The resolver reports a lack of descriptors as a name that it can't resolve, so one is asked for here.
fn has_no_descriptor() -> bool {
    File::open("/dev/null").is_err_and(|error| is_out_of_files(&error))
}

/// The error and those that led to it.
fn links<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&link| {
        // `source` of such an error passes over the one that it wraps.
        let wrapped = link.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        wrapped.map(|inner| inner as &(dyn Error + 'static)).or_else(|| link.source())
    })
}

/// The longest chain of errors that is told, in characters.
const LONGEST: usize = 300;

/// The errors that led to this one, on one line: without its own words, which repeat the URL, and without what is said twice.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut told = String::new();
    let mut last = String::new();
    for link in links(error).skip(1) {
        let text = link.to_string();
        // `client error (Connect)` stands before the cause and adds nothing to it.
        if text == last || (text.starts_with("client error (") && link.source().is_some()) {
            continue;
        }
        let gap = if told.is_empty() { "" } else { ": " };
        // Writing to a string can't fail.
        let _ = write!(told, "{gap}{text}");
        last = text;
    }
    told.chars().map(|character| if character.is_control() { ' ' } else { character }).take(LONGEST).collect()
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
    fn cause_is_found_under_what_wraps_it() {
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
    fn lack_of_descriptors_is_told_from_every_other_error() {
        for (code, is_ours) in [(24, true), (23, true), (111, false), (104, false)] {
            let error = Outer(io::Error::other(io::Error::from_raw_os_error(code)));
            assert_eq!(links(&error).any(is_out_of_files), is_ours, "{code}");
        }
        assert!(!has_no_descriptor());
    }

    #[test]
    fn chain_is_one_bounded_line_that_says_nothing_twice() {
        let error = Outer(io::Error::other(io::Error::other("a\nb")));
        assert_eq!(chain(&error), "a b");
        let long = Outer(io::Error::other("x".repeat(10_000)));
        assert_eq!(chain(&long).len(), LONGEST);
    }
}

//! `check` and `serve` with certificates that have expired, expire soon, or are not valid yet.

use std::time::Duration;

use crate::support::child::{Program, settings};
use crate::support::pki::{Authority, Identity, now};
use tempfile::NamedTempFile;

const DAY: Duration = Duration::from_secs(86_400);

/// A settings file with this certificate.
fn tls(authority: &Authority, identity: &Identity, client_ca: Option<&str>) -> NamedTempFile {
    let path = |name, text| authority.file(name, text).to_str().expect("text").to_owned();
    let (certificate, key) = (path("tls.crt", &identity.certificate), path("tls.key", &identity.key));
    let client_ca = client_ca.map(|pem| format!("client_ca_file = \"{}\"\n", path("ca.crt", pem)));
    settings(&format!(
        "[server.tls]\ncertificate_file = \"{certificate}\"\nprivate_key_file = \"{key}\"\n{}",
        client_ca.unwrap_or_default()
    ))
}

fn with(program: Program, settings: &NamedTempFile) -> Program {
    let program = program.config(settings.path());
    program.keys("pk", "the-key-of-the-only-client")
}

fn check(settings: &NamedTempFile) -> (Option<i32>, String) {
    let ended = with(Program::new(["check"]), settings).run();
    (ended.code, ended.stderr)
}

#[test]
fn check_fails_where_the_certificate_is_not_valid_now() {
    let authority = Authority::new();
    let yesterday = authority.sign_for(&["a"], |params| params.not_after = (now() - DAY).into());
    let tomorrow = authority.sign_for(&["a"], |params| params.not_before = (now() + DAY).into());
    for (identity, wanted) in [(yesterday, "certificate 1 expired at 2"), (tomorrow, "is not valid before 2")] {
        let (code, stderr) = check(&tls(&authority, &identity, None));
        assert_eq!(code, Some(2), "{stderr}");
        assert!(stderr.starts_with("error: server.tls.certificate_file: /") && stderr.contains(wanted), "{stderr}");
    }
}

#[test]
fn check_warns_of_soon_expiring_certificates_and_of_expired_authorities() {
    let authority = Authority::new();
    let soon = authority.sign_for(&["a"], |params| params.not_after = (now() + 13 * DAY).into());
    let expired = authority.sign_for(&["ca"], |params| params.not_after = (now() - DAY).into());
    let (code, stderr) = check(&tls(&authority, &soon, Some(&(authority.pem() + &expired.certificate))));
    assert_eq!(code, Some(0), "{stderr}");
    let lines: Vec<_> = stderr.lines().collect();
    assert_eq!(lines.len(), 2, "{stderr}");
    assert!(lines[0].starts_with("warning: server.tls.certificate_file: /"), "{stderr}");
    assert!(lines[0].contains("certificate 1 expires at 2"), "{stderr}");
    assert!(lines[1].starts_with("warning: server.tls.client_ca_file: /"), "{stderr}");
    assert!(lines[1].contains("certificate 2 expired at 2"), "{stderr}");
    let later = authority.sign_for(&["a"], |params| params.not_after = (now() + 15 * DAY).into());
    assert_eq!(check(&tls(&authority, &later, None)), (Some(0), String::new()));
}

#[test]
fn serve_warns_at_its_start_and_refuses_expired_certificates() {
    let authority = Authority::new();
    let soon = authority.sign_for(&["a"], |params| params.not_after = (now() + 13 * DAY).into());
    let settings = tls(&authority, &soon, None);
    let broker = with(Program::serve(), &settings).start();
    assert!(broker.line().is_some(), "{}", broker.stderr());
    let ended = broker.stop();
    let warned = ended.stderr.lines().find(|line| line.contains("certificate 1 expires at 2"));
    assert!(warned.is_some_and(|line| line.contains("WARN")), "{ended:?}");
    let expired = authority.sign_for(&["a"], |params| params.not_after = (now() - DAY).into());
    let ended = with(Program::serve(), &tls(&authority, &expired, None)).run();
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.stderr.contains("error: server.tls.certificate_file: /"), "{ended:?}");
}

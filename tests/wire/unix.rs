//! A Unix socket for apps on the same machine, without TLS.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use tokio::net::UnixStream;

use crate::support::broker::Setup;
use crate::support::http::{Connection, HttpRequest, until};
use crate::support::pki::{Authority, HOST};
use crate::support::refusal::GOOD;

#[tokio::test]
async fn unix_socket_serves_apps_and_is_removed_with_the_broker() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("broker.sock");
    let authority = Authority::new();
    let tls = authority.settings(&authority.sign(&[HOST]));
    let setup = Setup::new().settings(|raw| {
        raw.server.listen.0 = vec![format!("unix:{}", path.display()), "127.0.0.1:0".to_owned()];
        raw.server.unix_mode = "0600".to_owned();
        // TLS applies to the port alone.
        raw.server.tls = Some(tls);
    });
    let broker = setup.start().await;
    let mode = fs::metadata(&path).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut connection = Connection::over(UnixStream::connect(&path).await.expect("it listens"));
    for source in ["fwd=miss; stored", "hit"] {
        assert_eq!(connection.ask(&HttpRequest::issue(GOOD[0].1)).await.source(), source);
    }
    drop(broker);
    until(async || !path.exists()).await;
}

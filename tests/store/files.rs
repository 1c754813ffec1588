//! The files of the store: sealed, and for one process.

use std::os::unix::fs::PermissionsExt;

use crate::fixture::{Store, is_hit, sign_out, token};
use crate::support::http;

#[tokio::test]
async fn second_process_is_refused_in_one_line() {
    let store = Store::new();
    let first = store.start();
    let (address, _) = first.addresses();
    assert!(!is_hit(address, "jane").await);
    let second = store.program().run();
    assert_eq!((second.code, second.stdout.len()), (Some(2), 0), "{second:?}");
    let lines: Vec<_> = second.stderr.lines().filter(|line| line.contains("store.path")).collect();
    assert_eq!(lines.len(), 1, "{second:?}");
    assert!(is_hit(address, "jane").await, "the first is not disturbed");
}

#[tokio::test]
async fn files_show_no_token_user_or_scope() {
    let store = Store::new();
    let broker = store.start();
    let (address, _) = broker.addresses();
    let mut secrets = vec!["inbox:read".to_owned(), "user_id".to_owned(), "user-with-a-name".to_owned()];
    secrets.push(http::ask(address, &token("user-with-a-name")).await.token());
    sign_out(address, "another-user").await;
    secrets.push("another-user".to_owned());
    let in_the_log = store.files();
    assert_eq!(broker.stop().code, Some(0));
    let files = [in_the_log, store.files()].concat();
    assert!(files.iter().map(Vec::len).sum::<usize>() > 1000, "something is stored");
    for secret in secrets {
        let shows = |bytes: &Vec<u8>| bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
        assert!(!files.iter().any(shows), "{secret}");
    }
    let mode = std::fs::metadata(store.path()).expect("a folder").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

//! Redis reveals no token, user id or scope to a reader or a listener.

use std::time::Duration;

use courier_token_broker::policy::fleet::record::Landing;
use courier_token_broker::token::Token;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::fleet::{broker, key_line, token_key, workspace};
use crate::support::redis_server::RedisServer;

const TOKEN: &str = "token-of-anna-whom-nobody-may-read";

fn assert_hidden(bytes: &[u8], place: &str) {
    let text = String::from_utf8_lossy(bytes);
    let key = key_line(1);
    for hidden in [TOKEN, "anna", "inbox", "app", workspace().as_str(), &key] {
        assert!(!text.contains(hidden), "{hidden} can be read in {place}: {text}");
    }
}

#[tokio::test]
async fn no_token_user_or_scope_can_be_read() {
    let server = RedisServer::start(&[]).await;
    let mut monitor = TcpStream::connect(server.address()).await.expect("a connection");
    monitor.write_all(b"MONITOR\r\n").await.expect("sent");
    let (one, mut two) = (broker(&server, "one").await, broker(&server, "two").await);
    let key = token_key("user_id:anna inbox:read");
    assert_eq!(one.land(&key, TOKEN, 1000).await, Landing::Stored);
    assert_eq!(two.token(&key).await.as_deref(), Some(TOKEN));
    one.lease(&token_key("user_id:anna inbox:write")).await;
    one.redis.sign_out(&workspace(), Some("anna")).await;
    one.redis.reject(&token_key("user_id:anna inbox:write"), &Token::new(TOKEN).expect("a token")).await;
    one.redis.throttle(&workspace(), Duration::from_secs(5)).await;
    for _ in 0..3 {
        two.event().await;
    }
    let keys = server.keys("*").await;
    assert!(keys.len() >= 7, "{keys:?}");
    for name in keys {
        assert_hidden(name.as_bytes(), "a name");
        // Not compressed: `rdbcompression` does not concern DUMP of short strings that do not compress.
        let dump: Vec<u8> = server.run(&[b"DUMP", name.as_bytes()]).await;
        assert_hidden(&dump, &name);
    }
    let mut heard = vec![0; 1 << 20];
    let length = monitor.read(&mut heard).await.expect("read");
    assert!(length > 1000, "{length}");
    assert_hidden(&heard[..length], "MONITOR");
}

//! Messages to the service manager: `NOTIFY_SOCKET` and `WATCHDOG_USEC` of systemd.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use courier_token_broker::clock::Clock;
use rustix::process::Signal;

use crate::support::child::{Program, Running, settings};
use crate::support::http::{PATIENCE, get};
use crate::support::manager::{Manager, heard};

fn serve() -> Program {
    Program::serve().keys("pk", "the-key-of-the-only-client")
}

#[tokio::test]
async fn broker_reports_ready_once_it_serves_and_stopping() {
    let manager = Manager::new();
    let broker = serve().notifying(&manager).start();
    let (address, admin) = broker.addresses();
    assert_eq!(manager.heard(), ["READY=1", &format!("STATUS=serving on http://{address}")]);
    assert_eq!(get(admin, "/readyz").await.status, 200);
    broker.signal(Signal::TERM);
    assert_eq!(manager.heard()[0], "STOPPING=1");
    assert_eq!(broker.end().code, Some(0));
}

#[test]
fn reload_is_between_reloading_and_ready_whether_it_is_applied_or_not() {
    let manager = Manager::new();
    let file = settings("");
    let broker = serve().notifying(&manager).config(file.path()).start();
    assert_eq!(manager.heard()[0], "READY=1");
    let reloads = |broker: &Running| {
        let before = Clock::monotonic().as_micros();
        broker.signal(Signal::HUP);
        let begun = manager.heard();
        assert_eq!(begun[0], "RELOADING=1");
        let at = begun[1].strip_prefix("MONOTONIC_USEC=").and_then(|micros| micros.parse::<u128>().ok());
        assert!(at.is_some_and(|at| (before..=Clock::monotonic().as_micros()).contains(&at)), "{begun:?}");
        let ended = manager.heard();
        assert_eq!(ended[0], "READY=1");
        ended[1].clone()
    };
    assert!(!reloads(&broker).contains("rejected"));
    std::fs::write(file.path(), "mistake = 1").expect("written");
    assert!(reloads(&broker).ends_with("; reload rejected: see the log"));
}

#[test]
fn abstract_socket_is_notified() {
    let name = format!("courier-token-broker-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).expect("a name");
    let socket = UnixDatagram::bind_addr(&address).expect("a socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let _broker = serve().env("NOTIFY_SOCKET", format!("@{name}")).start();
    assert_eq!(heard(&socket)[0], "READY=1");
}

#[test]
fn watchdog_hears_a_sign_of_life_again_and_again() {
    let manager = Manager::new();
    let _broker = serve().notifying(&manager).env("WATCHDOG_USEC", "20000").start();
    let mut beats = 0;
    while beats < 5 {
        beats += usize::from(manager.heard() == ["WATCHDOG=1"]);
    }
}

#[test]
fn watchdog_of_another_process_hears_nothing() {
    let manager = Manager::new();
    let broker = serve().notifying(&manager).env("WATCHDOG_USEC", "1000").env("WATCHDOG_PID", "1").start();
    assert_eq!(manager.heard()[0], "READY=1");
    assert_eq!(broker.stop().code, Some(0));
    assert_eq!(manager.heard()[0], "STOPPING=1");
    assert!(manager.is_silent());
}

#[tokio::test]
async fn broker_serves_though_the_service_manager_is_gone() {
    for socket in ["/nowhere/notify", "relative", "", "@"] {
        let broker = serve().env("NOTIFY_SOCKET", socket).start();
        let (address, _) = broker.addresses();
        assert_eq!(get(address, "/").await.status, 404, "{socket:?}");
        assert_eq!(broker.stop().code, Some(0), "{socket:?}");
    }
}

//! nginx, as it is compared with the broker.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::bare::answer_body;

/// A process with three servers, which ends with this value.
pub struct Nginx {
    process: Child,
    _folder: TempDir,
    /// `return 200`.
    pub ready_answer: SocketAddr,
    /// `proxy_cache` with the body as its key, in front of the upstream.
    pub proxy_cache: SocketAddr,
    /// `return 200` with TLS and HTTP/2.
    pub tls: SocketAddr,
}

impl Nginx {
    /// Starts nginx with answers of this size and the certificate of this folder; `None` if it is not installed.
    pub fn start(size: usize, upstream: SocketAddr, certificates: &Path) -> Option<Self> {
        let program = ["nginx", "/usr/sbin/nginx"].into_iter().find(|program| {
            let version = Command::new(program).arg("-v").stderr(Stdio::null()).status();
            version.is_ok_and(|status| status.success())
        })?;
        let folder = tempfile::tempdir().expect("a folder");
        let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port"));
        let [ready_answer, proxy_cache, tls] = listeners.map(|listener| listener.local_addr().expect("an address"));
        let file = folder.path().join("nginx.conf");
        fs::write(&file, settings(&answer_body(size), [ready_answer, proxy_cache, tls], upstream, certificates))
            .expect("written");
        let process = Command::new(program)
            .args(["-e", "stderr", "-p"])
            .arg(folder.path())
            .arg("-c")
            .arg(&file)
            .stdin(Stdio::null())
            .spawn()
            .expect("a process");
        let mut nginx = Self { process, _folder: folder, ready_answer, proxy_cache, tls };
        let end = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(ready_answer).is_err() {
            assert!(nginx.process.try_wait().is_ok_and(|ended| ended.is_none()), "nginx accepts its settings");
            assert!(Instant::now() < end, "nginx listens");
            std::thread::sleep(Duration::from_millis(10));
        }
        Some(nginx)
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// One process without a master, so that it ends with a signal and its CPU time is that of its requests.
fn settings(body: &str, servers: [SocketAddr; 3], upstream: SocketAddr, certificates: &Path) -> String {
    let [ready_answer, proxy_cache, tls] = servers;
    let certificates = certificates.display();
    format!(
        r#"daemon off;
master_process off;
pid pid;
error_log stderr crit;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    default_type application/json;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    client_body_buffer_size 16k;
    client_body_in_single_buffer on;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    proxy_cache_path cache levels=1:2 keys_zone=tokens:64m inactive=1d use_temp_path=off;
    upstream courier {{ server {upstream}; keepalive 64; }}
    server {{
        listen {ready_answer};
        location / {{ return 200 '{body}'; }}
    }}
    server {{
        listen {proxy_cache};
        location / {{
            proxy_pass http://courier;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_cache tokens;
            proxy_cache_methods POST;
            proxy_cache_key $request_body;
            proxy_cache_lock on;
            proxy_cache_valid 200 1d;
            proxy_ignore_headers Cache-Control;
            proxy_hide_header Cache-Status;
            add_header Cache-Status $upstream_cache_status;
        }}
    }}
    server {{
        listen {tls} ssl http2;
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_certificate {certificates}/tls.crt;
        ssl_certificate_key {certificates}/tls.key;
        location / {{ return 200 '{body}'; }}
    }}
}}
"#
    )
}

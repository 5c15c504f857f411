//! The server over TCP: what it answers, whom it refuses, and how much one client can take.

mod answers;
mod gone;
mod hostile;
mod live;
mod millions;

use super::{App, Hosts, Server, Token};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A server of some runs, and how to ask it.
pub(super) struct Client {
    pub place: SocketAddr,
    pub token: String,
}

/// What came back.
#[derive(Debug)]
pub(super) struct Reply {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Reply {
    fn read(mut stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(Duration::from_secs(600))).unwrap();
        let mut bytes = Vec::new();
        // A server that closes early may reset the connection behind its answer.
        let _ = stream.read_to_end(&mut bytes);
        let at = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(bytes.len());
        let head = String::from_utf8_lossy(&bytes[..at]).into_owned();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        Self { status, head, body: bytes.get(at + 4..).unwrap_or_default().to_vec() }
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        assert_eq!(self.status, 200, "{}: {}", self.head, self.text());
        serde_json::from_slice(&self.body).unwrap()
    }
}

impl Client {
    /// Sends bytes as they are.
    pub fn send(&self, bytes: &[u8]) -> Reply {
        let mut stream = TcpStream::connect(self.place).unwrap();
        let _ = stream.write_all(bytes);
        Reply::read(stream)
    }

    pub fn request(&self, method: &str, target: &str, host: &str) -> Reply {
        self.send(format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes())
    }

    /// Asks behind the token.
    pub fn get(&self, path: &str) -> Reply {
        self.request("GET", &format!("/{}/{path}", self.token), &self.place.to_string())
    }
}

/// Starts a server of these runs, does something with it, and ends it.
pub(super) fn with_server(runs: &[&Path], data: &[&str], doing: impl FnOnce(&Client)) {
    let runs: Vec<PathBuf> = runs.iter().map(|run| run.to_path_buf()).collect();
    let data = data.iter().map(|spec| spec.parse().unwrap()).collect();
    let app = App::new(runs, data, "a <run>", 1 << 30);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = Server::new(listener, Token::draw().unwrap(), Hosts { own: None });
    let client = Client { place: server.place().unwrap(), token: server.token().text().to_owned() };
    /// Stops the server even if the test fails, so that it fails.
    struct Stop<'a>(&'a Server);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.stop();
        }
    }
    std::thread::scope(|scope| {
        scope.spawn(|| server.run(&app));
        let stop = Stop(&server);
        doing(&client);
        drop(stop);
    });
}

//! Accepts a bounded number of connections, and hands each request to an [`Answers`].
//!
//! A connection has one thread and one request. While it sends the request it is a stranger: if there are too many
//! connections, the one that is a stranger for longest is closed. So clients that send nothing keep nobody out.

use super::desk::IsAwaited;
use super::guard::{Hosts, Token};
use super::limits::CONNECTIONS_MAX;
use super::request::{read_request, NoRequest, Request};
use super::response::{Response, Status};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Answers a GET request that has the token and was sent to this server.
pub(crate) trait Answers: Sync {
    /// The answer to a request for `path`, which stands behind the token. `is_awaited` says whether the client is still
    /// there. It may be asked at any time, from any thread, until the answer is there.
    fn answer(&self, path: &str, request: &Request, is_awaited: &IsAwaited) -> Response;
}

/// A server that is bound to its place.
pub(crate) struct Server {
    listener: TcpListener,
    token: Token,
    hosts: Hosts,
    connections: Mutex<Connections>,
    stopped: AtomicBool,
}

#[derive(Default)]
struct Connections {
    next: u64,
    open: BTreeMap<u64, Open>,
}

struct Open {
    stream: Arc<TcpStream>,
    is_stranger: bool,
}

impl Server {
    pub(crate) fn new(listener: TcpListener, token: Token, hosts: Hosts) -> Self {
        Self { listener, token, hosts, connections: Mutex::default(), stopped: AtomicBool::new(false) }
    }

    /// Where it listens.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn place(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    pub(crate) fn token(&self) -> &Token {
        &self.token
    }

    /// Ends [`Server::run`] once the answers that are being computed are done.
    #[cfg(test)]
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        let _ = self.place().and_then(TcpStream::connect);
    }

    /// Serves until the process ends.
    pub(crate) fn run(&self, answers: &dyn Answers) {
        thread::scope(|scope| {
            for stream in self.listener.incoming() {
                if self.stopped.load(Ordering::SeqCst) {
                    break;
                }
                let Ok(stream) = stream else {
                    // The process may have no file left to open: connections that end give some back.
                    thread::sleep(Duration::from_millis(20));
                    continue;
                };
                let stream = Arc::new(stream);
                let Some(number) = self.admit(&stream) else {
                    refuse(&stream);
                    continue;
                };
                let work = move || {
                    self.serve(&stream, number, answers);
                    self.lock().open.remove(&number);
                };
                let started = thread::Builder::new().name("gradlog-serve".into()).spawn_scoped(scope, work);
                if started.is_err() {
                    self.lock().open.remove(&number);
                }
            }
        });
    }

    fn lock(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a connection in. If all places are taken, it closes the oldest stranger; `None` if there is no stranger.
    fn admit(&self, stream: &Arc<TcpStream>) -> Option<u64> {
        let mut connections = self.lock();
        if connections.open.len() >= CONNECTIONS_MAX {
            let oldest = connections.open.iter().find(|(_, open)| open.is_stranger).map(|(number, _)| *number)?;
            if let Some(open) = connections.open.remove(&oldest) {
                let _ = open.stream.shutdown(Shutdown::Both);
            }
        }
        let number = connections.next;
        connections.next += 1;
        connections.open.insert(number, Open { stream: stream.clone(), is_stranger: true });
        Some(number)
    }

    fn serve(&self, stream: &Arc<TcpStream>, number: u64, answers: &dyn Answers) {
        let _ = stream.set_nodelay(true);
        let response = match read_request(stream) {
            Ok(request) => match self.check(&request) {
                Ok(path) => {
                    if let Some(open) = self.lock().open.get_mut(&number) {
                        open.is_stranger = false;
                    }
                    let look = Look::new(stream.clone());
                    let is_awaited: IsAwaited = Arc::new(move || look.is_there());
                    answers.answer(path, &request, &is_awaited)
                }
                Err(response) => response,
            },
            Err(NoRequest::Refused(status, words)) => Response::sentence(status, words),
            Err(NoRequest::Gone) => return,
        };
        // A client that does not take its answer has nobody to tell of it.
        let _ = response.send(stream);
    }

    /// The path behind the token, if the request may be answered.
    fn check<'a>(&self, request: &'a Request) -> Result<&'a str, Response> {
        let refused = |status, words| Err(Response::sentence(status, words));
        match &request.host {
            None => return refused(Status::Bad, "the request does not say which host it is for"),
            Some(host) if !self.hosts.allow(host) => return refused(
                Status::Forbidden,
                "this server does not go by that name: use the address that it printed, or start it with --listen NAME",
            ),
            Some(_) => {}
        }
        let known = request.path.strip_prefix('/').map(|path| path.split_once('/').unwrap_or((path, "")));
        match known {
            Some((token, path)) if self.token.matches(token) => match request.method.as_str() {
                "GET" => Ok(path),
                _ => refused(Status::OnlyGet, "this server only answers GET"),
            },
            _ => refused(Status::Forbidden, "the address lacks the token: use the one that `gradlog serve` printed"),
        }
    }
}

/// How long what is known of a client is taken for true: a question asks before each group of blocks.
const LOOK_AGE: Duration = Duration::from_millis(100);

/// Looks at times whether a client is still there. Once gone it stays gone.
struct Look {
    stream: Arc<TcpStream>,
    /// When somebody looked last, and whether the client was there. One thread looks at a time, because looking
    /// changes the mode of the stream for a moment.
    last: Mutex<(Instant, bool)>,
}

impl Look {
    fn new(stream: Arc<TcpStream>) -> Self {
        Self { stream, last: Mutex::new((Instant::now(), true)) }
    }

    fn is_there(&self) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.1 && last.0.elapsed() >= LOOK_AGE {
            *last = (Instant::now(), is_there(&self.stream));
        }
        last.1
    }
}

/// Whether the client has not closed the connection.
fn is_there(stream: &TcpStream) -> bool {
    if stream.set_nonblocking(true).is_err() {
        return false;
    }
    let looked = stream.peek(&mut [0u8; 1]);
    let back = stream.set_nonblocking(false);
    back.is_ok()
        && !matches!(looked, Ok(0))
        && looked.err().is_none_or(|error| error.kind() == io::ErrorKind::WouldBlock)
}

/// Says in one write that there are too many, without waiting for the client.
fn refuse(mut stream: &TcpStream) {
    let text = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\nRetry-After: 2\r\n\r\n";
    let _ = stream.set_nonblocking(true).and_then(|()| stream.write(text.as_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::sync::mpsc::{sync_channel, Receiver, SyncSender};

    fn server() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Server::new(listener, Token::draw().unwrap(), Hosts { own: None })
    }

    /// A connection to the server, as the client has it.
    fn connect(server: &Server) -> TcpStream {
        let client = TcpStream::connect(server.place().unwrap()).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        client
    }

    #[test]
    fn the_oldest_stranger_makes_room_and_nobody_else() {
        let server = server();
        let admit = || {
            let client = connect(&server);
            (client, server.admit(&Arc::new(server.listener.accept().unwrap().0)))
        };
        let mut clients: Vec<_> = (0..CONNECTIONS_MAX).map(|_| admit()).collect();
        assert!(clients.iter().all(|(_, number)| number.is_some()));
        // The first two are known, so that the third is the oldest stranger.
        for number in [0, 1] {
            server.lock().open.get_mut(&number).unwrap().is_stranger = false;
        }
        let (_one_more, number) = admit();
        assert_eq!(number, Some(CONNECTIONS_MAX as u64));
        let open: Vec<u64> = server.lock().open.keys().copied().collect();
        assert_eq!((open.len(), &open[..3]), (CONNECTIONS_MAX, &[0, 1, 3][..]));
        assert!(matches!(clients[2].0.read(&mut [0]), Ok(0) | Err(_)), "it was closed");
        // Nobody who is being answered is closed.
        server.lock().open.values_mut().for_each(|open| open.is_stranger = false);
        assert_eq!(admit().1, None);
        assert_eq!(server.lock().open.len(), CONNECTIONS_MAX);
    }

    /// An application that waits with its answer until the test opens the gate.
    struct Gated {
        asked: SyncSender<()>,
        gate: Mutex<Receiver<()>>,
    }

    impl Answers for Gated {
        fn answer(&self, _: &str, _: &Request, _: &IsAwaited) -> Response {
            self.asked.send(()).unwrap();
            self.gate.lock().unwrap().recv().unwrap();
            Response::sentence(Status::Done, "here")
        }
    }

    /// Who is being answered is no stranger and gives its place back. Beyond all places a client hears when to come
    /// again.
    #[test]
    fn a_place_is_held_while_it_is_answered_and_given_back() {
        let (asked, was_asked) = sync_channel(1);
        let (open, gate) = sync_channel(1);
        let answers = Gated { asked, gate: Mutex::new(gate) };
        let server = server();
        thread::scope(|scope| {
            scope.spawn(|| server.run(&answers));
            let mut client = connect(&server);
            let head = format!("GET /{}/x HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", server.token().text());
            client.write_all(head.as_bytes()).unwrap();
            was_asked.recv().unwrap();
            assert!(server.lock().open.values().all(|open| !open.is_stranger));
            // All other places are taken by clients that are being answered.
            let stream = server.lock().open.values().next().unwrap().stream.clone();
            for number in 1..CONNECTIONS_MAX as u64 {
                let taken = Open { stream: stream.clone(), is_stranger: false };
                server.lock().open.insert(u64::MAX - number, taken);
            }
            let mut words = String::new();
            let _ = connect(&server).read_to_string(&mut words);
            assert!(words.starts_with("HTTP/1.1 503 ") && words.contains("Retry-After: "), "{words}");
            server.lock().open.retain(|number, _| *number < u64::MAX / 2);
            open.send(()).unwrap();
            let mut words = String::new();
            client.read_to_string(&mut words).unwrap();
            assert!(words.ends_with("here\n"), "{words}");
            let start = Instant::now();
            while !server.lock().open.is_empty() {
                assert!(start.elapsed() < Duration::from_secs(20), "the place is not given back");
                thread::sleep(Duration::from_millis(5));
            }
            server.stop();
        });
    }

    #[test]
    fn a_client_that_leaves_is_noticed_and_one_that_waits_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let look = Look::new(Arc::new(listener.accept().unwrap().0));
        // One that waits, also if it sends more than its request.
        for _ in 0..3 {
            thread::sleep(LOOK_AGE);
            assert!(look.is_there());
            client.write_all(b"more").unwrap();
        }
        // What the client sent is read before its end can be seen.
        drop(client);
        let mut rest = [0u8; 100];
        while look.stream.as_ref().read(&mut rest).unwrap_or(0) > 0 {}
        thread::sleep(LOOK_AGE);
        assert!(!look.is_there());
    }
}

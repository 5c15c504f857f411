//! A server that speaks S3, on the loopback address, over a folder. It can be told to fail.

use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;

type Body = http_body_util::combinators::BoxBody<Bytes, std::io::Error>;

/// What a client asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Its number, from 0.
    pub number: usize,
    pub method: String,
    /// The path with the query.
    pub path: String,
    pub range: Option<String>,
    /// Bytes of the answer's body.
    pub answered: usize,
}

/// What the server does in place of answering.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Answers.
    Nothing,
    /// A status without an answer.
    Status(u16),
    /// Half of the body, and then the connection ends.
    Torn,
    /// Half of the body, which the head says is all.
    Short,
    /// Another byte in the middle of the body.
    Flipped,
    /// The answer comes after this time.
    Slow(Duration),
    /// No answer within any time that a test waits.
    Silent,
}

type Faults = Arc<Mutex<Box<dyn Fn(&Asked) -> Fault + Send>>>;

/// A running server. It ends with the process.
pub struct Server {
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    faults: Faults,
}

/// Name and secret that the server takes.
pub const CREDENTIALS: (&str, &str) = ("tester", "not-a-secret");

impl Server {
    /// Serves the buckets in `folder`, each a folder there, on any free port.
    pub fn start(folder: &Path) -> Self {
        Self::start_on(folder, "127.0.0.1:0")
    }

    /// As [`Server::start`], on this address.
    pub fn start_on(folder: &Path, address: &str) -> Self {
        let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(folder).unwrap());
        builder.set_auth(SimpleAuth::from_single(CREDENTIALS.0, CREDENTIALS.1));
        let s3 = builder.build();
        let (asked, faults): (Arc<Mutex<Vec<Asked>>>, Faults) =
            (Arc::default(), Arc::new(Mutex::new(Box::new(|_| Fault::Nothing))));
        let (log, rules) = (asked.clone(), faults.clone());
        let (told, listening) = std::sync::mpsc::sync_channel(1);
        let address = address.to_owned();
        let serve = move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::bind(address).await.unwrap();
                told.send(listener.local_addr().unwrap()).unwrap();
                loop {
                    let Ok((socket, _)) = listener.accept().await else { continue };
                    let (s3, log, rules) = (s3.clone(), log.clone(), rules.clone());
                    tokio::spawn(async move {
                        let answer = service_fn(move |request| {
                            let (s3, log, rules) = (s3.clone(), log.clone(), rules.clone());
                            async move { answer(&s3, &log, &rules, request).await }
                        });
                        let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                        let _ = server.serve_connection(TokioIo::new(socket), answer).await;
                    });
                }
            });
        };
        std::thread::Builder::new().name("server".into()).spawn(serve).unwrap();
        Self { address: listening.recv().unwrap(), asked, faults }
    }

    /// What happens from now on in place of answers.
    pub fn fail(&self, faults: impl Fn(&Asked) -> Fault + Send + 'static) {
        *self.faults.lock().unwrap() = Box::new(faults);
    }

    /// What was asked since the last call.
    pub fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    /// Settings of a client of this server.
    pub fn settings(&self) -> Vec<(String, String)> {
        [
            ("AWS_ENDPOINT_URL", format!("http://{}", self.address)),
            ("AWS_REGION", "us-east-1".into()),
            ("AWS_ACCESS_KEY_ID", CREDENTIALS.0.into()),
            ("AWS_SECRET_ACCESS_KEY", CREDENTIALS.1.into()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }
}

async fn answer(
    s3: &S3Service,
    log: &Mutex<Vec<Asked>>,
    faults: &Faults,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path_and_query().map_or(String::new(), |path| path.to_string());
    let range = request.headers().get("range").and_then(|range| Some(range.to_str().ok()?.to_owned()));
    let method = request.method().to_string();
    let (fault, number) = {
        let mut log = log.lock().unwrap();
        let asked = Asked { number: log.len(), method, path, range, answered: 0 };
        let fault = faults.lock().unwrap()(&asked);
        log.push(asked);
        (fault, log.len() - 1)
    };
    match fault {
        Fault::Status(status) => {
            let text = "<Error><Code>Broken</Code><Message>the test says so</Message></Error>";
            let body = Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed();
            return Ok(Response::builder().status(status).body(body).unwrap());
        }
        Fault::Slow(time) => tokio::time::sleep(time).await,
        Fault::Silent => tokio::time::sleep(Duration::from_secs(3600)).await,
        _ => {}
    }
    let (mut head, body) = s3.call(request.map(s3s::Body::from)).await.unwrap().into_parts();
    let mut bytes = body.collect().await.unwrap().to_bytes();
    if let Some(asked) = log.lock().unwrap().get_mut(number) {
        asked.answered = bytes.len();
    }
    let half = bytes.slice(..bytes.len() / 2);
    match fault {
        Fault::Torn if !bytes.is_empty() => {
            let frames = [Ok(Frame::data(half)), Err(std::io::Error::other("torn"))];
            let body = BodyExt::boxed(StreamBody::new(futures_util::stream::iter(frames)));
            return Ok(Response::from_parts(head, body));
        }
        Fault::Short if !bytes.is_empty() => {
            head.headers.insert("content-length", half.len().into());
            bytes = half;
        }
        Fault::Flipped if !bytes.is_empty() => {
            let mut other = bytes.to_vec();
            let middle = other.len() / 2;
            other[middle] ^= 1;
            bytes = other.into();
        }
        _ => {}
    }
    Ok(Response::from_parts(head, Full::new(bytes).map_err(|never| match never {}).boxed()))
}

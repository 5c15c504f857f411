//! Workers as processes, and one that dies in the middle of its answer.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A worker, which ends with the test.
pub struct WorkerProcess {
    child: Arc<Mutex<Child>>,
    folder: TempDir,
    url: String,
}

impl WorkerProcess {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let words = File::create(folder.path().join("words")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_gradlog-sql"));
        command.args(["worker", "--listen", "127.0.0.1:0"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(words);
        let child = Arc::new(Mutex::new(command.spawn().unwrap()));
        let mut started = Self { child, folder, url: String::new() };
        let since = Instant::now();
        loop {
            let words = started.words();
            if let Some(url) = words.strip_prefix("listening on ").and_then(|rest| rest.split_once('\n')) {
                started.url = url.0.to_owned();
                return started;
            }
            assert!(since.elapsed() < Duration::from_secs(60), "the worker does not listen: {words}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("words")
    }

    fn words(&self) -> String {
        std::fs::read_to_string(self.file()).unwrap()
    }

    /// Whether it said that it began with such a leaf.
    pub fn has_begun(&self, leaf: &str) -> bool {
        self.words().lines().any(|line| line.contains("begins: ") && line.contains(leaf))
    }
}

impl Drop for WorkerProcess {
    fn drop(&mut self) {
        let mut child = self.child.lock().unwrap();
        let _ = child.kill().and_then(|()| child.wait());
    }
}

/// A worker behind a gate. It is killed as soon as it answers anything about a query, and nothing of that answer gets
/// through. It says that a query begins before it answers, so no timing is in this.
pub struct Dying {
    _worker: WorkerProcess,
    url: String,
    killed: Arc<AtomicBool>,
}

impl Dying {
    pub fn start() -> Self {
        let worker = WorkerProcess::start();
        let gate = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", gate.local_addr().unwrap());
        let killed = Arc::new(AtomicBool::new(false));
        let (to, words, child) = (worker.url().replace("http://", ""), worker.file(), worker.child.clone());
        let is_killed = killed.clone();
        // It ends with the process of the test.
        spawn(move || {
            for client in gate.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(&to) else { continue };
                let (from_client, to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                spawn(move || pass(from_client, to_server, || true));
                let (words, child, is_killed) = (words.clone(), child.clone(), is_killed.clone());
                spawn(move || {
                    pass(server, client, || {
                        let has_begun = std::fs::read_to_string(&words).unwrap().contains("begins: ");
                        if has_begun {
                            let mut child = child.lock().unwrap();
                            child.kill().and_then(|()| child.wait()).unwrap();
                            is_killed.store(true, Ordering::SeqCst);
                        }
                        !has_begun
                    });
                });
            }
        });
        Self { _worker: worker, url, killed }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn was_killed(&self) -> bool {
        self.killed.load(Ordering::SeqCst)
    }
}

fn spawn(work: impl FnOnce() + Send + 'static) {
    thread::Builder::new().name("gate".into()).spawn(work).unwrap();
}

/// Passes bytes on while `may` says so, and closes both ends after that.
fn pass(mut from: TcpStream, mut to: TcpStream, may: impl Fn() -> bool) {
    let mut bytes = [0; 1 << 14];
    let mut next = || -> io::Result<bool> {
        let count = from.read(&mut bytes)?;
        if count == 0 || !may() {
            return Ok(false);
        }
        to.write_all(&bytes[..count])?;
        Ok(true)
    };
    while next().unwrap_or(false) {}
    let _ = from.shutdown(Shutdown::Both).and(to.shutdown(Shutdown::Both));
}

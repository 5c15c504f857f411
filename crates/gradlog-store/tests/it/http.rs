//! Plain HTTP: a server that knows files, lengths and ranges, and no names of folders.

use crate::support::{everything, segmented_run, small_run};
use gradlog_format::run::Run;
use gradlog_store::{open_run, Options, StoreError};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// Serves the files of a folder. `ranges` says whether it knows ranges.
fn serve(folder: &Path, ranges: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let folder = folder.to_owned();
    let accept = move || {
        for stream in listener.incoming().flatten() {
            let folder = folder.clone();
            let answer = move || while answer(&stream, &folder, ranges).is_some() {};
            std::thread::Builder::new().name("connection".into()).spawn(answer).unwrap();
        }
    };
    std::thread::Builder::new().name("http".into()).spawn(accept).unwrap();
    address
}

fn answer(mut stream: &TcpStream, folder: &Path, ranges: bool) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let lines: Vec<String> = reader.by_ref_lines().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    let mut request = lines.first()?.split(' ');
    let (method, path) = (request.next()?, request.next()?);
    let file: PathBuf = folder.join(path.trim_start_matches('/'));
    let (status, headers, body) = match std::fs::read(file) {
        _ if !matches!(method, "GET" | "HEAD") => ("501 Not Implemented", String::new(), Vec::new()),
        Err(_) => ("404 Not Found", String::new(), Vec::new()),
        Ok(bytes) => {
            let range = lines
                .iter()
                .find_map(|line| line.to_ascii_lowercase().strip_prefix("range: bytes=").map(str::to_owned));
            match range.filter(|_| ranges) {
                Some(range) => {
                    let (from, to) = range.split_once('-')?;
                    let (from, to): (usize, usize) = (from.parse().ok()?, to.parse().ok()?);
                    let head = format!("Content-Range: bytes {from}-{to}/{}\r\n", bytes.len());
                    ("206 Partial Content", head, bytes[from..=to].to_vec())
                }
                None => ("200 OK", String::new(), bytes),
            }
        }
    };
    let length = body.len();
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{headers}\r\n").ok()?;
    if method != "HEAD" {
        stream.write_all(&body).ok()?;
    }
    Some(())
}

trait Lines: BufRead + Sized {
    /// The lines, without taking the reader.
    fn by_ref_lines(&mut self) -> std::io::Lines<&mut Self> {
        BufRead::lines(self)
    }
}

impl Lines for BufReader<&TcpStream> {}

fn open(address: SocketAddr, path: &str) -> Result<Run, StoreError> {
    let mut options = Options::default();
    (options.retries, options.give_up_after) = (1, Duration::from_secs(5));
    open_run(format!("http://{address}/{path}"), options)
}

#[test]
fn a_run_behind_plain_http_reads_as_in_its_folder() {
    let dir = segmented_run();
    let address = serve(dir.path().parent().unwrap(), true);
    let remote = open(address, dir.path().file_name().unwrap().to_str().unwrap()).unwrap();
    // Lost bytes are searched for with a list of names, which such a server has not.
    let error = everything(&remote).unwrap_err();
    assert!(error.contains("cannot list names"), "{error}");
    let read = |run: &Run| crate::support::cells(run).unwrap();
    let remote = open(address, dir.path().file_name().unwrap().to_str().unwrap()).unwrap();
    assert_eq!(read(&remote), read(&Run::open(dir.path()).unwrap()));
    assert!(remote.verify().unwrap().finished);
}

#[test]
fn what_such_a_server_cannot_do_is_said() {
    let dir = Arc::new(TempDir::new().unwrap());
    small_run(Some((0, 2)), dir.clone());
    let address = serve(dir.path(), true);
    let error = open(address, "").unwrap_err().to_string();
    assert!(error.contains("cannot list names") && error.contains("one worker"), "{error}");
    assert!(open(address, "worker-0000").unwrap().verify().unwrap().visits > 0);

    let whole = serve(dir.path(), false);
    let error = open(whole, "worker-0000").unwrap_err().to_string();
    assert!(error.contains("Range request not supported"), "{error}");
}

//! One answer, and how it reaches a client within its time.

use super::limits::ANSWER_WAIT;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Done,
    Bad,
    Forbidden,
    NotThere,
    OnlyGet,
    TooSlow,
    AddressTooLong,
    /// The question is a sound one, and this run has no answer to it.
    NoAnswer,
    HeadersTooLong,
    Failed,
    Busy,
}

impl Status {
    fn line(self) -> &'static str {
        match self {
            Status::Done => "200 OK",
            Status::Bad => "400 Bad Request",
            Status::Forbidden => "403 Forbidden",
            Status::NotThere => "404 Not Found",
            Status::OnlyGet => "405 Method Not Allowed",
            Status::TooSlow => "408 Request Timeout",
            Status::AddressTooLong => "414 URI Too Long",
            Status::NoAnswer => "422 Unprocessable Content",
            Status::HeadersTooLong => "431 Request Header Fields Too Large",
            Status::Failed => "500 Internal Server Error",
            Status::Busy => "503 Service Unavailable",
        }
    }
}

/// An answer to a request.
#[derive(Debug, Clone)]
pub(crate) struct Response {
    pub status: Status,
    kind: &'static str,
    /// The content security policy.
    policy: Arc<str>,
    pub body: Arc<[u8]>,
}

/// The policy of what is no page: it may do nothing.
const NOTHING: &str = "default-src 'none'; frame-ancestors 'none'";

impl Response {
    /// A page with its policy.
    pub(crate) fn page(html: Vec<u8>, policy: &str) -> Self {
        Self { status: Status::Done, kind: "text/html; charset=utf-8", policy: policy.into(), body: html.into() }
    }

    /// JSON.
    pub(crate) fn json(body: impl Into<Arc<[u8]>>) -> Self {
        Self { status: Status::Done, kind: "application/json", policy: NOTHING.into(), body: body.into() }
    }

    /// A sentence for a person, in a status other than that of success.
    pub(crate) fn sentence(status: Status, words: &str) -> Self {
        let body = format!("{words}\n").into_bytes().into();
        Self { status, kind: "text/plain; charset=utf-8", policy: NOTHING.into(), body }
    }

    /// Sends the answer and ends the connection.
    ///
    /// # Errors
    /// That the client is gone or takes too long.
    pub(crate) fn send(&self, stream: &TcpStream) -> io::Result<()> {
        let allow = if self.status == Status::OnlyGet { "Allow: GET\r\n" } else { "" };
        let again = if self.status == Status::Busy { "Retry-After: 2\r\n" } else { "" };
        let head = format!(
            "HTTP/1.1 {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n{allow}{again}\
             Content-Security-Policy: {}\r\nX-Content-Type-Options: nosniff\r\nX-Frame-Options: DENY\r\n\
             Cross-Origin-Resource-Policy: same-origin\r\nCross-Origin-Opener-Policy: same-origin\r\n\
             Referrer-Policy: no-referrer\r\nCache-Control: no-store\r\n\r\n",
            self.status.line(),
            self.kind,
            self.body.len(),
            self.policy,
        );
        let deadline = Instant::now() + ANSWER_WAIT;
        send_all(stream, head.as_bytes(), deadline)?;
        send_all(stream, &self.body, deadline)?;
        linger(stream)
    }
}

/// Writes in pieces, so that a client which takes a byte now and then meets the deadline, too.
fn send_all(mut stream: &TcpStream, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_write_timeout(Some(left))?;
        match stream.write(&bytes[..bytes.len().min(1 << 16)]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// What a client sent beyond its request is taken off it for a moment: closing at once would lose the answer.
fn linger(mut stream: &TcpStream) -> io::Result<()> {
    stream.shutdown(Shutdown::Write)?;
    stream.set_read_timeout(Some(Duration::from_millis(100)))?;
    let mut rest = [0u8; 4096];
    for _ in 0..16 {
        if !matches!(stream.read(&mut rest), Ok(read) if read > 0) {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// The head of what a client gets.
    fn sent(response: &Response) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = listener.accept().unwrap();
        response.send(&stream).unwrap();
        drop(stream);
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn who_may_come_again_hears_when_and_who_may_only_get_hears_that() {
        for (status, has) in
            [(Status::Busy, [true, false]), (Status::OnlyGet, [false, true]), (Status::Bad, [false; 2])]
        {
            let text = sent(&Response::sentence(status, "words"));
            assert_eq!(["Retry-After: 2\r\n", "Allow: GET\r\n"].map(|line| text.contains(line)), has, "{text}");
            assert!(text.contains("Content-Length: 6\r\n") && text.ends_with("\r\n\r\nwords\n"), "{text}");
        }
    }
}

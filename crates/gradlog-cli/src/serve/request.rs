//! Reads one request, within its limits of bytes and time, and says what it asks for.

use super::limits::{ADDRESS_BYTES_MAX, HEADERS_MAX, HEAD_BYTES_MAX, HEAD_WAIT};
use super::response::Status;
use std::io::{self, Read};
use std::net::TcpStream;
use std::time::Instant;

/// A request, as far as the server looks at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub method: String,
    /// The address before its question mark.
    pub path: String,
    /// Names and values behind the question mark, decoded.
    pub parameters: Vec<(String, String)>,
    pub host: Option<String>,
}

/// Why there is no request.
#[derive(Debug)]
pub(crate) enum NoRequest {
    /// The client sent something else, or too much: it hears what.
    Refused(Status, &'static str),
    /// The client went away or was too slow: nobody hears anything.
    Gone,
}

impl From<io::Error> for NoRequest {
    fn from(_: io::Error) -> Self {
        NoRequest::Gone
    }
}

/// Reads the head of a request. Whatever follows it is not read: a GET has no body.
///
/// # Errors
/// What the client is to hear, or that it is gone.
pub(crate) fn read_request(mut stream: &TcpStream) -> Result<Request, NoRequest> {
    let deadline = Instant::now() + HEAD_WAIT;
    let mut head = Vec::with_capacity(1024);
    let mut chunk = [0u8; 1024];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(match head.is_empty() {
                // A browser opens connections ahead of time.
                true => NoRequest::Gone,
                false => NoRequest::Refused(Status::TooSlow, "the request took too long"),
            });
        }
        stream.set_read_timeout(Some(left))?;
        let read = match stream.read(&mut chunk) {
            Ok(0) => return Err(NoRequest::Gone),
            Ok(read) => read,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => continue,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.into()),
        };
        head.extend_from_slice(&chunk[..read]);
        if let Some(request) = parse(&head)? {
            return Ok(request);
        }
        if head.len() >= HEAD_BYTES_MAX {
            return Err(too_long(&head));
        }
    }
}

fn too_long(head: &[u8]) -> NoRequest {
    match head.contains(&b'\n') {
        true => NoRequest::Refused(Status::HeadersTooLong, "the headers of the request are too long"),
        false => NoRequest::Refused(Status::AddressTooLong, "the address is too long"),
    }
}

/// The request in these bytes, or `None` if they are only its beginning.
fn parse(head: &[u8]) -> Result<Option<Request>, NoRequest> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut headers);
    let status = match parsed.parse(head) {
        Ok(status) => status,
        Err(httparse::Error::TooManyHeaders) => {
            return Err(NoRequest::Refused(Status::HeadersTooLong, "the request has too many headers"))
        }
        Err(_) => return Err(NoRequest::Refused(Status::Bad, "this is not a request")),
    };
    let target = parsed.path.unwrap_or_default();
    if target.len() > ADDRESS_BYTES_MAX {
        return Err(NoRequest::Refused(Status::AddressTooLong, "the address is too long"));
    }
    if status.is_partial() {
        return Ok(None);
    }
    let mut hosts = parsed.headers.iter().filter(|header| header.name.eq_ignore_ascii_case("host"));
    let host = match (hosts.next(), hosts.next()) {
        (Some(_), Some(_)) => return Err(NoRequest::Refused(Status::Bad, "the request names two hosts")),
        (Some(one), None) => String::from_utf8(one.value.to_vec()).ok(),
        (None, _) => None,
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    Ok(Some(Request {
        method: parsed.method.unwrap_or_default().to_owned(),
        path: path.to_owned(),
        parameters: form_urlencoded::parse(query.as_bytes()).into_owned().collect(),
        host,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<Request>, NoRequest> {
        parse(text.as_bytes())
    }

    #[test]
    fn a_request_is_read_when_its_head_is_whole() {
        let text = "GET /a/b?set=x%20%3C&id=3&empty HTTP/1.1\r\nhost: here:1\r\nAccept: */*\r\n\r\n";
        for cut in 0..text.len() {
            assert!(read(&text[..cut]).unwrap().is_none(), "{cut}");
        }
        let request = read(text).unwrap().unwrap();
        assert_eq!((request.method.as_str(), request.path.as_str()), ("GET", "/a/b"));
        assert_eq!(request.host.as_deref(), Some("here:1"));
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(request.parameters, [pair("set", "x <"), pair("id", "3"), pair("empty", "")]);
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let refused = |text: &str, status: Status| match read(text) {
            Err(NoRequest::Refused(found, _)) => assert_eq!(found, status, "{text:.40}"),
            other => panic!("{text:.40}: {other:?}"),
        };
        refused("\u{1}\u{2}\u{3}\u{4} nonsense\r\n\r\n", Status::Bad);
        refused("GET / SPDY/9\r\n\r\n", Status::Bad);
        refused("GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", Status::Bad);
        refused(&format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "x".repeat(5000)), Status::AddressTooLong);
        let many: String = (0..70).map(|n| format!("h{n}: 1\r\n")).collect();
        refused(&format!("GET / HTTP/1.1\r\n{many}\r\n"), Status::HeadersTooLong);
    }
}

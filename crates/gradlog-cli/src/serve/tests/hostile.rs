//! Requests that should not be answered, and clients that would keep others from being answered.

use super::with_server;
use crate::serve::limits::{CONNECTIONS_MAX, HEAD_WAIT, IDS_MAX};
use crate::tests::written;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

#[test]
fn nothing_but_get_with_the_token_is_answered() {
    let run = written(true);
    with_server(&[run.path()], &[], |client| {
        let (token, own) = (&client.token, client.place.to_string());
        let status = |method: &str, target: &str, host: &str| client.request(method, target, host).status;
        assert_eq!(status("GET", &format!("/{token}/"), &own), 200);
        assert_eq!(status("GET", &format!("/{token}/state"), "localhost:1"), 200);
        for method in ["HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PATCH", "get"] {
            let reply = client.request(method, &format!("/{token}/state"), &own);
            assert_eq!(reply.status, 405, "{method}");
            assert!(reply.head.contains("Allow: GET"));
        }
        let cut = &token[..token.len() - 1];
        for target in ["/", "/favicon.ico", &format!("/{cut}/"), &format!("/{token}0/"), "//", &format!("/x/{token}/")]
        {
            assert_eq!(status("GET", target, &own), 403, "{target}");
        }
        for path in ["x", "state/", "../state", "state%20", "head/..", "part-head", "/state"] {
            assert_eq!(client.get(path).status, 404, "{path}");
        }
        for host in ["evil.example", "evil.example:80", "127.0.0.1.evil.example", ""] {
            assert_eq!(status("GET", &format!("/{token}/state"), host), 403, "{host}");
        }
        let without = client.send(format!("GET /{token}/state HTTP/1.1\r\n\r\n").as_bytes());
        assert_eq!(without.status, 400);
        let absolute = format!("GET http://{own}/{token}/state HTTP/1.1\r\nHost: {own}\r\n\r\n");
        assert_eq!(client.send(absolute.as_bytes()).status, 403);
    });
}

#[test]
fn every_answer_forbids_to_be_kept_framed_or_run() {
    let run = written(true);
    with_server(&[run.path()], &[], |client| {
        for path in ["", "state", "head", "nowhere"] {
            let head = client.get(path).head;
            for line in ["Cache-Control: no-store", "X-Content-Type-Options: nosniff", "Referrer-Policy: no-referrer"] {
                assert!(head.contains(line), "{path}: {head}");
            }
            assert!(head.contains("frame-ancestors 'none'") && head.contains("default-src 'none'"), "{path}: {head}");
            assert!(!head.to_lowercase().contains("access-control"), "{path}: {head}");
        }
        let page = client.get("");
        assert!(page.head.contains("connect-src 'self'") && !page.head.contains("unsafe-"), "{}", page.head);
        assert!(page.text().contains("<title>a &lt;run&gt;: gradlog</title>"));
    });
}

#[test]
fn what_is_too_long_or_no_request_is_refused() {
    let run = written(true);
    with_server(&[run.path()], &[], |client| {
        let status = |bytes: &[u8]| client.send(bytes).status;
        assert_eq!(client.get(&"x".repeat(5000)).status, 414);
        assert_eq!(status(&[b"GET /".as_slice(), &b"x".repeat(100_000)].concat()), 414);
        let long = format!("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nx: {}\r\n\r\n", "x".repeat(100_000));
        assert_eq!(status(long.as_bytes()), 431);
        assert_eq!(status(b"\x16\x03\x01\x02\x00 a TLS client\r\n\r\n"), 400);
        assert_eq!(status(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: 127.0.0.1\r\n\r\n"), 400);
        for query in ["head?x=1", "score", "score?name=x", "rows?score=loss&score=loss", "rows?score=loss&count=9999"] {
            assert_eq!(client.get(query).status, 400, "{query}");
        }
        let ids = vec!["1"; IDS_MAX + 1].join(",");
        for path in ["examples", "histories", "cards?of=train", "neighbors?id=x"] {
            let mark = if path.contains('?') { '&' } else { '?' };
            assert_eq!(client.get(&format!("{path}{mark}ids={ids}")).status, 400, "{path}");
        }
        // A body is not read, and is no second request.
        let two = format!(
            "GET /{0}/state HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\nGET /{0}/head HTTP/1.1\r\n\r\n",
            client.token
        );
        assert_eq!(client.send(two.as_bytes()).text().matches("\"state\"").count(), 1);
        let state = format!("state={}", "x".repeat(201));
        assert_eq!(client.get(&format!("head?{state}")).status, 400);
    });
}

/// Nothing of an address reaches the command but the options that a question may have.
#[test]
fn an_address_cannot_reach_the_files_of_the_command() {
    let run = written(true);
    with_server(&[run.path()], &[], |client| {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let out = out.to_str().unwrap().replace('/', "%2F");
        for (query, status) in [
            (format!("probe=test&id=3&out={out}"), 400),
            (String::from("probe=test&id=3&format=csv"), 400),
            (format!("probe=test&id=3%20--out={out}"), 400),
            (format!("probe=--out={out}&id=3"), 422),
            (format!("probe=test&id=3&layers=--out={out}"), 422),
            (String::from("probe=test&id=3&method=nonsense"), 400),
            (String::from("probe=test&id=3&all=1"), 400),
            (String::from("probe=test&id=3&mean=x"), 400),
            (String::from("probe=test&id=3&top=1001"), 400),
            (String::from("probe=test&id=3&method=if&numbers=20000"), 400),
            (format!("probe=test&ids={}", vec!["3"; IDS_MAX + 1].join(",")), 400),
            (String::from("probe=test&id=3&method=if&damping=1,2,3,4,5,6,7,8,9"), 400),
            (String::from("probe=test&id=3&method=if&damping-absolute=1,2,3,4,5,6,7,8,9"), 400),
            (String::from("probe=test"), 400),
            (String::from("id=3"), 400),
            (String::from("probe=test&id=999"), 422),
        ] {
            let reply = client.get(&format!("influence?{query}"));
            assert_eq!(reply.status, status, "{query}: {}", reply.text());
            assert!(reply.text().len() > 10 && !reply.text().contains("error:"), "{}", reply.text());
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    });
}

#[test]
fn clients_that_send_nothing_keep_nobody_out() {
    let run = written(true);
    with_server(&[run.path()], &[], |client| {
        let silent: Vec<TcpStream> = (0..CONNECTIONS_MAX).map(|_| TcpStream::connect(client.place).unwrap()).collect();
        let mut halves: Vec<TcpStream> = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            let mut half = TcpStream::connect(client.place).unwrap();
            half.write_all(b"GET /").unwrap();
            halves.push(half);
        }
        let start = Instant::now();
        assert_eq!(client.get("state").status, 200);
        assert!(start.elapsed() < HEAD_WAIT, "{:?}", start.elapsed());
        // The oldest were closed to make room.
        let mut first = &silent[0];
        first.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        assert!(matches!(first.read(&mut [0]), Ok(0) | Err(_)));
    });
}

#[test]
fn a_slow_request_is_given_up() {
    let run = written(true);
    with_server(&[run.path()], &[], |client| {
        let mut silent = TcpStream::connect(client.place).unwrap();
        let mut slow = TcpStream::connect(client.place).unwrap();
        slow.set_read_timeout(Some(HEAD_WAIT / 5)).unwrap();
        let start = Instant::now();
        let mut gone = false;
        // A byte now and then does not move the end.
        for byte in
            b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nx: a very long header that never comes to its end".iter().cycle()
        {
            std::thread::sleep(Duration::from_millis(100));
            if slow.write_all(&[*byte]).is_err() {
                gone = true;
                break;
            }
            if start.elapsed() > 3 * HEAD_WAIT / 2 {
                break;
            }
        }
        let mut reply = String::new();
        let _ = slow.read_to_string(&mut reply);
        assert!(gone || reply.contains(" 408 ") || reply.contains(" 400 "), "{reply}");
        // Who sent nothing hears nothing: a browser opens connections ahead of time.
        let mut words = Vec::new();
        silent.set_read_timeout(Some(HEAD_WAIT)).unwrap();
        assert!(silent.read_to_end(&mut words).is_ok() && words.is_empty(), "{words:?}");
    });
}

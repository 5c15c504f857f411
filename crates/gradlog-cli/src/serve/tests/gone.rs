//! Clients that leave before their answer is there.

use crate::serve::desk::IsAwaited;
use crate::serve::request::Request;
use crate::serve::response::{Response, Status};
use crate::serve::server::Answers;
use crate::serve::App;
use crate::tests::written;
use std::path::Path;
use std::sync::Arc;

fn ask(app: &App, path: &str, query: &[(&str, &str)], is_awaited: bool) -> Response {
    let parameters = query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let request = Request { method: "GET".into(), path: String::new(), parameters, host: None };
    let is_awaited: IsAwaited = Arc::new(move || is_awaited);
    app.answer(path, &request, &is_awaited)
}

fn app(run: &Path) -> App {
    App::new(vec![run.to_owned()], Vec::new(), "a run", 1 << 30)
}

/// Whatever reads the run stops when nobody awaits the answer, and the half of an answer is not kept.
#[test]
fn a_question_that_nobody_awaits_is_given_up() {
    let run = written(true);
    let probe = [("probe", "test"), ("id", "3")];
    for (path, query) in [
        ("curves", &[][..]),
        ("suspects", &[]),
        ("map", &[]),
        ("groups", &[]),
        ("visits", &[]),
        ("score", &[("name", "loss")]),
        ("rows", &[("score", "aum")]),
        ("examples", &[("ids", "100")]),
        ("histories", &[("ids", "100")]),
        ("neighbors", &[("id", "100")]),
        ("influence", &probe),
        ("influence", &[probe[0], probe[1], ("method", "if")]),
    ] {
        let app = app(run.path());
        // What other questions rest on is there.
        assert_eq!(ask(&app, "head", &[], true).status, Status::Done);
        let gone = ask(&app, path, query, false);
        let words = String::from_utf8_lossy(&gone.body).into_owned();
        assert!(gone.status != Status::Done && words.contains("stopped"), "{path}: {words}");
        let there = ask(&app, path, query, true);
        assert_eq!(there.status, Status::Done, "{path}: {}", String::from_utf8_lossy(&there.body));
        let words = String::from_utf8_lossy(&there.body).into_owned();
        assert!(!words.contains("stopped") && !words.contains("\"missing\""), "{path}: {words}");
    }
}

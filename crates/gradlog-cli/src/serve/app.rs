//! What the server is asked, and who answers it: an address becomes a question, the desk has it answered.

use super::desk::{Desk, IsAwaited, Kept, Lane, Unanswered};
use super::influence::InfluenceCall;
use super::panels::Panel;
use super::parameters::Parameters;
use super::request::Request;
use super::response::{Response, Status};
use super::server::Answers;
use super::state::StateCache;
use super::table::{Examples, RowQuestion, ScoreColumn};
use crate::error::{explain, CliError};
use crate::frame::Asked;
use crate::output::Stop;
use crate::page::assemble::ServedPage;
use crate::page::data::{Source, Spec};
use crate::page::parts::{is_about_the_run, Compared};
use crate::verbs::influence_methods;
use gradlog_analysis::{AnalysisError, Normalization, Order, Score};
use gradlog_format::run::Run;
use serde_json::{json, Value};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// Everything that the server knows.
pub(crate) struct App {
    pub(super) runs: Vec<PathBuf>,
    pub(super) data: Vec<Spec>,
    /// Sources that were opened, by their sets.
    pub(super) sources: Mutex<HashMap<Option<String>, Arc<dyn Source>>>,
    page: ServedPage,
    desk: Desk,
    state: StateCache,
    /// The examples of a state, which all its columns share.
    examples: Mutex<Option<(String, Arc<Examples>)>>,
}

/// A request that is being answered.
pub(super) struct Asking<'a> {
    /// The state of the run that the answer is kept for.
    state: String,
    is_awaited: &'a IsAwaited,
}

impl Asking<'_> {
    /// What says that this client is gone.
    pub(super) fn stop(&self) -> Stop {
        let is_awaited = self.is_awaited.clone();
        Arc::new(move || !is_awaited())
    }
}

/// What the client hears in place of an answer.
pub(super) struct Refusal(pub Status, pub String);

impl From<String> for Refusal {
    fn from(words: String) -> Self {
        Refusal(Status::Bad, words)
    }
}

impl From<CliError> for Refusal {
    fn from(error: CliError) -> Self {
        let status = match &error {
            CliError::Analysis(AnalysisError::NoVisits) => Status::NoAnswer,
            CliError::Analysis(analysis) if is_about_the_run(analysis) => Status::NoAnswer,
            _ => Status::Failed,
        };
        Refusal(status, explain(&error))
    }
}

impl<E: Into<Refusal>> From<Unanswered<E>> for Refusal {
    fn from(unanswered: Unanswered<E>) -> Self {
        match unanswered {
            Unanswered::Busy => {
                let words = "the server is answering other questions and has too many waiting: ask again in a moment";
                Refusal(Status::Busy, words.into())
            }
            Unanswered::Gone => Refusal(Status::Busy, "nobody waits for this answer any more".into()),
            Unanswered::Panicked => {
                let words = "the server failed on this question, which is a fault of gradlog: please report it";
                Refusal(Status::Failed, words.into())
            }
            Unanswered::Error(error) => error.into(),
        }
    }
}

impl From<(Status, String)> for Refusal {
    fn from((status, words): (Status, String)) -> Self {
        Refusal(status, words)
    }
}

pub(super) type Outcome<T> = Result<T, Refusal>;

/// The longest name of a state that an address may hold.
const STATE_BYTES_MAX: usize = 200;

impl App {
    /// Answers for these runs, keeping answers of up to `bytes_max` bytes.
    pub(crate) fn new(runs: Vec<PathBuf>, data: Vec<Spec>, title: &str, bytes_max: usize) -> Self {
        Self {
            runs,
            data,
            sources: Mutex::default(),
            page: ServedPage::new(title),
            desk: Desk::new(bytes_max),
            state: StateCache::default(),
            examples: Mutex::default(),
        }
    }

    fn route(&self, path: &str, request: &Request, is_awaited: &IsAwaited) -> Outcome<Response> {
        let mut parameters = Parameters::new(request)?;
        if path.is_empty() {
            parameters.end()?;
            return Ok(Response::page(self.page.html.clone(), &self.page.policy));
        }
        if path == "state" {
            parameters.end()?;
            return Ok(json_response(&self.state.look(&self.runs)?.json()));
        }
        let asked_state = parameters.take("state");
        if asked_state.as_ref().is_some_and(|state| state.len() > STATE_BYTES_MAX) {
            return Err(String::from("`state` is longer than the name of a state").into());
        }
        // What was answered in an earlier state stays that answer, as long as it is kept.
        let state = match asked_state {
            Some(state) => state,
            None => self.state.look(&self.runs)?.name.clone(),
        };
        let asking = Asking { state, is_awaited };
        if let Some(panel) = Panel::named(path) {
            parameters.end()?;
            return self.panel(panel, &asking);
        }
        match path {
            "scores" => {
                parameters.end()?;
                Ok(json_response(&list_scores()))
            }
            "score" => {
                let name = parameters.need("name")?;
                parameters.end()?;
                let score = Score::ALL.into_iter().find(|score| score.name() == name);
                let score = score.ok_or_else(|| format!("there is no score `{name}`"))?;
                Ok(json_response(&self.column(score, &asking)?.about))
            }
            "rows" => {
                let question = RowQuestion::read(&mut parameters)?;
                parameters.end()?;
                self.rows(&question, &asking)
            }
            "influence" => {
                let call = InfluenceCall::read(&mut parameters)?;
                parameters.end()?;
                let run = self.runs[0].clone();
                let found = self.keep(Lane::Long, &call.name(), &asking, |stop| {
                    let body: Arc<[u8]> = call.run(&run, stop)?.into();
                    Ok::<_, (Status, String)>(Kept { bytes: body.len(), value: body })
                })?;
                Ok(Response::json(Arc::clone(&*found)))
            }
            "data" => {
                parameters.end()?;
                self.check_data(&asking)
            }
            "examples" | "histories" | "cards" | "neighbors" => self.some_examples(path, parameters, &asking),
            _ => Err(Refusal(Status::NotThere, "there is nothing at this address".into())),
        }
    }

    /// An answer that is kept for the state of the run.
    pub(super) fn keep<T: Send + Sync + 'static, E: Into<Refusal>>(
        &self,
        lane: Lane,
        name: &str,
        asking: &Asking<'_>,
        compute: impl FnOnce(&Stop) -> Result<Kept<T>, E>,
    ) -> Outcome<Arc<T>> {
        let name = format!("{name}@{}", asking.state);
        Ok(self.desk.answer(lane, &name, asking.is_awaited, compute)?)
    }

    /// An answer in JSON that is kept.
    pub(super) fn keep_json(
        &self,
        lane: Lane,
        name: &str,
        asking: &Asking<'_>,
        compute: impl FnOnce(&Asked<'_>) -> Result<Value, CliError>,
    ) -> Outcome<Response> {
        let found = self.keep(lane, name, asking, |stop| self.ask(stop, |asked| Ok(kept_json(&compute(asked)?))))?;
        Ok(Response::json(Arc::clone(&*found)))
    }

    /// Opens the runs as they are now, and asks until `stop` says that nobody wants the answer.
    pub(super) fn ask<T>(
        &self,
        stop: &Stop,
        question: impl FnOnce(&Asked<'_>) -> Result<T, CliError>,
    ) -> Result<T, CliError> {
        let opened = self.runs.iter().map(Run::open).collect::<Result<Vec<Run>, _>>()?;
        question(&Asked::quietly(opened.iter().collect(), stop.clone()))
    }

    /// The gradients of all examples, ready to be compared.
    pub(super) fn compared(&self, asking: &Asking<'_>) -> Outcome<Arc<Compared>> {
        self.keep(Lane::Long, "compared", asking, |stop| {
            self.ask(stop, |asked| {
                let value = Compared::read(asked)?;
                Ok(Kept { bytes: value.bytes(), value })
            })
        })
    }

    /// One score of all examples.
    fn column(&self, score: Score, asking: &Asking<'_>) -> Outcome<Arc<ScoreColumn>> {
        let name = format!("column/{}", score.name());
        let column = self.keep(Lane::Long, &name, asking, |stop| {
            self.ask(stop, |asked| ScoreColumn::compute(asked, score, self.known_examples(asking)))
        })?;
        *self.examples.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((asking.state.clone(), column.examples.clone()));
        Ok(column)
    }

    fn known_examples(&self, asking: &Asking<'_>) -> Option<Arc<Examples>> {
        let known = self.examples.lock().unwrap_or_else(PoisonError::into_inner);
        known.as_ref().filter(|(state, _)| *state == asking.state).map(|(_, examples)| examples.clone())
    }

    /// All examples, with their labels and last predictions.
    pub(super) fn examples(&self, asking: &Asking<'_>) -> Outcome<Arc<Examples>> {
        if let Some(known) = self.known_examples(asking) {
            return Ok(known);
        }
        let mut failed = None;
        for score in [Score::Loss].into_iter().chain(Score::ALL) {
            match self.column(score, asking) {
                Ok(column) => return Ok(column.examples.clone()),
                Err(Refusal(Status::NoAnswer, words)) => failed = Some(Refusal(Status::NoAnswer, words)),
                Err(other) => return Err(other),
            }
        }
        Err(failed.unwrap_or(Refusal(Status::NoAnswer, "the run has no score".into())))
    }

    fn rows(&self, question: &RowQuestion, asking: &Asking<'_>) -> Outcome<Response> {
        let column = self.column(question.score, asking)?;
        let others = question.columns.iter().map(|score| self.column(*score, asking)).collect::<Outcome<Vec<_>>>()?;
        let sorting = self.column(question.sorting_score(), asking)?;
        let order =
            self.keep(Lane::Quick, &question.order_name(), asking, |_| Ok::<_, CliError>(question.sort(&sorting)))?;
        let found = self.keep(Lane::Quick, &format!("rows/{question:?}"), asking, |_| {
            Ok::<_, CliError>(kept_json(&question.page(&column, (&order, &sorting), &others)))
        })?;
        Ok(Response::json(Arc::clone(&*found)))
    }
}

impl Answers for App {
    fn answer(&self, path: &str, request: &Request, is_awaited: &IsAwaited) -> Response {
        match self.route(path, request, is_awaited) {
            Ok(response) => response,
            Err(Refusal(status, words)) => Response::sentence(status, &words),
        }
    }
}

/// The scores that there are, without their numbers, and how influence can be asked for.
fn list_scores() -> Value {
    let one = |score: &Score| {
        json!({
            "score": score.name(),
            "about": score.description(),
            "lowest_first": score.order() == Order::LowestFirst,
        })
    };
    let named = |name: &str, about: &str| json!({ "name": name, "about": about });
    let methods = influence_methods().map(|(name, about)| named(name, about));
    let normalizations = Normalization::ALL.iter().map(|by| named(by.name(), by.description()));
    json!({
        "scores": Score::ALL.iter().map(one).collect::<Vec<_>>(),
        "methods": methods.collect::<Vec<_>>(),
        "normalizations": normalizations.collect::<Vec<_>>(),
    })
}

pub(super) fn json_response(value: &Value) -> Response {
    Response::json(value.to_string().into_bytes())
}

pub(super) fn kept_json(value: &Value) -> Kept<Arc<[u8]>> {
    let body: Arc<[u8]> = value.to_string().into_bytes().into();
    Kept { bytes: body.len(), value: body }
}

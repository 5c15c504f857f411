//! Single examples, whichever they are: labels, visits, what they look like, what is like them.

use super::app::{json_response, App, Asking, Outcome, Refusal};
use super::desk::Lane;
use super::limits::{COMPARED_MAX, WALL_MAX};
use super::parameters::Parameters;
use super::response::{Response, Status};
use crate::error::CliError;
use crate::page::cards::{check_labels, read_cards};
use crate::page::data::{self, Recorded, Source};
use crate::page::parts::{history_arrays, read_wall, set_names};
use crate::page::sheet::Budget;
use gradlog_analysis::HistoryQuestion;
use serde_json::{json, Value};
use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

impl App {
    /// Answers `examples`, `histories`, `cards` and `neighbors`.
    pub(super) fn some_examples(
        &self,
        path: &str,
        mut parameters: Parameters,
        asking: &Asking<'_>,
    ) -> Outcome<Response> {
        match path {
            "neighbors" => {
                let id: u64 = parameters.number("id")?.ok_or_else(|| String::from("the address lacks `id=`"))?;
                parameters.end()?;
                self.neighbors(id, asking)
            }
            "examples" => {
                let ids = parameters.ids()?;
                parameters.end()?;
                let examples = self.examples(asking)?;
                let one = |id: &u64| {
                    let (label, prediction) = examples.find(*id)?;
                    Some(json!({ "id": id.to_string(), "label": label, "prediction": prediction }))
                };
                Ok(json_response(&ids.iter().filter_map(one).collect()))
            }
            "histories" => {
                let (ids, set) = (parameters.ids()?, parameters.take("set"));
                parameters.end()?;
                self.keep_json(Lane::Quick, &format!("histories/{set:?}/{ids:?}"), asking, |asked| {
                    let question = set.map_or_else(HistoryQuestion::new, HistoryQuestion::probes);
                    let question = question.examples(ids).share_progress(&asked.progress());
                    let found = question.compute(asked.run())?;
                    let mut part = history_arrays(&found);
                    part["basis"] = json!(found.basis.to_string());
                    Ok(part)
                })
            }
            _ => {
                let (ids, of) = (parameters.ids()?, parameters.need("of")?);
                parameters.end()?;
                self.cards(&ids, &of, asking)
            }
        }
    }

    fn neighbors(&self, id: u64, asking: &Asking<'_>) -> Outcome<Response> {
        if self.refuse_comparing(asking)?.is_some() {
            return Ok(json_response(&Value::Null));
        }
        match self.compared(asking) {
            Ok(compared) => Ok(json_response(&compared.neighbors(id).unwrap_or_default())),
            // A run without gradients has no neighbors.
            Err(Refusal(Status::NoAnswer, _)) => Ok(json_response(&Value::Null)),
            Err(other) => Err(other),
        }
    }

    fn cards(&self, ids: &[u64], of: &str, asking: &Asking<'_>) -> Outcome<Response> {
        let set = match of.split_once(':') {
            None if of == "train" => None,
            Some(("probe", set)) => Some(set),
            _ => return Err(String::from("`of` is train, or probe: and the name of a set").into()),
        };
        let (given, labels) = (self.source(set)?, self.labels(ids, set, asking)?);
        self.keep_json(Lane::Quick, &format!("cards/{of}/{ids:?}"), asking, |asked| {
            let what = set.map_or("training examples".into(), |set| format!("probes of `{set}`"));
            let recorded = if given.is_none() { Recorded::read(&asked.runs, set, ids)? } else { None };
            let source = given.as_deref().or(recorded.as_ref().map(|recorded| recorded as &dyn Source));
            let Some(source) = source else { return Ok(Value::Null) };
            // Their notes would be of these few, which may be those of wrong labels.
            Ok(read_cards(source, &what, ids, &labels, &mut Budget::new())?.part)
        })
    }

    /// Says whether the data is probably that of other examples: compares the labels of some, evenly among all, and of
    /// the probes on the wall.
    pub(super) fn check_data(&self, asking: &Asking<'_>) -> Outcome<Response> {
        if self.data.is_empty() {
            return Ok(json_response(&json!({ "notes": [] })));
        }
        let examples = match self.examples(asking) {
            Err(Refusal(Status::NoAnswer, _)) => None,
            other => Some(other?),
        };
        self.keep_json(Lane::Long, "data", asking, |asked| {
            let mut notes = Vec::new();
            if let (Some(source), Some(examples)) = (self.source(None)?, examples) {
                let step = examples.ids.len().div_ceil(COMPARED_MAX).max(1);
                let some = examples.ids.iter().step_by(step).filter_map(|id| Some((*id, examples.find(*id)?.0?)));
                notes.extend(check_labels(source.as_ref(), "training examples", some)?);
            }
            for set in set_names(asked.run())? {
                let Ok(Some(wall)) = read_wall(asked.run(), &set, WALL_MAX) else { continue };
                match self.source(Some(&set))? {
                    None => {
                        notes.push(format!("note: there is no data for the probe set `{set}`: give --data {set}=..."))
                    }
                    Some(source) => {
                        let labels = wall.labels.into_iter();
                        notes.extend(check_labels(source.as_ref(), &format!("probes of `{set}`"), labels)?);
                    }
                }
            }
            Ok(json!({ "notes": notes }))
        })
    }

    /// The recorded labels of these examples or probes.
    fn labels(&self, ids: &[u64], set: Option<&str>, asking: &Asking<'_>) -> Outcome<HashMap<u64, u32>> {
        let Some(set) = set else {
            return Ok(match self.examples(asking) {
                Ok(examples) => ids.iter().filter_map(|id| Some((*id, examples.find(*id)?.0?))).collect(),
                Err(Refusal(Status::NoAnswer, _)) => HashMap::new(),
                Err(other) => return Err(other),
            });
        };
        let found = self.ask(&asking.stop(), |asked| {
            let question = HistoryQuestion::probes(set).examples(ids.iter().copied());
            Ok(question.share_progress(&asked.progress()).compute(asked.run())?)
        })?;
        let last = found.histories.iter().filter_map(|history| Some((history.id, history.visits.last()?.label?)));
        Ok(last.collect())
    }

    /// What the examples look like, if somebody said so. Files are read once, folders of pictures each time.
    ///
    /// # Errors
    /// What cannot be read.
    pub(crate) fn source(&self, set: Option<&str>) -> Result<Option<Arc<dyn Source>>, CliError> {
        let Some(spec) = data::find(&self.data, set) else { return Ok(None) };
        if spec.is_opened_each_time() {
            return Ok(data::open(&self.data, set)?.map(Arc::from));
        }
        let mut known = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let set = set.map(str::to_owned);
        if let Some(source) = known.get(&set) {
            return Ok(Some(source.clone()));
        }
        let Some(source) = data::open(&self.data, set.as_deref())?.map(Arc::from) else { return Ok(None) };
        known.insert(set, Arc::clone(&source));
        Ok(Some(source))
    }
}

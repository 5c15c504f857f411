//! Whole panels: the parts of the page, each computed when somebody looks at it.

use super::app::{json_response, kept_json, App, Asking, Outcome};
use super::desk::{Kept, Lane};
use super::limits::{SUSPECTS_EXAMPLES_MAX, WALL_MAX};
use super::response::Response;
use crate::error::CliError;
use crate::frame::Asked;
use crate::page::chosen::Chosen;
use crate::page::limits::VISITS_MAX;
use crate::page::parts::{self, or_reason, reason};
use gradlog_analysis::SuspectQuestion;
use serde_json::{json, Value};
use std::sync::Arc;

/// A panel that is answered as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Panel {
    Head,
    Curves,
    Suspects,
    Map,
    Groups,
    Probes,
    /// The visits of those examples that panels name.
    Visits,
}

/// What the head says, and what other panels must know of it.
struct Heading {
    body: Arc<[u8]>,
    examples: u64,
    visits: u64,
}

impl Panel {
    pub(super) fn named(path: &str) -> Option<Self> {
        Some(match path {
            "head" => Panel::Head,
            "curves" => Panel::Curves,
            "suspects" => Panel::Suspects,
            "map" => Panel::Map,
            "groups" => Panel::Groups,
            "probes" => Panel::Probes,
            "visits" => Panel::Visits,
            _ => return None,
        })
    }
}

impl App {
    pub(super) fn panel(&self, panel: Panel, asking: &Asking<'_>) -> Outcome<Response> {
        match panel {
            Panel::Head => Ok(Response::json(self.heading(asking)?.body.clone())),
            Panel::Curves => self.keep_json(Lane::Long, "curves", asking, |asked| or_reason(parts::curves_part(asked))),
            Panel::Map => {
                let examples = self.heading(asking)?.examples;
                self.keep_json(Lane::Long, "map", asking, |asked| or_reason(parts::map_part(asked, examples)))
            }
            Panel::Probes => self.keep_json(Lane::Long, "probes", asking, walls),
            Panel::Suspects => {
                let examples = self.heading(asking)?.examples;
                if examples > SUSPECTS_EXAMPLES_MAX {
                    return Ok(json_response(&reason(&format!(
                        "the run has {examples} examples, and the server ranks up to {SUSPECTS_EXAMPLES_MAX}: ask \
                         `gradlog suspects`"
                    ))));
                }
                self.keep_json(Lane::Long, "suspects", asking, |asked| {
                    or_reason(parts::suspects_part(asked, &mut Chosen::default()))
                })
            }
            Panel::Groups => self.groups(asking),
            Panel::Visits => {
                let heading = self.heading(asking)?;
                self.keep_json(Lane::Long, "visits", asking, |asked| or_reason(named_visits(asked, &heading)))
            }
        }
    }

    fn heading(&self, asking: &Asking<'_>) -> Outcome<Arc<Heading>> {
        self.keep(Lane::Long, "head", asking, |stop| {
            self.ask(stop, |asked| {
                let head = parts::head_part(asked)?;
                let Kept { value: body, bytes } = kept_json(&head.finish(asked, &[])?);
                let value = Heading { body, examples: head.first.examples, visits: head.first.visits };
                Ok(Kept { value, bytes })
            })
        })
    }

    fn groups(&self, asking: &Asking<'_>) -> Outcome<Response> {
        if let Some(words) = self.refuse_comparing(asking)? {
            return Ok(json_response(&reason(&words)));
        }
        let compared = match self.compared(asking) {
            Err(super::app::Refusal(super::response::Status::NoAnswer, words)) => {
                return Ok(json_response(&reason(&words)))
            }
            other => other?,
        };
        self.keep_json(Lane::Long, "groups", asking, |_| Ok(compared.groups(&mut Chosen::default())))
    }

    /// Why gradients are not compared, if there are too many.
    pub(super) fn refuse_comparing(&self, asking: &Asking<'_>) -> Outcome<Option<String>> {
        Ok(parts::too_many_to_compare(self.heading(asking)?.examples))
    }
}

/// The probes of each set, without their influence.
fn walls(asked: &Asked<'_>) -> Result<Value, CliError> {
    let mut sets = Vec::new();
    for name in parts::set_names(asked.run())? {
        match parts::read_wall(asked.run(), &name, WALL_MAX) {
            Ok(Some(wall)) => sets.push(wall.part),
            Ok(None) => {}
            Err(error) if parts::is_about_the_run(&error) => {
                let mut part = reason(&error.to_string());
                part["set"] = json!(name);
                sets.push(part);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(json!({ "sets": sets }))
}

/// The visits of all examples, or where they are many those of the suspects.
fn named_visits(asked: &Asked<'_>, heading: &Heading) -> Result<Value, CliError> {
    let visits_each = heading.visits as f64 / heading.examples.max(1) as f64;
    if heading.visits <= VISITS_MAX as u64 || heading.examples <= SUSPECTS_EXAMPLES_MAX {
        let found = SuspectQuestion::new().share_progress(&asked.progress()).compute_over(&asked.runs)?;
        let ids: Vec<u64> = found.rows.iter().map(|row| row.example).collect();
        return parts::read_histories(asked, &ids, visits_each);
    }
    Ok(reason("the run has too many examples to list those that changed"))
}

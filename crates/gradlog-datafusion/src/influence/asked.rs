//! What is asked about influence, and the rows of an answer.

use super::NAME;
use crate::arguments::Options;
use crate::rows::RowSink;
use crate::shares::basis_words;
use crate::{RunTables, SqlError};
use arrow_schema::SchemaRef;
use gradlog_analysis::{AnalysisError, ExampleShare, Influence, InfluenceQuestion, Ranked, Source};
use gradlog_arrow::{BatchBuilder, Value};

/// The most of each end that are found while the visits stream by. For more, all scores of a pass are held.
const STREAMED_MAX: usize = 1000;

/// A question about influence, with the probes that it is about.
#[derive(Debug)]
pub(crate) struct AskedInfluence {
    question: InfluenceQuestion,
    pub set: String,
    /// The ids of the probes, rising.
    pub probes: Vec<u64>,
    /// How many of each end are wanted; all, if not said.
    pub top: Option<usize>,
    pub options: Options,
    pub columns: Vec<&'static str>,
    pub schema: SchemaRef,
}

impl AskedInfluence {
    pub fn new(tables: &RunTables, set: String, top: Option<u64>, options: Options) -> Result<Self, SqlError> {
        options.only(&["ids", "epochs", "steps", "at", "optimizer", "normalize", "layers", "probe-time"])?;
        if top == Some(0) {
            return Err(SqlError::argument(NAME, "0 proponents and opponents are nothing: ask for 1 or more"));
        }
        let window = options.window()?;
        let is_on_sweeps = window.source == Source::Sweeps;
        let mut question =
            InfluenceQuestion::new(&set).window(window).probe_time(options.probe_time()?).sketch_errors();
        if let Some(ids) = options.numbers("ids")? {
            question = question.ids(ids);
        }
        if let Some(optimizer) = options.named("optimizer")? {
            question = question.optimizer(optimizer);
        }
        if let Some(normalization) = options.named("normalize")? {
            question = question.normalization(normalization);
        }
        if let Some(layers) = options.get("layers") {
            question = question.layers(layers.split(',').map(str::trim));
        }
        // An unknown set or probe is an error before anything is read.
        let probes = question.plan(tables.run())?.probe_ids();
        let question = question.ids(probes.iter().copied());
        let columns = vec![
            "example",
            "probe",
            if is_on_sweeps { "checkpoints" } else { "visits" },
            "score",
            "error",
            "label",
            "prediction",
        ];
        let schema = BatchBuilder::new(&columns, []).schema();
        let top = top.map(|top| usize::try_from(top).unwrap_or(usize::MAX));
        Ok(Self { question, set, probes, top, options, columns, schema })
    }

    /// Hands over the rows of a share of the examples, probe after probe: the strongest proponent first, and the
    /// strongest opponent last.
    pub fn answer(&self, tables: &RunTables, share: ExampleShare, sink: &mut RowSink) -> Result<(), SqlError> {
        let progress = sink.progress();
        let question = self.question.clone().share_progress(&progress);
        let (run, question) = match share.of() {
            1 => (tables.run().as_ref().clone(), question),
            // Of a compacted run a share reads its own buckets alone.
            of => (tables.run().as_ref().clone().with_share(share.number() - 1, of), question.share(share)),
        };
        let mut plan = question.plan(&run)?;
        let streamed = self.top.filter(|top| *top <= STREAMED_MAX && plan.probes() > 1);
        if streamed.is_some() {
            plan = plan.keep_strongest();
        }
        for number in 0..plan.passes() {
            if progress.is_stopped() {
                return Err(AnalysisError::Stopped.into());
            }
            match streamed {
                Some(top) => {
                    let found = plan.strongest(number, top)?;
                    self.note((tables, sink), &found.influence, share)?;
                    for (probe, ends) in found.proponents.iter().zip(&found.opponents).enumerate() {
                        ends.0
                            .iter()
                            .chain(ends.1.iter().rev())
                            .try_for_each(|ranked| sink.add(&row(&found.influence, probe, *ranked)))?;
                    }
                }
                None => {
                    let found = plan.pass(number)?;
                    self.note((tables, sink), &found, share)?;
                    for probe in 0..found.probes.len() {
                        let rows = self.rows_of(&found, probe);
                        rows.into_iter().try_for_each(|row_number| {
                            let score = found.score(row_number, probe);
                            let error = found.sketch_error(row_number, probe);
                            sink.add(&row(&found, probe, ranked(row_number, score, error)))
                        })?;
                    }
                }
            }
        }
        tables.refuse_change()
    }

    /// The rows of a probe that are wanted, of an answer that has all.
    fn rows_of(&self, found: &Influence, probe: usize) -> Vec<usize> {
        let Some(top) = self.top else { return found.ranking(probe) };
        let mut rows = found.proponents(probe, top);
        rows.extend(found.opponents(probe, top).into_iter().rev());
        rows
    }

    /// Keeps what an answer rests on and leaves out; refuses damage.
    fn note(
        &self,
        (tables, sink): (&RunTables, &RowSink),
        found: &Influence,
        share: ExampleShare,
    ) -> Result<(), SqlError> {
        tables.refuse_damage(found.damage.as_ref())?;
        let of_share = if share.of() == 1 { String::new() } else { format!("share {share}: ") };
        let notes = found.left_out.notes().into_iter().map(|note| format!("note: {of_share}{note}"));
        let about = [format!("variant: {}", found.variant()), basis_words(&found.basis, share)];
        sink.say(tables, about.into_iter().filter(|_| share.number() == 1).chain(notes));
        Ok(())
    }
}

/// One score with its place.
#[derive(Clone, Copy)]
struct Place {
    row: usize,
    score: f64,
    error: Option<f64>,
}

impl From<Ranked> for Place {
    fn from(Ranked { row, score, error, .. }: Ranked) -> Self {
        Self { row, score, error }
    }
}

fn ranked(row: usize, score: f64, error: Option<f64>) -> Place {
    Place { row, score, error }
}

/// The columns of a row.
fn row(found: &Influence, probe: usize, place: impl Into<Place>) -> Vec<Value> {
    let Place { row, score, error } = place.into();
    let about = &found.rows[row];
    vec![
        about.example.into(),
        found.probes[probe].id.into(),
        about.visits.into(),
        score.into(),
        error.into(),
        about.label.into(),
        about.prediction.into(),
    ]
}

//! All examples with their scores, in memory: sorted, filtered, and cut into pages of a few rows.
//!
//! A score is one column, computed when somebody asks for it. Numbers are those of `gradlog scores`.

use super::desk::Kept;
use super::limits::ROWS_MAX;
use super::parameters::Parameters;
use crate::error::CliError;
use crate::frame::Asked;
use crate::page::parts::describe_score;
use gradlog_analysis::{Basis, RunsRow, Score, ScoreQuestion, ScoreRow};
use serde_json::{json, Map, Value};
use std::cmp::Ordering;
use std::sync::Arc;

/// Stands for no label.
const NO_LABEL: u32 = u32::MAX;

/// Examples, ascending by id.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Examples {
    pub ids: Vec<u64>,
    labels: Vec<u32>,
    predictions: Vec<u32>,
}

impl Examples {
    /// Label and last prediction of an example; `None` if there is no such example.
    pub(crate) fn find(&self, id: u64) -> Option<(Option<u32>, Option<u32>)> {
        let at = self.ids.binary_search(&id).ok()?;
        Some((self.label(at), self.prediction(at)))
    }

    fn label(&self, at: usize) -> Option<u32> {
        Some(self.labels[at]).filter(|label| *label != NO_LABEL)
    }

    fn prediction(&self, at: usize) -> Option<u32> {
        Some(self.predictions[at]).filter(|label| *label != NO_LABEL)
    }
}

/// An example, its score, its label and its last prediction.
type Row = (u64, f64, Option<u32>, Option<u32>);

/// One score of all examples.
#[derive(Debug)]
pub(crate) struct ScoreColumn {
    pub examples: Arc<Examples>,
    /// In the order of the examples.
    values: Vec<f64>,
    /// Name, meaning, order, basis and histogram, as in the page.
    pub about: Value,
}

impl ScoreColumn {
    /// Computes a score. Examples that are known already are not held twice.
    ///
    /// # Errors
    /// What the runs cannot give.
    pub(crate) fn compute(
        asked: &Asked<'_>,
        score: Score,
        known: Option<Arc<Examples>>,
    ) -> Result<Kept<Self>, CliError> {
        let question = ScoreQuestion::new(score).share_progress(&asked.progress());
        let (mut rows, basis): (Vec<Row>, String) = match asked.runs.as_slice() {
            // What several runs take to be put together is as large as the rows again.
            [run] => {
                let found = question.compute(run)?;
                let basis = Basis::describe_all([&found.basis]);
                let row = |row: ScoreRow| (row.example, row.score, row.label, row.prediction);
                (found.rows.into_iter().map(row).collect(), basis)
            }
            runs => {
                let found = question.compute_over(runs)?;
                let basis = found.basis_words();
                let row = |row: RunsRow| (row.example, row.score, row.label, row.prediction);
                (found.rows.into_iter().map(row).collect(), basis)
            }
        };
        rows.sort_unstable_by_key(|(example, ..)| *example);
        let values: Vec<f64> = rows.iter().map(|(_, score, ..)| *score).collect();
        let about = describe_score(score, &basis, values.iter().copied());
        let examples = Examples {
            ids: rows.iter().map(|(example, ..)| *example).collect(),
            labels: rows.iter().map(|(_, _, label, _)| label.unwrap_or(NO_LABEL)).collect(),
            predictions: rows.iter().map(|(.., prediction)| prediction.unwrap_or(NO_LABEL)).collect(),
        };
        drop(rows);
        let mut bytes = 8 * values.len() + about.to_string().len();
        let examples = match known.filter(|known| **known == examples) {
            Some(known) => known,
            None => {
                bytes += 16 * examples.ids.len();
                Arc::new(examples)
            }
        };
        Ok(Kept { value: Self { examples, values, about }, bytes })
    }

    fn value(&self, id: u64) -> f64 {
        self.examples.ids.binary_search(&id).map_or(f64::NAN, |at| self.values[at])
    }
}

/// By what rows are sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SortBy {
    Score(Score),
    Example,
    Label,
    Prediction,
}

/// Which rows of the table are wanted.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RowQuestion {
    /// The score that the range is of, and the first column.
    pub score: Score,
    /// The other columns.
    pub columns: Vec<Score>,
    pub sort: SortBy,
    pub is_descending: bool,
    from: f64,
    to: f64,
    /// Whether `to` itself is inside.
    includes_to: bool,
    text: String,
    label: Option<u32>,
    first: usize,
    count: usize,
}

fn score_named(name: &str) -> Result<Score, String> {
    Score::ALL.into_iter().find(|score| score.name() == name).ok_or_else(|| format!("there is no score `{name}`"))
}

impl RowQuestion {
    /// Reads what an address asks for.
    ///
    /// # Errors
    /// What it does not take.
    pub(crate) fn read(parameters: &mut Parameters) -> Result<Self, String> {
        let score = score_named(&parameters.need("score")?)?;
        let columns = parameters.take("columns").filter(|columns| !columns.is_empty());
        let columns = columns.map(|columns| columns.split(',').map(score_named).collect()).transpose()?;
        let sort = match parameters.take("sort").as_deref() {
            None => SortBy::Score(score),
            Some("example") => SortBy::Example,
            Some("label") => SortBy::Label,
            Some("prediction") => SortBy::Prediction,
            Some(name) => {
                let words = || "`sort` is example, label, prediction or the name of a score".to_owned();
                SortBy::Score(score_named(name).map_err(|_| words())?)
            }
        };
        let is_descending = match parameters.take("order").as_deref() {
            Some("down") => true,
            None | Some("up") => false,
            Some(_) => return Err("`order` is up or down".into()),
        };
        let count = parameters.number("count")?.unwrap_or(100);
        if count > ROWS_MAX {
            return Err(format!("`count` is at most {ROWS_MAX}"));
        }
        Ok(Self {
            score,
            columns: columns.unwrap_or_default(),
            sort,
            is_descending,
            from: parameters.number("from")?.unwrap_or(f64::NAN),
            to: parameters.number("to")?.unwrap_or(f64::NAN),
            includes_to: parameters.take("last").is_some(),
            text: parameters.take("text").unwrap_or_default(),
            label: parameters.number("label")?,
            first: parameters.number("first")?.unwrap_or(0),
            count,
        })
    }

    /// The score that rows are sorted by, or else the one that a range is of.
    pub(crate) fn sorting_score(&self) -> Score {
        match self.sort {
            SortBy::Score(score) => score,
            _ => self.score,
        }
    }

    /// A name for the order of the rows, whichever of them are shown.
    pub(crate) fn order_name(&self) -> String {
        let way = if self.is_descending { "down" } else { "up" };
        match self.sort {
            SortBy::Score(score) => format!("order/{}/{way}", score.name()),
            by => format!("order/{by:?}/{way}"),
        }
    }

    /// The places of all examples in the order that is asked for, by the column of [`Self::sorting_score`]. What has no
    /// number comes last, ties go by id.
    pub(crate) fn sort(&self, column: &ScoreColumn) -> Kept<Vec<u32>> {
        let examples = &column.examples;
        let mut order: Vec<u32> = (0..u32::try_from(examples.ids.len()).unwrap_or(u32::MAX)).collect();
        let turn = |found: Ordering| if self.is_descending { found.reverse() } else { found };
        let missing_last = |a: Option<f64>, b: Option<f64>| match (a, b) {
            (Some(a), Some(b)) => turn((a + 0.0).total_cmp(&(b + 0.0))),
            (a, b) => b.is_some().cmp(&a.is_some()),
        };
        let key = |at: u32| {
            let at = at as usize;
            match self.sort {
                SortBy::Score(_) => Some(column.values[at]).filter(|value| !value.is_nan()),
                SortBy::Label => examples.label(at).map(f64::from),
                SortBy::Prediction => examples.prediction(at).map(f64::from),
                SortBy::Example => None,
            }
        };
        match (self.sort, self.is_descending) {
            (SortBy::Example, false) => {}
            (SortBy::Example, true) => order.reverse(),
            _ => order.sort_unstable_by(|a, b| missing_last(key(*a), key(*b)).then(a.cmp(b))),
        }
        Kept { bytes: 4 * order.len(), value: order }
    }

    fn wants(&self, column: &ScoreColumn, at: usize) -> bool {
        let (value, examples) = (column.values[at], &column.examples);
        // The embedded page has the same rule; NaN bounds are no bounds.
        let too_low = value < self.from || (!self.from.is_nan() && value.is_nan());
        let too_high = match self.includes_to {
            true => value > self.to,
            false => value >= self.to,
        } || (!self.to.is_nan() && value.is_nan());
        !too_low
            && !too_high
            && self.label.is_none_or(|label| examples.label(at) == Some(label))
            && (self.text.is_empty() || examples.ids[at].to_string().contains(&self.text))
    }

    /// The page: how many rows there are, and those of it. `order` has places among the examples of `sorting`.
    pub(crate) fn page(
        &self,
        column: &ScoreColumn,
        (order, sorting): (&[u32], &ScoreColumn),
        others: &[Arc<ScoreColumn>],
    ) -> Value {
        let (mut total, mut rows) = (0usize, Vec::new());
        let is_same = Arc::ptr_eq(&column.examples, &sorting.examples);
        let place = |at: &u32| match is_same {
            true => Some(*at as usize),
            false => column.examples.ids.binary_search(&sorting.examples.ids[*at as usize]).ok(),
        };
        for at in order.iter().filter_map(place).filter(|at| self.wants(column, *at)) {
            if total >= self.first && rows.len() < self.count {
                let id = column.examples.ids[at];
                let mut values = Map::new();
                values.insert(self.score.name().into(), number(column.values[at]));
                for (score, other) in self.columns.iter().zip(others) {
                    values.insert(score.name().into(), number(other.value(id)));
                }
                rows.push(json!({
                    "id": id.to_string(),
                    "label": column.examples.label(at),
                    "prediction": column.examples.prediction(at),
                    "values": values,
                }));
            }
            total += 1;
        }
        json!({ "examples": order.len(), "total": total, "first": self.first, "rows": rows })
    }
}

/// A number as the command writes it into JSON.
fn number(value: f64) -> Value {
    match value.is_infinite() {
        true => json!(if value > 0.0 { "inf" } else { "-inf" }),
        false => json!(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::request::Request;

    fn column(values: &[f64], labels: &[u32]) -> ScoreColumn {
        let ids = (0..values.len() as u64).map(|at| 10 + at).collect();
        let examples = Examples { ids, labels: labels.to_vec(), predictions: vec![NO_LABEL; values.len()] };
        ScoreColumn { examples: Arc::new(examples), values: values.to_vec(), about: Value::Null }
    }

    fn ask(query: &[(&str, &str)]) -> RowQuestion {
        let parameters = query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let request = Request { method: "GET".into(), path: "/".into(), parameters, host: None };
        RowQuestion::read(&mut Parameters::new(&request).unwrap()).unwrap()
    }

    fn ids(query: &[(&str, &str)], of: &ScoreColumn) -> (u64, Vec<u64>) {
        let question = ask(&[&[("score", "loss")], query].concat());
        let page = question.page(of, (&question.sort(of).value, of), &[]);
        let rows = page["rows"].as_array().unwrap().iter();
        (page["total"].as_u64().unwrap(), rows.map(|row| row["id"].as_str().unwrap().parse().unwrap()).collect())
    }

    #[test]
    fn rows_are_sorted_with_what_has_no_number_last() {
        let of = column(&[2.0, f64::NAN, f64::INFINITY, -1.0, 2.0, -0.0], &[1, 0, NO_LABEL, 1, 0, 2]);
        assert_eq!(ids(&[], &of), (6, vec![13, 15, 10, 14, 12, 11]));
        assert_eq!(ids(&[("order", "down")], &of), (6, vec![12, 10, 14, 15, 13, 11]));
        assert_eq!(ids(&[("sort", "label")], &of), (6, vec![11, 14, 10, 13, 15, 12]));
        assert_eq!(ids(&[("sort", "label"), ("order", "down")], &of), (6, vec![15, 10, 13, 11, 14, 12]));
        assert_eq!(ids(&[("sort", "example"), ("order", "down")], &of).1, [15, 14, 13, 12, 11, 10]);
    }

    #[test]
    fn pages_together_are_the_whole() {
        let values: Vec<f64> = (0..103).map(|n| f64::from((n * 37) % 101)).collect();
        let of = column(&values, &[0; 103]);
        let mut all = Vec::new();
        for first in (0..103).step_by(10) {
            let (total, page) = ids(&[("first", &first.to_string()), ("count", "10")], &of);
            assert_eq!(total, 103);
            all.extend(page);
        }
        assert_eq!(all, ids(&[("count", "500")], &of).1);
        assert_eq!(ids(&[("first", "500")], &of), (103, vec![]));
    }

    #[test]
    fn filters_leave_what_they_name() {
        let of = column(&[2.0, f64::NAN, f64::INFINITY, -1.0, 2.0, 0.0], &[1, 0, NO_LABEL, 1, 0, 2]);
        assert_eq!(ids(&[("from", "0"), ("to", "2")], &of).1, [15]);
        assert_eq!(ids(&[("from", "0"), ("to", "2"), ("last", "")], &of).1, [15, 10, 14]);
        assert_eq!(ids(&[("from", "1")], &of).1, [10, 14, 12]);
        assert_eq!(ids(&[("label", "1")], &of).1, [13, 10]);
        assert_eq!(ids(&[("text", "5")], &of).1, [15]);
        let wrong = |name: &str, value: &str| {
            let pairs = vec![("score".to_owned(), "loss".to_owned()), (name.to_owned(), value.to_owned())];
            let request = Request { method: "GET".into(), path: "/".into(), parameters: pairs, host: None };
            RowQuestion::read(&mut Parameters::new(&request).unwrap()).unwrap_err()
        };
        for (name, value) in [("count", "501"), ("count", "-1"), ("sort", "x"), ("order", "x"), ("columns", "x")] {
            assert!(!wrong(name, value).is_empty());
        }
    }

    #[test]
    fn a_column_of_other_examples_sorts_those_that_both_have() {
        let of = column(&[5.0, 6.0, 7.0, 8.0], &[0; 4]);
        let examples = Examples { ids: vec![9, 11, 13], labels: vec![0; 3], predictions: vec![0; 3] };
        let sorting = ScoreColumn { examples: Arc::new(examples), values: vec![1.0, 3.0, 2.0], about: Value::Null };
        let question = ask(&[("score", "loss"), ("sort", "aum"), ("order", "down")]);
        let page = question.page(&of, (&question.sort(&sorting).value, &sorting), &[]);
        let row = |row: &Value| (row["id"].as_str().unwrap().to_owned(), row["values"]["loss"].as_f64().unwrap());
        let rows: Vec<(String, f64)> = page["rows"].as_array().unwrap().iter().map(row).collect();
        assert_eq!(rows, [("11".to_owned(), 6.0), ("13".to_owned(), 8.0)]);
    }

    #[test]
    fn infinite_numbers_keep_their_sign() {
        assert_eq!(
            [number(f64::INFINITY), number(f64::NEG_INFINITY), number(0.5)],
            [json!("inf"), json!("-inf"), json!(0.5)]
        );
    }

    #[test]
    fn columns_of_the_same_examples_hold_them_once_and_say_what_they_take() {
        let run = crate::tests::written(true);
        let run = run.run();
        let asked = Asked::quietly(vec![&run], Arc::new(|| false));
        let first = ScoreColumn::compute(&asked, Score::Loss, None).unwrap();
        let count = first.value.examples.ids.len();
        assert!(count > 20 && first.bytes >= 24 * count);
        let known = first.value.examples.clone();
        let second = ScoreColumn::compute(&asked, Score::Aum, Some(known.clone())).unwrap();
        assert!(Arc::ptr_eq(&second.value.examples, &known));
        let about = second.value.about.to_string().len();
        assert_eq!(second.bytes, 8 * count + about);
        // A list of examples from another state of the run is not used.
        let other = Arc::new(Examples { ids: vec![1], labels: vec![0], predictions: vec![0] });
        let third = ScoreColumn::compute(&asked, Score::Loss, Some(other)).unwrap();
        assert_eq!(*third.value.examples, *known);
    }
}

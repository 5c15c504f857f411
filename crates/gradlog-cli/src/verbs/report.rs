//! `gradlog report`: everything to look at, in one file for a browser.

use super::score_table::differing_labels;
use crate::arguments::EXIT_CODES;
use crate::error::CliError;
use crate::frame::{Asked, Content, Ending, Shown, Verb};
use crate::output::Destination;
use crate::page::assemble::write_page;
use crate::page::cards::{read_cards, Cards};
use crate::page::chosen::Chosen;
use crate::page::data::{self, Recorded, Source, Spec};
use crate::page::parts;
use crate::page::sheet::Budget;
use clap::Args;
use gradlog_format::run::Damage;
use serde_json::{Map, Value};
use std::io::{self, Write};
use std::path::PathBuf;

/// Write a page to look at: curves, suspects, the data map, what taught an answer, groups, scores
///
/// The page is one file without any reference to a network: a browser opens it from a folder, an e-mail or an artifact
/// store. In it one can judge examples by key or click (keep, relabel, drop). The judgments stay in the browser and
/// leave as `verdicts.csv` with the columns `id,label,proposed,verdict`.
///
/// --data says what the examples look like. Without it the page shows what the training program described
/// (`recorder.describe`), if it did. `idx:DIR` reads files as MNIST has them, gzipped or not: `train-...` for
/// the training examples, `t10k-...` for probes. `images:DIR/{id}.png` reads a PNG or JPEG file for each id;
/// `images:DIR/{set}/{id}.png` has the folder `train` for the training examples and one for each probe set.
/// `text:FILE.jsonl` reads objects `{"id": 7, "text": "...", "label": 1}`, one a line; `csv:FILE` a table with a
/// header. Their ids are the field or column `id`, without one the position from 0; `,id=line`, `,id=position` or
/// `,id=NAME` behind the file says otherwise. `SET=` in front gives the data of a probe set, as in `test=csv:FILE`.
///
/// Of several runs on the same training set, curves are shown side by side, scores, suspects and the map are means over
/// runs, and everything else is of the first run.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    /// Folder of the run, or of several runs on the same training set
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Write the page to this file, which appears when it is whole
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// What the examples look like: [SET=]idx:DIR, images:DIR/{id}.png, text:FILE.jsonl or csv:FILE
    #[arg(long, value_name = "DATA")]
    data: Vec<Spec>,
    /// The most probes of a set whose influence is in the page: those with wrong answers and high losses first
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    probes: u32,
}

/// The parts of a page, and what is said of it.
pub(crate) struct Page {
    parts: Vec<(&'static str, Value)>,
    title: String,
    words: Vec<String>,
    damage: Vec<Damage>,
}

impl Verb for Arguments {
    type Answer<'run> = Page;

    fn runs(&self) -> &[PathBuf] {
        &self.runs
    }

    fn destination(&self) -> Destination<'_> {
        Destination { out: Some(&self.out), ..Destination::stdout() }
    }

    fn check(&self) -> Result<(), CliError> {
        data::refuse_doubles(&self.data)
    }

    fn ask<'run>(&self, asked: &Asked<'run>) -> Result<Page, CliError> {
        // What is wrong with the data is said before minutes of reading.
        data::refuse_unknown_sets(&self.data, asked.run())?;
        let train = data::open(&self.data, None)?;
        asked.start("reading", 30);
        let head = parts::head_part(asked)?;
        let mut chosen = Chosen::default();
        let suspects = parts::or_reason(parts::suspects_part(asked, &mut chosen))?;
        let groups = parts::groups_part(asked, &mut chosen, head.first.examples)?;
        let probes = parts::probes_part(asked, &mut chosen, self.probes as usize)?;
        let scores = parts::scores_part(asked, &mut chosen)?;
        chosen.name(scores.ids.iter().copied());
        let curves = parts::or_reason(parts::curves_part(asked))?;
        let map = parts::or_reason(parts::map_part(asked, head.first.examples))?;
        let visits_each = head.first.visits as f64 / head.first.examples.max(1) as f64;
        let histories = parts::or_reason(parts::read_histories(asked, chosen.ids(), visits_each))?;

        let mut budget = Budget::new();
        let (mut cards, mut words) = (Map::new(), Vec::new());
        let (differing, first) = &scores.labels_differ;
        words.extend(differing_labels(*differing, first));
        // The probes are few, so that they come first.
        for (set, ids, labels) in &probes.sets {
            if let Some(source) = self.source(asked, Some(set), ids)? {
                let what = format!("probes of `{set}`");
                let Cards { part, notes } = read_cards(source.as_ref(), &what, ids, labels, &mut budget)?;
                words.extend(notes);
                cards.insert(format!("probe:{set}"), part);
            } else if !self.data.is_empty() {
                words.push(format!("note: there is no data for the probe set `{set}`: give --data {set}=..."));
            }
        }
        let train = match train {
            None => self.source(asked, None, chosen.ids())?,
            given => given,
        };
        if let Some(source) = &train {
            let what = "training examples";
            let Cards { part, notes } = read_cards(source.as_ref(), what, chosen.ids(), &scores.labels, &mut budget)?;
            words.extend(notes);
            cards.insert("train".into(), part);
        }
        let (head_part, title) = (head.finish(asked, &words)?, head.name().to_owned());
        let parts = vec![
            ("head", head_part),
            ("curves", curves),
            ("suspects", suspects),
            ("map", map),
            ("probes", probes.part),
            ("groups", groups.part),
            ("scores", scores.part),
            ("histories", histories),
            ("cards", cards.into()),
        ];
        Ok(Page { parts, title: format!("{title}: gradlog"), words, damage: head.damage })
    }

    fn show<'run>(&'run self, _asked: &'run Asked<'run>, page: Page) -> Result<Shown<'run>, CliError> {
        let Page { parts, title, words, damage } = page;
        let content = Content::Written(Box::new(move |out| {
            let mut counted = Counted { out, bytes: 0 };
            write_page(&mut counted, &title, &parts)?;
            let megabytes = counted.bytes as f64 / 1e6;
            let words = format!("{}: {megabytes:.1} MB; open it in a browser", self.out.display());
            Ok(Ending { words: Some(words), damage: None })
        }));
        Ok(Shown { words, content, damage, ..Shown::default() })
    }
}

impl Arguments {
    /// What shows the training examples or the probes of a set: the data that is given, or what the runs recorded.
    fn source(&self, asked: &Asked<'_>, set: Option<&str>, ids: &[u64]) -> Result<Option<Box<dyn Source>>, CliError> {
        if let Some(source) = data::open(&self.data, set)? {
            return Ok(Some(source));
        }
        let recorded = Recorded::read(&asked.runs, set, ids)?;
        Ok(recorded.map(|recorded| Box::new(recorded) as Box<dyn Source>))
    }
}

/// Counts what is written.
struct Counted<'a> {
    out: &'a mut dyn Write,
    bytes: u64,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

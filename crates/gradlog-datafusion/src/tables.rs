//! A run as a set of tables and table functions, for a DataFusion session.

use crate::influence::InfluenceFunction;
use crate::outline::Outline;
use crate::record_table::RecordTable;
use crate::scores::ScoresFunction;
use crate::{aggregates, SqlError};
use datafusion::error::Result;
use datafusion::prelude::SessionContext;
use gradlog_arrow::Record;
use gradlog_format::run::{Damage, Run};
use std::sync::{Arc, Mutex, PoisonError};

/// The tables and functions of a run.
///
/// ```no_run
/// use datafusion::prelude::SessionContext;
/// use gradlog_datafusion::RunTables;
///
/// # async fn ask() -> Result<(), Box<dyn std::error::Error>> {
/// let tables = RunTables::new(gradlog_format::run::Run::open("runs/mnist")?)?;
/// let context = SessionContext::new();
/// tables.register(&context)?;
/// context.sql("select epoch, avg(loss) from visits group by epoch order by epoch").await?.show().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct RunTables(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    run: Arc<Run>,
    outline: Arc<Outline>,
    options: Options,
    words: Mutex<Vec<String>>,
    /// What the run held when this was first asked.
    #[cfg(feature = "cluster")]
    state: std::sync::OnceLock<gradlog_format::run::RunState>,
}

#[derive(Debug, Clone, Copy)]
struct Options {
    /// The first block that is not read.
    until: Option<u64>,
    shares: u32,
    /// Whether a worker reads them for somebody else.
    are_of_worker: bool,
}

impl RunTables {
    /// The tables of a run, as it is now: what is recorded later is in none of them. Scores and influence read the run
    /// as it is when they are asked.
    ///
    /// # Errors
    /// [`SqlError::Read`] if the file system refuses. Damage is an error when a table is read.
    ///
    /// # Cost
    /// Reads the headers of all blocks, and keeps some 60 bytes of each.
    pub fn new(run: Run) -> Result<Self, SqlError> {
        let outline = Outline::read(&run).map_err(SqlError::from)?;
        let options = Options { until: None, shares: 1, are_of_worker: false };
        Ok(Self::with(Arc::new(run), Arc::new(outline), options))
    }

    fn with(run: Arc<Run>, outline: Arc<Outline>, options: Options) -> Self {
        Self(Arc::new(Inner {
            run,
            outline,
            options,
            words: Mutex::default(),
            #[cfg(feature = "cluster")]
            state: std::sync::OnceLock::new(),
        }))
    }

    /// The tables of what was written before some damage. Reading them is an error again where a column of an earlier
    /// block is damaged. `None` if nothing is known to come before, or these are such tables already.
    pub fn before(&self, damage: &Damage) -> Option<Self> {
        let Options { until, .. } = self.0.options;
        let until = damage.block.filter(|block| until.is_none_or(|until| *block < until))?;
        let outline = Arc::new(self.0.outline.before(until));
        Some(Self::with(self.0.run.clone(), outline, Options { until: Some(until), ..self.0.options }))
    }

    /// Cuts the plans of scores and influence into this many shares of the examples, of which each is a partition.
    /// By default there is one, which uses all threads. Of a run that is not compacted, each share reads all blocks.
    #[must_use]
    pub fn with_shares(&self, shares: u32) -> Self {
        let options = Options { shares: shares.max(1), ..self.0.options };
        Self::with(self.0.run.clone(), self.0.outline.clone(), options)
    }

    /// The same tables, which a worker reads for somebody else.
    #[cfg(feature = "cluster")]
    pub(crate) fn of_worker(&self) -> Self {
        let options = Options { are_of_worker: true, ..self.0.options };
        Self::with(self.0.run.clone(), self.0.outline.clone(), options)
    }

    /// Which run it is, and which blocks it has.
    #[cfg(feature = "cluster")]
    pub(crate) fn state(&self) -> Result<gradlog_format::run::RunState, SqlError> {
        if let Some(state) = self.0.state.get() {
            return Ok(*state);
        }
        let state = self.0.run.state().map_err(SqlError::from)?;
        Ok(*self.0.state.get_or_init(|| state))
    }

    /// Adds the tables and functions to a session: a table for each [`Record`], the table functions `scores` and
    /// `influence`, and the aggregate functions.
    ///
    /// # Errors
    /// What DataFusion says, such as of a table of the same name.
    pub fn register(&self, context: &SessionContext) -> Result<()> {
        for record in Record::ALL {
            context.register_table(record.name(), Arc::new(RecordTable::new(self.clone(), record)?))?;
        }
        context.register_udtf("scores", Arc::new(ScoresFunction::new(self.clone())));
        context.register_udtf("influence", Arc::new(InfluenceFunction::new(self.clone())));
        aggregates::register(context);
        Ok(())
    }

    /// The run.
    pub fn run(&self) -> &Arc<Run> {
        &self.0.run
    }

    /// What answers rest on and leave out, in words, since this was last called.
    pub fn take_words(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.words.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Keeps words that are not kept yet.
    pub(crate) fn say(&self, words: impl IntoIterator<Item = String>) {
        let mut all = self.0.words.lock().unwrap_or_else(PoisonError::into_inner);
        for word in words {
            if !all.contains(&word) {
                all.push(word);
            }
        }
    }

    pub(crate) fn are_of_worker(&self) -> bool {
        self.0.options.are_of_worker
    }

    pub(crate) fn outline(&self) -> &Outline {
        &self.0.outline
    }

    pub(crate) fn shares(&self) -> u32 {
        self.0.options.shares
    }

    /// Refuses to read a damaged run, unless the tables end before the damage.
    pub(crate) fn refuse_damage(&self, damage: Option<&Damage>) -> Result<(), SqlError> {
        let is_known =
            |damage: &&Damage| damage.block.zip(self.0.options.until).is_some_and(|(block, until)| block >= until);
        match damage {
            Some(damage) if !is_known(&damage) => Err(SqlError::Damaged(damage.clone())),
            _ => Ok(()),
        }
    }

    /// Refuses to go on with a run of several workers that has changed since it was opened.
    pub(crate) fn refuse_change(&self) -> Result<(), SqlError> {
        match &self.0.outline.state {
            Some(before) if self.0.run.state().map_err(SqlError::from)? != *before => Err(self.changed()),
            _ => Ok(()),
        }
    }

    pub(crate) fn changed(&self) -> SqlError {
        SqlError::Changed { path: self.0.run.dir().to_owned() }
    }
}

//! The side that asks: which workers there are, and what becomes of a query when one dies.

use super::channels::Channels;
use super::codec::NodeCodec;
use super::runs::Runs;
use super::{split, VERSION};
use crate::rows::SAID;
use crate::SqlError;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SessionStateBuilder;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion_distributed::{
    rewrite_distributed_plan_with_metrics, ChannelResolver, DistributedExt, DistributedMetricsFormat,
    GetWorkerInfoRequest, SessionStateBuilderExt, WorkerResolver,
};
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// How long a worker has to say who it is.
const HELLO: Duration = Duration::from_secs(10);
/// How long words of workers are waited for when the rows are there.
const WORDS: Duration = Duration::from_secs(10);

/// Some workers.
#[derive(Debug, Clone)]
pub(crate) struct Cluster {
    workers: Vec<Url>,
    /// How often a query is asked again while no worker is missing: a supervisor may have started one anew.
    retries: usize,
}

struct Workers(Vec<Url>);

impl WorkerResolver for Workers {
    fn get_urls(&self) -> Result<Vec<Url>> {
        Ok(self.0.clone())
    }
}

impl Cluster {
    /// Workers by their addresses: `http://HOST:PORT`, or `HOST:PORT`.
    pub fn new(addresses: &[String]) -> Result<Self, SqlError> {
        let mut workers = Vec::new();
        for address in addresses {
            let whole = if address.contains("://") { address.clone() } else { format!("http://{address}") };
            let worker = Url::parse(&whole).ok().filter(|url| url.scheme() == "http" && url.host().is_some());
            let refusal = |what: &str| SqlError::Cluster { what: format!("worker `{address}`: {what}") };
            let worker = worker.ok_or_else(|| refusal("this is no address; write http://HOST:PORT"))?;
            if workers.contains(&worker) {
                return Err(refusal("it is there twice"));
            }
            workers.push(worker);
        }
        if workers.is_empty() {
            return Err(SqlError::Cluster { what: "there are no workers: name one or more".into() });
        }
        Ok(Self { retries: workers.len(), workers })
    }

    /// Into how many shares a question is cut: one for each worker, and two at least. The planner takes a stage of one
    /// task for one that needs no worker.
    pub fn shares(&self) -> usize {
        self.workers.len().max(2)
    }

    /// An error unless all workers are there, with the version of this program.
    pub async fn check(&self) -> Result<(), SqlError> {
        for (worker, said) in self.workers.iter().zip(self.hello().await) {
            let what = match said {
                Ok(version) if version == VERSION => continue,
                Ok(version) => {
                    let version = if version.is_empty() { "something else".to_owned() } else { version };
                    format!("worker {worker} is {version}, and this is {VERSION}: run one version everywhere")
                }
                Err(why) => format!(
                    "worker {worker} does not answer: {why}; start it with `gradlog-sql worker`, or leave it out"
                ),
            };
            return Err(SqlError::Cluster { what });
        }
        Ok(())
    }

    /// What each worker says it is.
    async fn hello(&self) -> Vec<Result<String, String>> {
        // Not through connections of a query, which may be broken.
        let channels = Channels::default();
        let all = self.workers.iter().map(|worker| {
            let channels = channels.clone();
            async move {
                let asked = async {
                    channels.get_worker_client_for_url(worker).await?.get_worker_info(GetWorkerInfoRequest {}).await
                };
                match tokio::time::timeout(HELLO, asked).await {
                    Ok(Ok(info)) => Ok(info.version),
                    Ok(Err(error)) => Err(innermost(&error)),
                    Err(_) => Err(format!("no answer within {} s", HELLO.as_secs())),
                }
            }
        });
        futures_util::future::join_all(all).await
    }

    /// After a query failed: whether it should be asked again, and the words for that. Workers that do not answer are
    /// left out from then on.
    ///
    /// # Errors
    /// If no worker is left.
    pub async fn ask_again(&mut self, error: &DataFusionError) -> Result<Option<String>, SqlError> {
        let said = self.hello().await;
        let is_dead = |said: &Result<String, String>| said.as_deref() != Ok(VERSION);
        let dead: Vec<String> =
            self.workers.iter().zip(&said).filter(|(_, said)| is_dead(said)).map(|(url, _)| url.to_string()).collect();
        let mut alive = said.iter().map(|said| !is_dead(said));
        self.workers.retain(|_| alive.next().unwrap_or_default());
        if self.workers.is_empty() {
            let what = format!("no worker is left: {} stopped answering. Start them again", dead.join(", "));
            return Err(SqlError::Cluster { what });
        }
        if !dead.is_empty() {
            let left = self.workers.len();
            return Ok(Some(format!("{} stopped answering; asked again of the other {left}", dead.join(", "))));
        }
        if self.retries > 0 && is_of_network(error) {
            self.retries -= 1;
            return Ok(Some("the connection to a worker broke; asked again".into()));
        }
        Ok(None)
    }

    /// A session whose queries go to the workers, with this many partitions; by default as many for each worker as
    /// there are cores here.
    pub fn state(&self, config: SessionConfig, partitions: Option<usize>) -> Result<SessionStateBuilder> {
        let each = config.target_partitions();
        let config = config.with_target_partitions(partitions.unwrap_or(each.saturating_mul(self.shares())));
        SessionStateBuilder::new()
            .with_config(config)
            .with_distributed_planner()
            .with_distributed_worker_resolver(Workers(self.workers.clone()))
            .with_distributed_channel_resolver(Channels::default())
            .with_distributed_user_codec(NodeCodec::new(Arc::new(Runs::new("of the client".into()))))
            .with_distributed_desired_task_count_handler(split::tasks)
            .with_distributed_scale_up_leaf_node_handler(split::scale_up)
            .with_distributed_max_tasks_per_stage(self.shares())
    }

    /// What nodes in workers said of an answer that is whole.
    pub async fn said(&self, plan: Arc<dyn ExecutionPlan>) -> Vec<String> {
        let rewritten = rewrite_distributed_plan_with_metrics(plan, DistributedMetricsFormat::PerTask);
        let mut words = Vec::new();
        match tokio::time::timeout(WORDS, rewritten).await {
            Ok(Ok(plan)) => collect(&plan, &mut words),
            _ => words.push("note: a worker did not say what its rows rest on and leave out".into()),
        }
        words
    }

    /// A session without tables.
    pub fn context(&self) -> Result<SessionContext> {
        Ok(SessionContext::new_with_state(self.state(SessionConfig::new(), None)?.with_default_features().build()))
    }
}

fn collect(plan: &Arc<dyn ExecutionPlan>, words: &mut Vec<String>) {
    for metric in plan.metrics().iter().flat_map(|metrics| metrics.iter()) {
        let said = metric.labels().iter().filter(|label| label.name() == SAID).map(|label| label.value().to_owned());
        words.extend(said);
    }
    plan.children().into_iter().for_each(|child| collect(child, words));
}

/// Whether an error is of a connection. What a worker itself says comes as an error of DataFusion.
fn is_of_network(error: &DataFusionError) -> bool {
    causes(error).any(|error| error.is::<tonic::Status>() || error.is::<tonic::transport::Error>())
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| (**error).source())
}

/// The words of the cause of all.
fn innermost(error: &DataFusionError) -> String {
    causes(error).last().map(ToString::to_string).unwrap_or_default()
}

//! The side that answers: a server that runs stages of plans.

use super::caught::caught;
use super::channels::Channels;
use super::codec::NodeCodec;
use super::runs::Runs;
use super::{split, VERSION};
use crate::aggregates;
use datafusion::common::plan_err;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::sink::DataSinkExec;
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::physical_plan::{displayable, ExecutionPlan};
use datafusion_distributed::{
    DistributedExt, DistributedTaskContext, Worker, WorkerPlanRewriteEvent, WorkerPlanRewriteEventResponse,
    WorkerQueryContext,
};
use gradlog_cli::shared::{printable, Refusal};
use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use tonic::transport::server::TcpIncoming;
use tonic::transport::Server;

/// The longest message that a worker takes: a plan. Rows come as answers of other workers.
const PLAN_BYTES_MAX: usize = 128 << 20;

type Words = Arc<Mutex<dyn Write + Send>>;

/// Answers until the process ends.
///
/// # Errors
/// If nothing can listen there.
pub(crate) fn serve(
    listen: SocketAddr,
    memory_bytes: usize,
    words: impl Write + Send + 'static,
) -> Result<(), Refusal> {
    let failed = |what: String| Refusal { code: 1, words: what };
    let threads = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let threads = threads.map_err(|error| failed(format!("cannot start threads: {error}")))?;
    threads.block_on(async {
        let cannot = |error: &dyn std::fmt::Display| failed(format!("cannot listen on {listen}: {error}"));
        let incoming = TcpIncoming::bind(listen).map_err(|error| cannot(&error))?.with_nodelay(Some(true));
        let own = incoming.local_addr().map_err(|error| cannot(&error))?;
        let words: Words = Arc::new(Mutex::new(words));
        say(&words, &format!("listening on http://{own}"));
        if !own.ip().is_loopback() {
            say(
                &words,
                "warning: anyone who can connect to this address can read every run that this process can read",
            );
        }
        let worker = worker(own, memory_bytes, words).map_err(|error| failed(error.to_string()))?;
        let service = worker.into_worker_server().max_decoding_message_size(PLAN_BYTES_MAX);
        let served = Server::builder().add_service(service).serve_with_incoming(incoming).await;
        served.map_err(|error| failed(format!("the server on {own} ended: {error}")))
    })
}

fn worker(own: SocketAddr, memory_bytes: usize, words: Words) -> Result<Worker> {
    let runs = Arc::new(Runs::new(own.to_string()));
    let channels = Channels::default();
    let builder = move |query: WorkerQueryContext| {
        let (runs, channels, words) = (runs.clone(), channels.clone(), words.clone());
        let name = own.to_string();
        async move {
            let begin = move |event: WorkerPlanRewriteEvent<'_>| begin(event, &words, &name);
            let mut state = query
                .builder
                .with_distributed_channel_resolver(channels)
                .with_distributed_user_codec(NodeCodec::new(runs))
                .with_distributed_worker_plan_rewrite_handler(begin)
                .build();
            aggregates::register_in(&mut state)?;
            Ok::<_, DataFusionError>(state)
        }
    };
    let runtime = RuntimeEnvBuilder::new().with_memory_limit(memory_bytes, 1.0).build()?;
    Ok(Worker::from_session_builder(builder).with_runtime_env(Arc::new(runtime)).with_version(VERSION))
}

/// Refuses a plan that does more than read runs, says which one begins, and makes its panics errors.
fn begin(event: WorkerPlanRewriteEvent<'_>, words: &Words, name: &str) -> Result<WorkerPlanRewriteEventResponse> {
    refuse_files(&event.plan)?;
    let mut leaves = Vec::new();
    name_leaves(&event.plan, &mut leaves);
    let task = event.session_config.get_extension::<DistributedTaskContext>();
    let (number, of) = task.map_or((1, 1), |task| (task.task_index + 1, task.task_count));
    say(words, &format!("task {number} of {of} begins: {}", leaves.join("; ")));
    Ok(WorkerPlanRewriteEventResponse::new(caught(event.plan, name)?))
}

/// A plan may come from anybody who reaches the port, and DataFusion has nodes that read and write files.
pub(super) fn refuse_files(plan: &Arc<dyn ExecutionPlan>) -> Result<()> {
    let is_file = |source: &DataSourceExec| source.data_source().downcast_ref::<MemorySourceConfig>().is_none();
    if plan.is::<DataSinkExec>() || plan.downcast_ref::<DataSourceExec>().is_some_and(is_file) {
        return plan_err!("a worker of gradlog reads runs alone, and writes nothing: {}", plan.name());
    }
    plan.children().into_iter().try_for_each(refuse_files)
}

fn name_leaves(plan: &Arc<dyn ExecutionPlan>, leaves: &mut Vec<String>) {
    if split::deal(plan, 1).is_some() {
        leaves.push(displayable(plan.as_ref()).one_line().to_string().trim().to_owned());
    } else if plan.children().is_empty() {
        leaves.push(plan.name().to_owned());
    }
    plan.children().into_iter().for_each(|child| name_leaves(child, leaves));
}

fn say(words: &Words, line: &str) {
    let mut words = words.lock().unwrap_or_else(PoisonError::into_inner);
    // Words that nobody can read are no reason to fail.
    let _ = writeln!(words, "{}", printable(line)).and_then(|()| words.flush());
}

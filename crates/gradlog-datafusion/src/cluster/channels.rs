//! Connections to workers.

use async_trait::async_trait;
use datafusion::error::{DataFusionError, Result};
use datafusion_distributed::grpc::{create_worker_client, BoxCloneSyncChannel};
use datafusion_distributed::{ChannelResolver, WorkerChannel};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tonic::transport::Channel;
use url::Url;

/// How long a worker has to take a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// A worker that was silent for the first is asked whether it is there, and has the second to answer. It answers while
/// it computes.
const SILENT: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(20));

/// One connection to each worker, made when it is first used. Without signs of life it becomes an error, so that a
/// query does not wait for a machine that is gone.
#[derive(Clone, Default)]
pub(super) struct Channels(Arc<Mutex<HashMap<Url, BoxCloneSyncChannel>>>);

#[async_trait]
impl ChannelResolver for Channels {
    async fn get_worker_client_for_url(&self, url: &Url) -> Result<Box<dyn WorkerChannel>> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = known.get(url) {
            return Ok(create_worker_client(channel.clone()));
        }
        let endpoint = Channel::from_shared(url.to_string());
        let endpoint = endpoint.map_err(|error| DataFusionError::Configuration(format!("worker {url}: {error}")))?;
        let channel = endpoint
            .connect_timeout(CONNECT)
            .http2_keep_alive_interval(SILENT.0)
            .keep_alive_timeout(SILENT.1)
            .keep_alive_while_idle(true)
            .connect_lazy();
        let channel = BoxCloneSyncChannel::new(channel);
        known.insert(url.clone(), channel.clone());
        Ok(create_worker_client(channel))
    }
}

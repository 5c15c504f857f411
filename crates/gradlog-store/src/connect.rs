//! The client of an object store, with addresses and credentials from environment variables.

use crate::address::Address;
use crate::error::{refusal, StoreError};
use crate::options::Options;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::http::HttpBuilder;
use object_store::{BackoffConfig, ClientConfigKey, ObjectStore, ObjectStoreScheme, RetryConfig};
use std::sync::Arc;
use std::time::Duration;
use url::Position;

/// The store of an address. `retries` is how often a request is tried again.
///
/// Variables: `AWS_*`, `GOOGLE_*`, `AZURE_*`, as object_store reads them. [`Options::settings`] come after them.
pub(crate) fn connect(
    address: &Address,
    options: &Options,
    retries: usize,
) -> Result<Arc<dyn ObjectStore>, StoreError> {
    let backoff = BackoffConfig { init_backoff: Duration::from_millis(100), ..BackoffConfig::default() };
    let retry = RetryConfig { backoff, max_retries: retries, retry_timeout: options.give_up_after };
    let url = address.url.as_str();
    macro_rules! build {
        ($builder:expr, $key:ty, $client:path, $prefix:expr) => {{
            let mut builder = $builder.with_url(url).with_retry(retry);
            for (name, value) in &options.settings {
                if let Ok(key) = name.to_ascii_lowercase().parse::<$key>() {
                    builder = builder.with_config(key, value);
                }
            }
            for (key, value) in client_settings(options, $prefix) {
                builder = builder.with_config($client(key), value);
            }
            builder.build().map(|store| Arc::new(store) as Arc<dyn ObjectStore>)
        }};
    }
    let built = match address.scheme {
        ObjectStoreScheme::AmazonS3 => {
            build!(AmazonS3Builder::from_env(), AmazonS3ConfigKey, AmazonS3ConfigKey::Client, "AWS_")
        }
        ObjectStoreScheme::GoogleCloudStorage => {
            build!(GoogleCloudStorageBuilder::from_env(), GoogleConfigKey, GoogleConfigKey::Client, "GOOGLE_")
        }
        ObjectStoreScheme::MicrosoftAzure => {
            build!(MicrosoftAzureBuilder::from_env(), AzureConfigKey, AzureConfigKey::Client, "AZURE_")
        }
        ObjectStoreScheme::Http => {
            let mut builder = HttpBuilder::new().with_url(&address.url[..Position::BeforePath]).with_retry(retry);
            for (key, value) in client_settings(options, "") {
                builder = builder.with_config(key, value);
            }
            builder = builder.with_config(ClientConfigKey::AllowHttp, "true");
            builder.build().map(|store| Arc::new(store) as Arc<dyn ObjectStore>)
        }
        _ => {
            let what = format!("its kind is not known: {}", crate::SCHEMES);
            return Err(StoreError::Address { address: address.root.clone(), what });
        }
    };
    built.map_err(|error| StoreError::Request { action: "use", path: address.root.clone(), error: refusal(&error) })
}

fn client_settings(options: &Options, prefix: &str) -> Vec<(ClientConfigKey, String)> {
    let milliseconds = |time: Duration| format!("{} ms", time.as_millis().max(1));
    let mut settings = vec![
        (ClientConfigKey::Timeout, milliseconds(options.request_timeout)),
        (ClientConfigKey::ConnectTimeout, milliseconds(options.connect_timeout)),
    ];
    // Plain HTTP is for servers of one's own, whose address somebody gave.
    if !prefix.is_empty() && has_plain_endpoint(options, prefix) {
        settings.push((ClientConfigKey::AllowHttp, "true".into()));
    }
    settings
}

/// Whether an environment variable with this prefix, or a setting, names an endpoint by `http://`.
fn has_plain_endpoint(options: &Options, prefix: &str) -> bool {
    let plain = |name: &str, value: &str| {
        let name = name.to_ascii_uppercase();
        name.starts_with(prefix) && name.contains("ENDPOINT") && value.starts_with("http://")
    };
    options.settings.iter().any(|(name, value)| plain(name, value))
        || std::env::vars_os().any(|(name, value)| match (name.to_str(), value.to_str()) {
            (Some(name), Some(value)) => plain(name, value),
            _ => false,
        })
}

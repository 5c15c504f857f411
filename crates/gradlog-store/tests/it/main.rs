//! Runs in a store that speaks S3, on the loopback address: read, copied, and with every kind of failure.

mod costs;
mod faults;
mod http;
mod reading;
mod server;
mod support;
mod syncing;

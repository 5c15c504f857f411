//! Bounds of what a store may use and wait for.

use std::time::Duration;

/// What bounds requests, waiting and memory. Every wait of this crate ends within [`Options::give_up_after`], and no
/// memory grows beyond [`Options::cache_bytes`] and [`Options::in_flight_max`] times [`Options::request_bytes`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// How long to wait for a connection. Default 5 s.
    pub connect_timeout: Duration,
    /// How long one attempt at a request may take, its body included. Then it is tried again. Default 30 s.
    pub request_timeout: Duration,
    /// How often a request is tried again after an error of the server (status 5xx, 429), of the network, or a
    /// timeout. The waits between are 0.1 s, doubled each time, and random. Default 8.
    pub retries: usize,
    /// When a request is given up, with all its attempts and waits. Default 2 minutes.
    pub give_up_after: Duration,
    /// How many requests are on their way at a time, reading ahead included. Default 16.
    pub in_flight_max: usize,
    /// The longest range that one request asks for, and the length of the parts of an upload. Default 4 MiB; at least
    /// one page of 256 KiB.
    pub request_bytes: u64,
    /// How much of what was read is kept for the next reads. Reading ahead takes at most half of it. Default 128 MiB.
    pub cache_bytes: u64,
    /// Names and values that count more than environment variables of the same names, such as `AWS_ENDPOINT_URL` or
    /// `AWS_REGION`. Default none.
    pub settings: Vec<(String, String)>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(30),
            retries: 8,
            give_up_after: Duration::from_secs(120),
            in_flight_max: 16,
            request_bytes: 4 << 20,
            cache_bytes: 128 << 20,
            settings: Vec::new(),
        }
    }
}

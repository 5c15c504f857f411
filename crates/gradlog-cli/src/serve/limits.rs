//! What one client, one question and all of them together may take. `docs/serve.md` states these numbers.

use std::time::Duration;

/// Connections at a time. Beyond them the one that has sent no whole request for longest is closed.
pub(crate) const CONNECTIONS_MAX: usize = 64;
/// Bytes of a request: its address and its headers.
pub(crate) const HEAD_BYTES_MAX: usize = 8 << 10;
/// Bytes of an address.
pub(crate) const ADDRESS_BYTES_MAX: usize = 4 << 10;
/// Headers of a request.
pub(crate) const HEADERS_MAX: usize = 64;
/// How long a client may take to send its request.
pub(crate) const HEAD_WAIT: Duration = Duration::from_secs(5);
/// How long a client may take to receive its answer.
pub(crate) const ANSWER_WAIT: Duration = Duration::from_secs(60);

/// Quick questions that are answered at a time: single examples, pictures, pages of a table.
pub(crate) const QUICK_RUNNING_MAX: usize = 4;
/// Quick questions that wait.
pub(crate) const QUICK_WAITING_MAX: usize = 24;
/// Long questions that are answered at a time: influence, whole panels, columns of scores.
pub(crate) const LONG_RUNNING_MAX: usize = 2;
/// Long questions that wait.
pub(crate) const LONG_WAITING_MAX: usize = 12;

/// Answers that are kept, whatever their size.
pub(crate) const ANSWERS_MAX: usize = 4096;

/// Rows of a page of the table.
pub(crate) const ROWS_MAX: usize = 500;
/// Examples whose pictures, labels or visits one request asks for.
pub(crate) const IDS_MAX: usize = 200;
/// Examples whose recorded labels are compared with those of the data.
pub(crate) const COMPARED_MAX: usize = 1000;
/// Proponents and opponents of one answer, each.
pub(crate) const TOP_MAX: u64 = 1000;
/// Probes of a set on the wall; any other can be asked for by its id.
pub(crate) const WALL_MAX: usize = 2000;

/// Examples that are ranked by suspicion: half a kilobyte each.
pub(crate) const SUSPECTS_EXAMPLES_MAX: u64 = 2_000_000;

/// How long the state of a run is taken for what it was, at least. Reading it anew takes at most a tenth of the time.
pub(crate) const STATE_AGE: Duration = Duration::from_secs(1);

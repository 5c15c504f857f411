//! How much goes into a page. Each limit keeps it small enough to send and to open; the page says what it left out.

/// Suspects with their reasons: about 400 bytes each, and more than somebody judges in a day.
pub(crate) const SUSPECTS_MAX: usize = 1000;

/// Events of the guard, half of them the first and half the last: 200 bytes each.
pub(crate) const EVENTS_MAX: usize = 200;

/// Proponents and opponents of a probe, each.
pub(crate) const ENDS: usize = 12;

/// Probes of a set whose influence is also split by epoch and by layer and set beside its nearest neighbors.
pub(crate) const DETAILED_PROBES_MAX: usize = 100;

/// Scores that are held to find the nearest neighbors of probes: 160 MB.
pub(crate) const DISTANCE_SCORES_MAX: usize = 20_000_000;

/// Points of the map: 12 bytes each, and more than a screen can tell apart.
pub(crate) const MAP_POINTS_MAX: usize = 200_000;

/// Rows of the table of scores: 50 bytes each.
pub(crate) const TABLE_ROWS_MAX: usize = 20_000;

/// Visits in the curves of single examples: 23 bytes each.
pub(crate) const VISITS_MAX: usize = 100_000;

/// Examples whose gradients are compared: 2 kB each in memory.
pub(crate) const VECTORS_MAX: u64 = 100_000;

/// Numbers in a gradient that is compared.
pub(crate) const VECTOR_LENGTH: usize = 512;

/// Examples among which near-duplicates are sought: every one is compared with every other.
pub(crate) const DUPLICATES_EXAMPLES_MAX: usize = 20_000;

/// Pairs of near-duplicates, and the least cosine of their gradients.
pub(crate) const DUPLICATES_MAX: usize = 60;
/// Gradients this alike are those of nearly the same example.
pub(crate) const DUPLICATES_COSINE: f32 = 0.95;

/// Clusters, and examples of each that are shown.
pub(crate) const CLUSTERS: usize = 20;
/// Nearest to the center.
pub(crate) const CLUSTER_MEMBERS: usize = 16;
/// Rounds of k-means that are allowed.
pub(crate) const CLUSTER_ROUNDS: usize = 100;

/// Neighbors by gradient of a suspect.
pub(crate) const NEIGHBORS: usize = 8;
/// Suspects that get their neighbors: one pass over all vectors each.
pub(crate) const NEIGHBORS_OF_MAX: usize = 300;

/// Examples of a map: half a kilobyte each. Of more, a share is drawn.
pub(crate) const MAP_EXAMPLES_MAX: u64 = 2_000_000;

/// Bins of a histogram.
pub(crate) const BINS: usize = 60;

/// Bytes of all pictures in the page, as base64.
pub(crate) const PICTURE_BYTES_MAX: usize = 3_000_000;
/// The longest side of a picture in pixels; larger ones are made smaller.
pub(crate) const PICTURE_SIDE: u32 = 64;
/// Files of pictures that are read: decoding takes milliseconds each.
pub(crate) const PICTURE_FILES_MAX: usize = 5000;
/// Bytes of one file of a picture.
pub(crate) const PICTURE_FILE_BYTES_MAX: u64 = 32 << 20;
/// Pixels on a side of a picture that is read.
pub(crate) const PICTURE_READ_SIDE_MAX: u32 = 16_384;

/// Characters of a text or of a row's cell.
pub(crate) const TEXT_CHARACTERS_MAX: usize = 600;
/// Columns of recorded rows.
pub(crate) const CARD_COLUMNS_MAX: usize = 256;
/// Bytes of all texts and rows in the page.
pub(crate) const TEXT_BYTES_MAX: usize = 1_500_000;
/// Bytes of a file of texts, rows or idx pictures that is read, unpacked.
pub(crate) const DATA_BYTES_MAX: u64 = 2 << 30;

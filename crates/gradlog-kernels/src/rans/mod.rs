//! An entropy coder for bytes: 128 interleaved states of rANS (Duda 2013, "Asymmetric numeral systems"), which vector
//! instructions advance together.
//!
//! The codes of a gradient are as good as random, but some are more frequent than others, and there are megabytes of
//! them in a column. One table of frequencies serves a whole column. A state is an integer `x` in `[2^15, 2^31)`. A
//! byte of frequency `f` of 4096, whose range begins at `c`, turns it into
//!
//! ```text
//! (x / f) · 4096 + x mod f + c
//! ```
//!
//! which decoding undoes. Before that, the lower 16 bits of a state that would become too large are pushed onto a
//! stack of words. Decoding pops them in the opposite order. Byte `i` belongs to state `i mod 128`, so that many bytes
//! are coded by instructions that do not wait for each other.
//!
//! A frame is, little-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 32 | a bit for each value of a byte that occurs, bit `v mod 8` of byte `v / 8` |
//! | 1 or 2 each | the frequency of each such value, ascending: `f` below 128, or `128 + f mod 128` and `f / 128` |
//! | 512 | the 128 states, u32 each, from which decoding begins |
//! | the rest | the stack of words, u16 each, the last on top |
//!
//! Every instruction set gives the same bytes.

mod frequencies;
mod portable;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86;

use frequencies::{Encoding, Frequencies};
#[cfg(target_arch = "x86_64")]
use std::sync::LazyLock;

/// States that are interleaved, and bytes that are coded in one go.
pub const LANES: usize = 128;
/// The frequencies of all values add up to this.
pub const TOTAL: u32 = 1 << TOTAL_BITS;
const TOTAL_BITS: u32 = 12;
/// A state is never below this. Encoding begins with it in every lane, and so decoding ends with it.
const LEAST: u32 = 1 << 15;
/// A state of a byte of frequency `f` that is at least `f << FULL_BITS` would leave its range.
const FULL_BITS: u32 = 31 - TOTAL_BITS;

type States = [u32; LANES];

/// What is wrong with a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameError {
    /// It ends before its states.
    Short,
    /// Its frequencies do not add up to [`TOTAL`], or fewer than two values occur.
    Frequencies,
    /// Its words do not lead to the states that every encoding begins with.
    Words,
}

impl std::fmt::Display for FrameError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Short => "an rANS frame ends too early",
            Self::Frequencies => "the frequencies of an rANS frame do not add up",
            Self::Words => "the words of an rANS frame do not fit its frequencies",
        })
    }
}

impl std::error::Error for FrameError {}

/// An instruction set that this machine has and that a loop exists for.
///
/// `gathers` says that tables are read by gather instructions. On AMD's Zen 4 these are slower than loads one by one:
/// the loops take a fifth to a quarter longer with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kernel {
    #[cfg(target_arch = "x86_64")]
    Avx512 {
        gathers: bool,
    },
    #[cfg(target_arch = "x86_64")]
    Avx2 {
        gathers: bool,
    },
    Portable,
}

impl Kernel {
    /// The fastest first.
    fn available() -> impl Iterator<Item = Self> {
        #[cfg(target_arch = "x86_64")]
        let vectors = {
            let avx512 = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("popcnt");
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("popcnt");
            let gathers = !is_by_amd();
            [
                (Self::Avx512 { gathers }, avx512),
                (Self::Avx512 { gathers: !gathers }, avx512),
                (Self::Avx2 { gathers }, avx2),
                (Self::Avx2 { gathers: !gathers }, avx2),
            ]
        };
        #[cfg(not(target_arch = "x86_64"))]
        let vectors: [(Self, bool); 0] = [];
        vectors.into_iter().filter(|(_, there)| *there).map(|(kernel, _)| kernel).chain([Self::Portable])
    }

    fn detect() -> Self {
        Self::available().next().unwrap_or(Self::Portable)
    }
}

#[cfg(target_arch = "x86_64")]
fn is_by_amd() -> bool {
    static IS_BY_AMD: LazyLock<bool> = LazyLock::new(|| {
        #[allow(unused_unsafe)] // it is unsafe before Rust 1.93
        // SAFETY: every processor of this architecture has the instruction.
        let vendor = unsafe { std::arch::x86_64::__cpuid(0) };
        [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).concat() == b"AuthenticAMD"
    });
    *IS_BY_AMD
}

/// Encodes. It keeps a buffer from call to call: two bytes for each byte of the longest input so far.
#[derive(Debug, Default)]
pub struct Encoder {
    words: Vec<u16>,
}

impl Encoder {
    /// Appends a frame of `bytes` to `out` and returns `true`. If the frame would not be shorter than `bytes`, or if
    /// all bytes are equal, it appends nothing and returns `false`.
    pub fn encode(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> bool {
        self.encode_by(Kernel::detect(), bytes, out)
    }

    fn encode_by(&mut self, kernel: Kernel, bytes: &[u8], out: &mut Vec<u8>) -> bool {
        let by = |encoder: &mut Self, frequencies: Frequencies, out: &mut Vec<u8>| {
            encoder.encode_with(kernel, &frequencies, bytes, out)
        };
        let sampled = Frequencies::sample(bytes).and_then(|frequencies| by(self, frequencies, out));
        let counted = || Frequencies::count(bytes).and_then(|frequencies| by(self, frequencies, out));
        sampled.or_else(counted).unwrap_or(false)
    }

    /// Returns `None` and appends nothing if a byte has no frequency.
    fn encode_with(
        &mut self,
        kernel: Kernel,
        frequencies: &Frequencies,
        bytes: &[u8],
        out: &mut Vec<u8>,
    ) -> Option<bool> {
        // A byte of the least frequency takes 12 bits, so no byte pushes more than a word. The buffer never becomes
        // shorter: to make it longer again would clear it.
        if self.words.len() < bytes.len() + LANES {
            self.words.resize(bytes.len() + LANES, 0);
        }
        let mut stack = Stack { words: &mut self.words, length: 0 };
        let mut states = [LEAST; LANES];
        let table = frequencies.encoding();
        let (groups, last) = bytes.split_at(bytes.len() / LANES * LANES);
        let has_all = portable::encode(&table, last, &mut states, &mut stack)
            & encode_groups(kernel, &table, groups, &mut states, &mut stack);
        if !has_all {
            return None;
        }
        let words = &stack.words[..stack.length];
        let start = out.len();
        frequencies.write(out);
        if out.len() - start + 4 * LANES + 2 * words.len() >= bytes.len() {
            out.truncate(start);
            return Some(false);
        }
        out.extend(states.iter().flat_map(|state| state.to_le_bytes()));
        let end = out.len();
        out.resize(end + 2 * words.len(), 0);
        let (pairs, _) = out[end..].as_chunks_mut::<2>();
        pairs.iter_mut().zip(words).for_each(|(pair, word)| *pair = word.to_le_bytes());
        Some(true)
    }
}

/// Encodes whole goes, from the last to the first. The stack has room for a word for each byte, and [`LANES`] more.
/// Returns whether every byte has a frequency.
fn encode_groups(kernel: Kernel, table: &Encoding, groups: &[u8], states: &mut States, stack: &mut Stack) -> bool {
    assert!(stack.words.len() - stack.length >= groups.len() + LANES, "no room for so many words");
    match kernel {
        // SAFETY: `available` found the features, and the assertion the room.
        #[cfg(target_arch = "x86_64")]
        Kernel::Avx512 { gathers: true } => unsafe { x86::encode_avx512::<true>(&table.codes, groups, states, stack) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Kernel::Avx512 { gathers: false } => unsafe {
            x86::encode_avx512::<false>(&table.codes, groups, states, stack)
        },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Kernel::Avx2 { gathers: true } => unsafe { x86::encode_avx2::<true>(&table.codes, groups, states, stack) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Kernel::Avx2 { gathers: false } => unsafe { x86::encode_avx2::<false>(&table.codes, groups, states, stack) },
        Kernel::Portable => {
            let groups = groups.rchunks_exact(LANES);
            groups.fold(true, |has_all, group| portable::encode(table, group, states, stack) & has_all)
        }
    }
}

/// Words that were pushed so far, and room for those to come.
struct Stack<'a> {
    words: &'a mut [u16],
    length: usize,
}

/// Decodes. It keeps its table from call to call.
pub struct Decoder {
    /// For each of the [`TOTAL`] remainders of a state: the byte in bits 0 to 7, its frequency in bits 8 to 19, and
    /// the place within the byte's range above.
    table: Box<[u32; TOTAL as usize]>,
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder").finish_non_exhaustive()
    }
}

impl Default for Decoder {
    fn default() -> Self {
        Self { table: Box::new([0; TOTAL as usize]) }
    }
}

impl Decoder {
    /// Decodes `frame` into `out`, which is as long as what was encoded.
    ///
    /// # Errors
    /// [`FrameError`] if this is not a frame of so many bytes. Then `out` holds anything.
    pub fn decode(&mut self, frame: &[u8], out: &mut [u8]) -> Result<(), FrameError> {
        self.decode_by(Kernel::detect(), frame, out)
    }

    fn decode_by(&mut self, kernel: Kernel, frame: &[u8], out: &mut [u8]) -> Result<(), FrameError> {
        let (frequencies, rest) = Frequencies::read(frame)?;
        frequencies.fill_decoding(&mut self.table);
        let (raw_states, words) = rest.split_at_checked(4 * LANES).ok_or(FrameError::Short)?;
        let mut states = [0; LANES];
        let (raw_states, _) = raw_states.as_chunks::<4>();
        states.iter_mut().zip(raw_states).for_each(|(state, raw)| *state = u32::from_le_bytes(*raw));
        let (words, odd) = words.as_chunks::<2>();
        if !odd.is_empty() || states.iter().any(|state| !(LEAST..1 << 31).contains(state)) {
            return Err(FrameError::Words);
        }
        let (table, left, states) = (&self.table, &mut words.len(), &mut states);
        let (groups, last) = out.split_at_mut(out.len() / LANES * LANES);
        let done = match kernel {
            // SAFETY: `available` found the features.
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512 { gathers: true } => unsafe {
                x86::decode_avx512::<true>(table, words, left, states, groups)
            },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512 { gathers: false } => unsafe {
                x86::decode_avx512::<false>(table, words, left, states, groups)
            },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2 { gathers: true } => unsafe { x86::decode_avx2::<true>(table, words, left, states, groups) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2 { gathers: false } => unsafe { x86::decode_avx2::<false>(table, words, left, states, groups) },
            Kernel::Portable => 0,
        };
        for group in groups[done..].chunks_exact_mut(LANES).chain([last]) {
            portable::decode(table, words, left, states, group).ok_or(FrameError::Words)?;
        }
        match *left == 0 && *states == [LEAST; LANES] {
            true => Ok(()),
            false => Err(FrameError::Words),
        }
    }
}

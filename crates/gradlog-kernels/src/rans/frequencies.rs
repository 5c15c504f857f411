//! How often each value of a byte occurs, in 4096ths.

use super::{FrameError, TOTAL};

/// The frequency of each value. At least two are not 0, and all add up to [`TOTAL`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frequencies([u16; 256]);

/// What encoding needs of each value.
#[derive(Debug)]
pub(super) struct Encoding {
    /// For vector instructions, and for what all need.
    pub codes: [Code; 256],
    /// `⌈2^43 / frequency⌉`, for plain Rust. With it a quotient of a number below 2^31 is exact: the error of the
    /// divisor is below 2^12, so that of the quotient is less than one in its remainder.
    pub divisors: [u64; 256],
}

/// Bytes of a sample: enough that the frequencies of 256 values cost a thousandth more than those of all bytes. By
/// `values / (2·ln 2·sample)` it is 0.006 bits a byte.
pub(super) const SAMPLE: usize = 1 << 15;

/// Neighbors in a sample.
const STRETCH: usize = 64;

/// Eight tables: a processor that counts equal bytes in one table waits for its own store.
struct Counts([[u32; 256]; 8]);

impl Default for Counts {
    fn default() -> Self {
        Self([[0; 256]; 8])
    }
}

impl Counts {
    fn add(&mut self, bytes: &[u8]) {
        let (eights, rest) = bytes.as_chunks::<8>();
        for eight in eights {
            for (table, byte) in self.0.iter_mut().zip(u64::from_le_bytes(*eight).to_le_bytes()) {
                table[usize::from(byte)] += 1;
            }
        }
        rest.iter().for_each(|byte| self.0[0][usize::from(*byte)] += 1);
    }

    fn total(&self) -> [u64; 256] {
        let mut counts = [0u64; 256];
        for table in &self.0 {
            counts.iter_mut().zip(table).for_each(|(sum, count)| *sum += u64::from(*count));
        }
        counts
    }
}

/// How far the product with a divisor of [`Encoding`] is shifted.
pub(super) const QUOTIENT_BITS: u32 = 43;

/// What encoding a value needs, in one number, so that one load reads it.
///
/// - Bits 0 to 15: the frequency.
/// - Bits 16 to 31: the begin of the range.
/// - Bits 32 to 63: an `f32`, a little less than 1 / frequency. A quotient that is taken with it is right or too small
///   by one.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[repr(transparent)]
pub(super) struct Code(pub u64);

impl Code {
    fn new(frequency: u16, begin: u32) -> Self {
        // 1 - 2^-22 is more than the error of a division and a product, and less than one in a quotient below 2^19.
        let reciprocal = (1.0 / f32::from(frequency.max(1))) * (1.0 - f32::EPSILON * 2.0);
        Self(u64::from(frequency) | u64::from(begin) << 16 | u64::from(reciprocal.to_bits()) << 32)
    }

    /// The frequency and the begin of the range.
    pub(super) fn range(self) -> (u32, u32) {
        (self.0 as u32 & 0xFFFF, self.0 as u32 >> 16)
    }
}

impl Frequencies {
    /// Those of `bytes`, rounded. `None` if fewer than two values occur.
    pub(super) fn count(bytes: &[u8]) -> Option<Self> {
        let mut counts = Counts::default();
        counts.add(bytes);
        Self::round(&counts.total())
    }

    /// As [`Frequencies::count`], of a sample of long input: about [`SAMPLE`] bytes. Values that the sample lacks may
    /// have no frequency. `None` as well if the input is short.
    pub(super) fn sample(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < 4 * SAMPLE {
            return None;
        }
        let mut counts = Counts::default();
        // An odd stride: a column repeats every row, and the widths of rows are often powers of two.
        let stride = (bytes.len() / (SAMPLE / STRETCH)) | 1;
        bytes.chunks(stride).for_each(|chunk| counts.add(&chunk[..chunk.len().min(STRETCH)]));
        let mut counts = counts.total();
        // A byte is often two codes. Of codes that occur, any pair may.
        let (mut low, mut high) = ([false; 16], [false; 16]);
        for (value, _) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            (low[value % 16], high[value / 16]) = (true, true);
        }
        for (value, count) in counts.iter_mut().enumerate() {
            *count = (*count).max(u64::from(low[value % 16] && high[value / 16]));
        }
        Self::round(&counts)
    }

    fn round(counts: &[u64; 256]) -> Option<Self> {
        let all: u64 = counts.iter().sum();
        if counts.iter().filter(|count| **count > 0).count() < 2 {
            return None;
        }
        // Rare values take the least frequency, which is more than their share. The others share what is left.
        let is_rare = |count: u64| count * u64::from(TOTAL) < all;
        let rare = || counts.iter().filter(|count| **count > 0 && is_rare(**count));
        let (left, of) = (f64::from(TOTAL) - rare().count() as f64, (all - rare().sum::<u64>()) as f64);
        let mut rounded = [0u16; 256];
        for (rounded, &count) in rounded.iter_mut().zip(counts).filter(|(_, count)| **count > 0) {
            let share = if is_rare(count) { 1 } else { (count as f64 * left / of).round() as u16 };
            *rounded = share.clamp(1, TOTAL as u16 - 1);
        }
        // What rounding took or gave goes to the values that notice it least, one at a time. A byte of frequency f
        // takes -log2(f / 4096) bits, so a change of f by 1 costs its count over f.
        let mut sum: i32 = rounded.iter().map(|f| i32::from(*f)).sum();
        while sum != TOTAL as i32 {
            let change: i32 = if sum < TOTAL as i32 { 1 } else { -1 };
            let cost =
                |&v: &usize| -f64::from(change) * counts[v] as f64 / (f64::from(rounded[v]) + 0.5 * f64::from(change));
            let may = |v: &usize| counts[*v] > 0 && i32::from(rounded[*v]) + change >= 1;
            let best = (0..256).filter(may).min_by(|a, b| cost(a).total_cmp(&cost(b)))?;
            rounded[best] = (i32::from(rounded[best]) + change) as u16;
            sum += change;
        }
        Some(Self(rounded))
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let mut there = [0u8; 32];
        let used = || self.0.iter().enumerate().filter(|(_, f)| **f > 0);
        used().for_each(|(v, _)| there[v / 8] |= 1 << (v % 8));
        out.extend(there);
        for (_, &f) in used() {
            match f < 128 {
                true => out.push(f as u8),
                false => out.extend([128 | (f % 128) as u8, (f / 128) as u8]),
            }
        }
    }

    /// The frequencies at the begin of a frame, and what follows them.
    pub(super) fn read(frame: &[u8]) -> Result<(Self, &[u8]), FrameError> {
        let (there, mut rest) = frame.split_at_checked(32).ok_or(FrameError::Short)?;
        let mut next = || {
            let (&byte, after) = rest.split_first().ok_or(FrameError::Short)?;
            rest = after;
            Ok(u16::from(byte))
        };
        let mut frequencies = [0u16; 256];
        for (v, f) in frequencies.iter_mut().enumerate() {
            if there[v / 8] >> (v % 8) & 1 == 1 {
                let low = next()?;
                *f = if low < 128 { low } else { low - 128 + 128 * next()? };
                if *f == 0 || u32::from(*f) >= TOTAL {
                    return Err(FrameError::Frequencies);
                }
            }
        }
        match frequencies.iter().map(|f| u32::from(*f)).sum::<u32>() == TOTAL {
            true => Ok((Self(frequencies), rest)),
            false => Err(FrameError::Frequencies),
        }
    }

    pub(super) fn encoding(&self) -> Encoding {
        let mut encoding = Encoding { codes: [Code::default(); 256], divisors: [0; 256] };
        let mut begin = 0;
        for ((code, divisor), &f) in encoding.codes.iter_mut().zip(&mut encoding.divisors).zip(&self.0) {
            *code = Code::new(f, begin);
            *divisor = (1u64 << QUOTIENT_BITS).div_ceil(u64::from(f.max(1)));
            begin += u32::from(f);
        }
        encoding
    }

    pub(super) fn fill_decoding(&self, table: &mut [u32; TOTAL as usize]) {
        let mut places = table.iter_mut();
        for (v, &f) in self.0.iter().enumerate() {
            for (within, place) in places.by_ref().take(usize::from(f)).enumerate() {
                *place = v as u32 | u32::from(f) << 8 | (within as u32) << 20;
            }
        }
    }

    #[cfg(test)]
    pub(super) fn from_values(values: [u16; 256]) -> Self {
        Self(values)
    }

    #[cfg(test)]
    pub(super) fn values(&self) -> &[u16; 256] {
        &self.0
    }
}

//! The loops in plain Rust: for at most one go of bytes, and with every check.

use super::frequencies::{Encoding, QUOTIENT_BITS};
use super::{Stack, States, FULL_BITS, LANES, LEAST, TOTAL, TOTAL_BITS};

/// Encodes at most as many bytes as there are states, from the first state on. The stack has room for as many words.
/// Returns whether every byte has a frequency.
#[inline]
pub(super) fn encode(table: &Encoding, bytes: &[u8], states: &mut States, stack: &mut Stack) -> bool {
    let (room, mut pushed, mut least) = (&mut stack.words[stack.length..], 0, TOTAL);
    for (state, byte) in states.iter_mut().zip(bytes) {
        let ((f, begin), x) = (table.codes[usize::from(*byte)].range(), *state);
        least = least.min(f);
        // Whether a state is full is as good as random, so a branch would be guessed wrong every other time.
        let full = u32::from(x >= f << FULL_BITS);
        room[pushed] = x as u16;
        pushed += full as usize;
        let x = x >> (16 * full);
        let quotient = ((u64::from(x) * table.divisors[usize::from(*byte)]) >> QUOTIENT_BITS) as u32;
        // `x / f · 4096 + x mod f + begin`
        *state = x + quotient * (TOTAL - f) + begin;
    }
    stack.length += pushed;
    least > 0
}

/// Decodes at most as many bytes as there are states. `left` words are on the stack. `None` if they do not suffice.
#[inline]
pub(super) fn decode(
    table: &[u32; TOTAL as usize],
    words: &[[u8; 2]],
    left: &mut usize,
    states: &mut States,
    out: &mut [u8],
) -> Option<()> {
    if *left < LANES {
        return decode_last(table, words, left, states, out);
    }
    let words = words.get(..*left)?;
    let mut top = *left;
    for (state, out) in states.iter_mut().zip(out).rev() {
        let (byte, x) = advance(table, *state);
        *out = byte;
        let word = u32::from(u16::from_le_bytes(words[top - 1]));
        // As in `encode`, without a branch.
        let needs = u32::from(x < LEAST);
        top -= needs as usize;
        *state = x << (16 * needs) | (word & needs.wrapping_neg());
    }
    *left = top;
    Some(())
}

/// [`decode`] where the words may not suffice.
#[cold]
fn decode_last(
    table: &[u32; TOTAL as usize],
    words: &[[u8; 2]],
    left: &mut usize,
    states: &mut States,
    out: &mut [u8],
) -> Option<()> {
    for (state, out) in states.iter_mut().zip(out).rev() {
        let (byte, x) = advance(table, *state);
        *out = byte;
        *state = x;
        if x < LEAST {
            *left = left.checked_sub(1)?;
            *state = x << 16 | u32::from(u16::from_le_bytes(*words.get(*left)?));
        }
    }
    Some(())
}

/// The byte of a state, and the state without it.
#[inline(always)]
fn advance(table: &[u32; TOTAL as usize], state: u32) -> (u8, u32) {
    let entry = table[(state % TOTAL) as usize];
    (entry as u8, (entry >> 8 & 0xFFF) * (state >> TOTAL_BITS) + (entry >> 20))
}

//! Every instruction set that the machine has, and AMX, against the definition.

use super::*;

/// Number `counter` of a stream that looks random (splitmix64).
fn draw(seed: u64, counter: u64) -> u64 {
    let mut z = seed.wrapping_add(counter.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn codes(count: usize, seed: u64, largest: i64) -> Vec<i8> {
    let draw = |i: usize| (draw(seed, i as u64) >> 20) as i64;
    (0..count).map(|i| (draw(i) % (2 * largest + 1) - largest) as i8).collect()
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
const AMX: Isa = Isa(Kernel::Avx512 { tiles: true });

/// The instruction sets of this machine. Where it has no AMX, AMX's instructions are emulated.
fn instruction_sets() -> Vec<Isa> {
    #[allow(unused_mut)] // there is no AMX on other processors and systems
    let mut all = Isa::available();
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    if all[0] != AMX {
        amx::emulated::start();
        all.push(AMX);
    }
    all
}

/// Every instruction set, against the definition.
fn check(width: usize, columns: usize, left: &[i8], right: &[i8], narrow: bool) {
    let padded = 4 * quads(width);
    let mut rows = vec![0i8; ROWS * padded];
    for (row, codes) in rows.chunks_exact_mut(padded.max(1)).zip(left.chunks_exact(width.max(1))) {
        row[..width].copy_from_slice(codes);
    }
    let mut used = UsedQuads::default();
    used.take_nonzero(&rows, &mut Vec::new());
    let mut panels = Panels::new(width, columns);
    for column in 0..columns {
        panels.set(column, &right[column * width..(column + 1) * width]);
        let back: Vec<i8> = panels.get(column).collect();
        assert_eq!(back[..width], right[column * width..(column + 1) * width]);
        assert!(back[width..].iter().all(|code| *code == 0));
    }
    for isa in instruction_sets() {
        for panel in 0..panels.len() {
            let mut out = [7i32; ROWS * COLUMNS];
            isa.multiply((&rows, &used), &panels, panel, narrow, &mut out);
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            assert!(amx::emulated::are_released(), "{isa:?}: tiles in use");
            for row in 0..ROWS {
                let codes = &left[row * width..(row + 1) * width];
                for (place, column) in (panel * COLUMNS..columns.min((panel + 1) * COLUMNS)).enumerate() {
                    let other = &right[column * width..(column + 1) * width];
                    let dot: i32 = codes.iter().zip(other).map(|(a, b)| i32::from(*a) * i32::from(*b)).sum();
                    let got = out[row * COLUMNS + place] - offset(codes);
                    assert_eq!(got, dot, "{isa:?}: {width} numbers, row {row}, column {column}");
                }
            }
        }
    }
}

#[test]
fn every_instruction_set_gives_the_definition() {
    for width in [0, 1, 3, 4, 5, 10, 31, 32, 33, 64, 100, 257, 784] {
        for columns in [1, 15, 16, 17, 40, 48, 49, 97] {
            for (largest, narrow) in [(8, true), (1, true), (127, false), (8, false)] {
                let left = codes(ROWS * width, 1 + largest as u64, largest);
                let right = codes(columns * width, 99, 127);
                check(width, columns, &left, &right, narrow);
            }
        }
    }
}

/// Quads that all rows, some rows and no row have zeros in.
#[test]
fn quads_of_zeros_are_left_out_and_no_others() {
    let width = 50;
    let mut left = codes(ROWS * width, 5, 8);
    for (row, codes) in left.chunks_exact_mut(width).enumerate() {
        codes[..9].fill(0);
        codes[20..33].fill(0);
        // One number in one row is enough, wherever it stands in its quad.
        codes[20] = i8::from(row == 0);
        codes[27] = i8::from(row == ROWS - 1);
        codes[44..].fill(0);
    }
    let mut rows = vec![0i8; ROWS * 52];
    for (row, codes) in rows.chunks_exact_mut(52).zip(left.chunks_exact(width)) {
        row[..width].copy_from_slice(codes);
    }
    let mut used = UsedQuads::default();
    used.take_nonzero(&rows, &mut vec![7; 100]);
    assert_eq!((used.of, used.quads.as_slice()), (13, &[2, 3, 4, 5, 6, 8, 9, 10][..]));
    check(width, 49, &left, &codes(49 * width, 99, 127), true);
}

/// Groups of sixteen quads, of which the last has two.
#[test]
fn groups_of_zeros_are_left_out_and_no_others() {
    let (width, quads) = (200, 50);
    for filled in [vec![], vec![63], vec![64], vec![127, 191], vec![0, 192], vec![199], vec![70, 199]] {
        let mut rows = vec![0i8; ROWS * width];
        for (number, place) in filled.iter().enumerate() {
            rows[(number % ROWS) * width + place] = -3;
        }
        let mut used = UsedQuads::default();
        used.take_nonzero(&rows, &mut vec![7; 100]);
        let groups: Vec<u32> = filled.iter().map(|place| *place as u32 / 64).collect();
        assert_eq!((used.of, used.groups.as_slice()), (quads, groups.as_slice()));
        check(width, 33, &rows, &codes(33 * width, 99, 127), true);
        used.take_all(&rows);
        assert_eq!(used.groups, [0, 1, 2, 3]);
    }
}

/// Numbers behind the last whole quad, which no kernel multiplies.
#[test]
fn what_follows_the_last_quad_is_in_no_group() {
    let mut used = UsedQuads::default();
    used.take_nonzero(&[1; ROWS * 66], &mut Vec::new());
    assert_eq!((used.of, used.quads.len(), used.groups.as_slice()), (16, 16, &[0][..]));
    check(64, 16, &[1; ROWS * 64], &[1; 16 * 64], true);
}

/// A kernel would read behind the last panel.
#[test]
fn a_panel_or_column_that_is_not_there_is_a_panic_by_every_instruction_set() {
    let rows = vec![3i8; ROWS * 400];
    let mut used = UsedQuads::default();
    used.take_all(&rows);
    let panics = |work: &dyn Fn()| std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_err();
    for (columns, panel) in [(0, 0), (17, 1), (48, 1), (48, usize::MAX), (96, 2)] {
        let panels = Panels::new(400, columns);
        for isa in instruction_sets() {
            let multiply = || isa.multiply((&rows, &used), &panels, panel, false, &mut [0; ROWS * COLUMNS]);
            assert!(panics(&multiply), "{isa:?}: panel {panel} of {columns} columns");
        }
        assert!(panics(&|| drop(panels.get(columns))), "column {columns} of as many");
    }
}

#[test]
fn every_instruction_set_spreads_the_codes_that_were_written() {
    for width in (0..150).chain([511, 512, 513, 784]) {
        let bytes: Vec<u8> = (0..usize::div_ceil(width, 2)).map(|i| draw(3, i as u64) as u8).collect();
        // FORMAT.md, "Vectors": two codes of four bits a byte, the low one first, as two's complement.
        let nibble = |i: usize| i16::from(bytes[i / 2] >> (4 * (i % 2)) & 15);
        let expected: Vec<i8> = (0..width).map(|i| ((nibble(i) ^ 8) - 8) as i8).collect();
        for isa in Isa::available() {
            let mut out = vec![7i8; width + 1];
            isa.spread(&bytes, &mut out[..width]);
            assert_eq!(out[..width], expected, "{isa:?}, {width} codes");
            assert_eq!(out[width], 7, "{isa:?}, {width} codes: behind the last");
        }
    }
}

#[test]
fn every_instruction_set_multiplies_rows_as_they_are_stored() {
    for width in (0..140).chain([255, 256, 257, 511, 784, WIDTH_MAX]) {
        let column = codes(width, 98, 127);
        // FORMAT.md, "Vectors". Of an odd number of codes the last half of a byte is no code.
        let halves: Vec<u8> = (0..width.div_ceil(2)).map(|i| draw(3, i as u64) as u8).collect();
        let half = |i: usize| i32::from(((halves[i / 2] << (4 - 4 * (i % 2))) as i8) >> 4);
        let bytes: Vec<u8> = (0..width).map(|i| draw(4, i as u64) as u8).collect();
        let product = |of: &dyn Fn(usize) -> i32| (0..width).map(|i| of(i) * i32::from(column[i])).sum::<i32>();
        for isa in Isa::available() {
            let in_halves = isa.dot(&halves, &Column::for_4_bit(&column));
            assert_eq!(in_halves, product(&half), "{isa:?}, {width} codes of 4 bits");
            let in_bytes = isa.dot(&bytes, &Column::for_8_bit(&column));
            assert_eq!(in_bytes, product(&|i| i32::from(bytes[i] as i8)), "{isa:?}, {width} codes of 8 bits");
        }
    }
    let least = vec![-128i8; WIDTH_MAX];
    for isa in Isa::available() {
        assert_eq!(isa.dot(&vec![0x80; WIDTH_MAX], &Column::for_8_bit(&least)), 1 << 30);
        assert_eq!(isa.dot(&vec![0x88; WIDTH_MAX / 2], &Column::for_4_bit(&least)), 1 << 26);
    }
}

/// Where sums in 16 or 32 bits would pass their ends if they could.
#[test]
fn the_largest_codes_do_not_saturate() {
    for (left, narrow) in [(8, true), (-8, true), (127, false), (-128, false)] {
        for right in [127, -128] {
            check(1000, 17, &vec![left; ROWS * 1000], &vec![right; 17 * 1000], narrow);
        }
    }
    check(WIDTH_MAX, 1, &vec![-128; ROWS * WIDTH_MAX], &vec![127; WIDTH_MAX], false);
    check(WIDTH_MAX, 1, &vec![-128; ROWS * WIDTH_MAX], &vec![-128; WIDTH_MAX], false);
}

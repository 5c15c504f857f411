use super::*;

/// Bytes whose frequencies fall by `ratio` from value to value.
fn skewed(count: usize, values: u64, ratio: f64) -> Vec<u8> {
    let mut state = 1u64;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let uniform = (state >> 11) as f64 / (1u64 << 53) as f64;
            ((uniform.ln() / ratio.ln()) as u64 % values) as u8
        })
        .collect()
}

#[test]
fn every_kernel_writes_the_same_frame_and_reads_it_back() {
    for count in [1_100, 4_096, 4_097, 8_191, 65_536, 100_003] {
        for (values, ratio) in [(2, 0.3), (2, 0.001), (16, 0.6), (100, 0.9), (256, 0.97)] {
            let bytes = skewed(count, values, ratio);
            let mut portable = vec![7];
            let shorter = Encoder::default().encode_by(Kernel::Portable, &bytes, &mut portable);
            for kernel in Kernel::available() {
                let mut frame = vec![7];
                assert_eq!(Encoder::default().encode_by(kernel, &bytes, &mut frame), shorter, "{kernel:?}");
                assert!(frame == portable, "{kernel:?}: {count} bytes of {values} values");
                if shorter {
                    let mut back = vec![9; count];
                    assert_eq!(Decoder::default().decode_by(kernel, &frame[1..], &mut back), Ok(()), "{kernel:?}");
                    assert!(back == bytes, "{kernel:?}: {count} bytes of {values} values");
                }
            }
        }
    }
}

#[test]
fn a_frame_is_as_long_as_the_entropy_says() {
    let bytes = skewed(1 << 20, 256, 0.9);
    let mut counts = [0f64; 256];
    bytes.iter().for_each(|b| counts[usize::from(*b)] += 1.0);
    let all = bytes.len() as f64;
    let bits: f64 = counts.iter().filter(|c| **c > 0.0).map(|c| c * (all / c).log2()).sum();
    let mut frame = Vec::new();
    assert!(Encoder::default().encode(&bytes, &mut frame));
    let excess = frame.len() as f64 / (bits / 8.0);
    assert!((1.0..1.005).contains(&excess), "{excess} times the entropy");
}

#[test]
fn what_does_not_become_shorter_is_left_alone() {
    let uniform: Vec<u8> = (0..1 << 16).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for bytes in [uniform.as_slice(), &[3; 10_000], &[1, 2, 1, 1], &[]] {
        let mut out = vec![7, 8];
        assert!(!Encoder::default().encode(bytes, &mut out));
        assert_eq!(out, [7, 8]);
    }
}

#[test]
fn frequencies_add_up_and_leave_no_value_out() {
    let mut rare = vec![0u8; 1 << 20];
    rare.extend(0..=255);
    let values = *Frequencies::count(&rare).unwrap().values();
    assert_eq!(values.iter().map(|f| u32::from(*f)).sum::<u32>(), TOTAL);
    assert!(values[1..].iter().all(|f| *f == 1) && values[0] == TOTAL as u16 - 255);
    let two = *Frequencies::count(&[vec![5; 1 << 20], vec![6]].concat()).unwrap().values();
    assert_eq!((two[5], two[6]), (TOTAL as u16 - 1, 1));
    assert_eq!(Frequencies::count(&[9; 100]), None);
}

/// Long enough for a sample, which sees one stretch of every stride.
#[test]
fn a_sample_takes_hardly_more_bytes_and_values_that_it_misses_are_not_lost() {
    let bytes = skewed(1 << 20, 128, 0.97);
    for kernel in Kernel::available() {
        let mut frame = Vec::new();
        assert!(Encoder::default().encode_by(kernel, &bytes, &mut frame));
        let frequencies = Frequencies::count(&bytes).unwrap();
        let mut counted = Vec::new();
        assert_eq!(Encoder::default().encode_with(kernel, &frequencies, &bytes, &mut counted), Some(true));
        let longer = frame.len() as f64 / counted.len() as f64;
        assert!(frame != counted && longer < 1.005, "{kernel:?}: {longer} times as many bytes");
        // Rows of 256 bytes, half of them zero: a stride that is a multiple would see one half alone.
        let rows: Vec<u8> = bytes.iter().enumerate().map(|(i, b)| if i % 256 < 128 { 0 } else { *b }).collect();
        let own = |frequencies: Option<Frequencies>| f64::from(frequencies.unwrap().values()[0]) / f64::from(TOTAL);
        let (sampled, counted) = (own(Frequencies::sample(&rows)), own(Frequencies::count(&rows)));
        assert!((sampled - counted).abs() < 0.01, "{sampled} {counted}");
        // A value that the sample misses.
        let mut rare: Vec<u8> = bytes.iter().map(|byte| byte % 8).collect();
        let frequencies = Frequencies::sample(&rare).unwrap();
        for place in [rare.len() - 1, rare.len() - 1_000] {
            rare[place] = 0xA0;
            assert_eq!(frequencies.values()[0xA0], 0);
            assert_eq!(Encoder::default().encode_with(kernel, &frequencies, &rare, &mut Vec::new()), None);
            let (mut frame, mut back) = (vec![7], vec![0; rare.len()]);
            assert!(Encoder::default().encode_by(kernel, &rare, &mut frame));
            assert_eq!(Decoder::default().decode_by(kernel, &frame[1..], &mut back), Ok(()));
            assert!(back == rare, "{kernel:?}");
            rare[place] = 0;
        }
    }
}

#[test]
fn a_damaged_frame_is_an_error_or_other_bytes_and_all_kernels_agree() {
    let bytes = skewed(5_000, 40, 0.8);
    let mut frame = Vec::new();
    assert!(Encoder::default().encode(&bytes, &mut frame));
    let mut refused = 0;
    for at in 0..8 * frame.len() {
        let mut damaged = frame.clone();
        damaged[at / 8] ^= 1 << (at % 8);
        let answers = Kernel::available().map(|kernel| {
            let mut out = vec![0; bytes.len()];
            Decoder::default().decode_by(kernel, &damaged, &mut out).map(|()| out)
        });
        let answers: Vec<_> = answers.collect();
        assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "bit {at}");
        refused += usize::from(answers[0].is_err());
    }
    assert!(refused > 7 * frame.len(), "only {refused} of {} flips are noticed", 8 * frame.len());
    for length in 0..frame.len() {
        for kernel in Kernel::available() {
            let mut out = vec![0; bytes.len()];
            assert!(Decoder::default().decode_by(kernel, &frame[..length], &mut out).is_err(), "{length} bytes");
        }
    }
    for length in [0, 1, 4_999, 5_001, 20_000] {
        let mut out = vec![0; length];
        assert!(Decoder::default().decode(&frame, &mut out).is_err(), "for {length} bytes");
    }
}

/// Every lane takes a word in one go, so the loops must stop before there are fewer words than lanes.
#[test]
fn words_that_do_not_suffice_for_a_go_are_an_error() {
    let mut frame = Vec::new();
    Frequencies::from_values([16; 256]).write(&mut frame);
    (0..LANES).for_each(|_| frame.extend(LEAST.to_le_bytes()));
    for words in 0..300 {
        let mut frame = frame.clone();
        frame.resize(frame.len() + 2 * words, 0);
        for kernel in Kernel::available() {
            let mut out = vec![0; 5 * LANES];
            let decoded = Decoder::default().decode_by(kernel, &frame, &mut out);
            assert_eq!(decoded, Err(FrameError::Words), "{kernel:?}: {words} words");
        }
    }
}

#[test]
fn quotients_are_exact_for_every_frequency() {
    for f in 1..TOTAL as u16 {
        let mut values = [0; 256];
        (values[0], values[1]) = (f, TOTAL as u16 - f);
        // States at the ends of their range and between.
        let bytes: Vec<u8> = skewed(LANES * 6, 2, 1.0 - f64::from(f) / f64::from(TOTAL));
        let frequencies = Frequencies::from_values(values);
        let table = frequencies.encoding();
        let mut answers = Vec::new();
        for kernel in Kernel::available() {
            let (mut words, mut states) = (vec![0; bytes.len() + LANES], [LEAST; LANES]);
            states
                .iter_mut()
                .enumerate()
                .for_each(|(i, x)| *x = (1 << 31) - 1 - ((i as u32 * 33_554_393) & 0x7FFE_0000));
            let mut stack = Stack { words: &mut words, length: 0 };
            encode_groups(kernel, &table, &bytes, &mut states, &mut stack);
            let length = stack.length;
            words.truncate(length);
            answers.push((states, words));
        }
        assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "frequency {f}");
    }
}

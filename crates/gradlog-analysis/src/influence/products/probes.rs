//! The probes' side of products: packed once for all the visits that come by.

use super::apart::{ApartNumbers, Placed};
use super::scheme::Scheme;
use super::variance::Noise;
use gradlog_format::run::{Origin, Vectors};
use gradlog_format::sketch::{rotate_back, Encoding, Rounding};
use gradlog_kernels::int8::{Column, Panels, COLUMNS, WIDTH_MAX};
use std::sync::OnceLock;

/// The numbers of a stored vector, without those that are kept apart.
enum Rest {
    Codes { codes: Vec<i8>, scale: f32, signs: bool, rounding: Option<Rounding> },
    Numbers(Vec<f32>),
}

/// A stored vector on its way into [`ProbeSide`].
pub(in crate::influence) struct Stored {
    rest: Rest,
    apart: Vec<Placed>,
    whole: bool,
    /// Whether the numbers were stored as f16.
    half: bool,
}

impl Stored {
    pub(in crate::influence) fn read(vectors: &Vectors, row: usize) -> Self {
        let (apart, whole) = (ApartNumbers::read(vectors, row), vectors.origin() == Origin::Whole);
        let (bytes, scale) = vectors.row(row);
        if vectors.encoding().code_max().is_some() && vectors.width() <= WIDTH_MAX {
            let mut codes = vec![0i8; vectors.width()];
            vectors.encoding().codes(bytes, &mut codes);
            let signs = vectors.encoding() == Encoding::Signs;
            let rest = Rest::Codes { codes, scale: scale.to_f32(), signs, rounding: vectors.rounding(row) };
            return Self { rest, apart, whole, half: false };
        }
        let mut numbers = vec![0f32; vectors.width()];
        vectors.decode_rest(row, &mut numbers);
        Self { rest: Rest::Numbers(numbers), apart, whole, half: vectors.encoding() == Encoding::F16 }
    }

    /// The numbers without those that are kept apart.
    fn rest(&self) -> impl Iterator<Item = f32> + '_ {
        let (codes, numbers, step) = match &self.rest {
            Rest::Codes { codes, scale, .. } => (codes.as_slice(), &[][..], *scale),
            Rest::Numbers(numbers) => (&[][..], numbers.as_slice(), 0.0),
        };
        codes.iter().map(move |code| step * f32::from(*code)).chain(numbers.iter().copied())
    }

    /// The squared norm of the vector that this stands for.
    pub(in crate::influence) fn squared_norm(&self) -> f64 {
        self.noise().squared_norm()
    }

    /// Multiplies the vector by a number.
    pub(in crate::influence) fn scale(&mut self, factor: f32) {
        match &mut self.rest {
            Rest::Codes { scale, .. } => *scale *= factor,
            Rest::Numbers(numbers) => numbers.iter_mut().for_each(|number| *number *= factor),
        }
        self.apart.iter_mut().for_each(|number| number.scale(factor));
    }

    fn noise(&self) -> Noise {
        let rest = match &self.rest {
            Rest::Codes { codes, scale, signs: true, .. } => Noise::of_signs(codes.len(), *scale),
            Rest::Codes { codes, scale, rounding, .. } => Noise::of_codes(codes, *scale, *rounding),
            Rest::Numbers(numbers) if self.half => Noise::of_decoded(Encoding::F16, numbers, 0.0, None),
            Rest::Numbers(numbers) => Noise::of_numbers(numbers),
        };
        rest.with_apart(self.apart.iter().map(Placed::square).sum())
    }
}

/// The gradients of all probes of a pass at one time.
pub(in crate::influence) struct ProbeSide {
    pub(super) parts: Vec<ProbePart>,
    pub(super) probes: usize,
}

/// Up to so many probes, products with rows as they are stored take less time than taking the rows apart for a panel.
const FEW: usize = 8;

/// The probes of a part, for visits of each encoding.
pub(super) struct FewColumns {
    of_4_bit: Vec<Column>,
    of_8_bit: Vec<Column>,
}

impl FewColumns {
    /// For visits of this encoding.
    pub(super) fn get(&self, encoding: Encoding) -> Option<&[Column]> {
        match encoding {
            Encoding::Q4 => Some(&self.of_4_bit),
            Encoding::Q8 => Some(&self.of_8_bit),
            _ => None,
        }
    }
}

pub(super) struct ProbePart {
    pub(super) width: usize,
    /// Its columns, and their scales.
    pub(super) codes: Option<(Panels, Vec<f32>)>,
    /// The same columns, if there are few and no errors are wanted, for which the codes of visits are read.
    pub(super) few: Option<FewColumns>,
    /// `[probes, width]`; made of the codes when it is asked for.
    numbers: OnceLock<Vec<f32>>,
    pub(super) noise: Vec<Noise>,
    pub(super) apart: ApartNumbers,
    pub(super) whole: bool,
    rests: OnceLock<Vec<f32>>,
    squares: OnceLock<Option<(Panels, Vec<f32>)>>,
}

impl ProbeSide {
    /// `stored` is `[probes][parts]`.
    pub(in crate::influence) fn new(scheme: &Scheme, stored: &[Vec<Stored>]) -> Self {
        let parts = scheme.widths.iter().enumerate().map(|(number, &width)| {
            let of_part = || stored.iter().map(move |parts| &parts[number]);
            let mut part = ProbePart {
                width,
                codes: None,
                few: None,
                numbers: OnceLock::new(),
                noise: if scheme.errors() { of_part().map(Stored::noise).collect() } else { Vec::new() },
                apart: ApartNumbers::collect(of_part().map(|vector| vector.apart.clone())),
                whole: of_part().all(|vector| vector.whole),
                rests: OnceLock::new(),
                squares: OnceLock::new(),
            };
            if width <= WIDTH_MAX && of_part().all(|vector| matches!(vector.rest, Rest::Codes { .. })) {
                let mut panels = Panels::new(width, stored.len());
                let mut scales = vec![0f32; stored.len().next_multiple_of(COLUMNS)];
                for (probe, vector) in of_part().enumerate() {
                    if let Rest::Codes { codes, scale, .. } = &vector.rest {
                        panels.set(probe, codes);
                        scales[probe] = *scale;
                    }
                }
                part.codes = Some((panels, scales));
                if stored.len() <= FEW && !scheme.errors() {
                    let columns = |make: fn(&[i8]) -> Column| {
                        let codes = of_part().filter_map(|vector| match &vector.rest {
                            Rest::Codes { codes, .. } => Some(codes.as_slice()),
                            Rest::Numbers(_) => None,
                        });
                        codes.map(make).collect()
                    };
                    part.few =
                        Some(FewColumns { of_4_bit: columns(Column::for_4_bit), of_8_bit: columns(Column::for_8_bit) });
                }
            } else {
                part.numbers = OnceLock::from(of_part().flat_map(Stored::rest).collect::<Vec<f32>>());
            }
            part
        });
        Self { parts: parts.collect(), probes: stored.len() }
    }

    /// Probes rounded up to whole panels.
    pub(super) fn padded(&self) -> usize {
        self.probes.next_multiple_of(COLUMNS)
    }
}

impl ProbePart {
    /// `[probes, width]`: the numbers without those that are kept apart.
    pub(super) fn numbers(&self, probes: usize) -> &[f32] {
        self.numbers.get_or_init(|| {
            let Some((panels, scales)) = &self.codes else { return Vec::new() };
            let column =
                |probe: usize| panels.get(probe).take(self.width).map(move |code| scales[probe] * f32::from(code));
            (0..probes).flat_map(column).collect()
        })
    }

    /// Numbers in a vector that is rotated back.
    pub(super) fn buckets(&self) -> usize {
        if self.whole {
            self.width
        } else {
            self.width.next_power_of_two()
        }
    }

    /// `[buckets, padded]`: the numbers without those that are kept apart, rotated back. Made when it is asked for.
    pub(super) fn rests(&self, probes: usize, padded: usize) -> &[f32] {
        self.rests.get_or_init(|| {
            let mut all = vec![0f32; self.buckets() * padded];
            for (probe, numbers) in self.numbers(probes).chunks_exact(self.width.max(1)).enumerate() {
                let mut numbers = numbers.to_vec();
                if !self.whole {
                    rotate_back(&mut numbers);
                }
                for (bucket, number) in numbers.into_iter().enumerate() {
                    all[bucket * padded + probe] = number;
                }
            }
            all
        })
    }

    /// The squares of the codes, rounded to 7 bits, and what one is worth. Made when it is asked for.
    pub(super) fn squares(&self, probes: usize) -> Option<&(Panels, Vec<f32>)> {
        let squares = self.squares.get_or_init(|| {
            let (panels, scales) = self.codes.as_ref()?;
            let mut squares = Panels::new(self.width, probes);
            let mut codes = Vec::with_capacity(self.width);
            for probe in 0..probes {
                codes.clear();
                let square = |code: i8| ((i32::from(code) * i32::from(code) + 63) / 127).min(127) as i8;
                codes.extend(panels.get(probe).take(self.width).map(square));
                squares.set(probe, &codes);
            }
            Some((squares, scales.iter().map(|scale| 127.0 * scale * scale).collect()))
        });
        squares.as_ref()
    }
}

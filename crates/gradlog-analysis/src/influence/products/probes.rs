//! The probes' side of products: packed once for all the visits that come by.

use super::scheme::Scheme;
use super::variance::Noise;
use gradlog_format::run::Vectors;
use gradlog_format::sketch::Encoding;
use gradlog_kernels::int8::{Panels, COLUMNS, WIDTH_MAX};
use std::sync::OnceLock;

/// A stored vector on its way into [`ProbeSide`].
pub(in crate::influence) enum Stored {
    Codes { codes: Vec<i8>, scale: f32, signs: bool },
    Numbers(Vec<f32>),
}

impl Stored {
    pub(in crate::influence) fn read(vectors: &Vectors, row: usize) -> Self {
        let (bytes, scale) = vectors.row(row);
        if vectors.encoding().code_max().is_some() && vectors.width() <= WIDTH_MAX {
            let mut codes = vec![0i8; vectors.width()];
            vectors.encoding().codes(bytes, &mut codes);
            return Stored::Codes { codes, scale: scale.to_f32(), signs: vectors.encoding() == Encoding::Signs };
        }
        let mut numbers = vec![0f32; vectors.width()];
        vectors.decode(row, &mut numbers);
        Stored::Numbers(numbers)
    }

    fn number(&self) -> impl Iterator<Item = f32> + '_ {
        let (codes, numbers, step) = match self {
            Stored::Codes { codes, scale, .. } => (codes.as_slice(), &[][..], *scale),
            Stored::Numbers(numbers) => (&[][..], numbers.as_slice(), 0.0),
        };
        codes.iter().map(move |code| step * f32::from(*code)).chain(numbers.iter().copied())
    }

    /// The squared norm of the vector that this stands for.
    pub(in crate::influence) fn squared_norm(&self) -> f64 {
        self.noise().squared_norm()
    }

    /// Multiplies the vector by a number.
    pub(in crate::influence) fn scale(&mut self, factor: f32) {
        match self {
            Stored::Codes { scale, .. } => *scale *= factor,
            Stored::Numbers(numbers) => numbers.iter_mut().for_each(|number| *number *= factor),
        }
    }

    fn noise(&self) -> Noise {
        match self {
            Stored::Codes { codes, scale, signs: true } => Noise::of_signs(codes.len(), *scale),
            Stored::Codes { codes, scale, .. } => Noise::of_codes(codes, *scale),
            Stored::Numbers(numbers) => Noise::of_numbers(numbers),
        }
    }
}

/// The gradients of all probes of a pass at one time.
pub(in crate::influence) struct ProbeSide {
    pub(super) parts: Vec<ProbePart>,
    pub(super) probes: usize,
}

pub(super) struct ProbePart {
    pub(super) width: usize,
    /// Its columns, and their scales.
    pub(super) codes: Option<(Panels, Vec<f32>)>,
    /// `[probes, width]`; made of the codes when it is asked for.
    numbers: OnceLock<Vec<f32>>,
    pub(super) noise: Vec<Noise>,
}

impl ProbeSide {
    /// `stored` is `[probes][parts]`.
    pub(in crate::influence) fn new(scheme: &Scheme, stored: &[Vec<Stored>]) -> Self {
        let parts = scheme.widths.iter().enumerate().map(|(number, &width)| {
            let of_part = || stored.iter().map(move |parts| &parts[number]);
            let noise = if scheme.errors() { of_part().map(Stored::noise).collect() } else { Vec::new() };
            let mut part = ProbePart { width, codes: None, numbers: OnceLock::new(), noise };
            if width <= WIDTH_MAX && of_part().all(|vector| matches!(vector, Stored::Codes { .. })) {
                let mut panels = Panels::new(width, stored.len());
                let mut scales = vec![0f32; stored.len().next_multiple_of(COLUMNS)];
                for (probe, vector) in of_part().enumerate() {
                    if let Stored::Codes { codes, scale, .. } = vector {
                        panels.set(probe, codes);
                        scales[probe] = *scale;
                    }
                }
                part.codes = Some((panels, scales));
            } else {
                part.numbers = OnceLock::from(of_part().flat_map(Stored::number).collect::<Vec<f32>>());
            }
            part
        });
        Self { parts: parts.collect(), probes: stored.len() }
    }
}

impl ProbePart {
    pub(super) fn numbers(&self, probes: usize) -> &[f32] {
        self.numbers.get_or_init(|| {
            let Some((panels, scales)) = &self.codes else { return Vec::new() };
            let column =
                |probe: usize| panels.get(probe).take(self.width).map(move |code| scales[probe] * f32::from(code));
            (0..probes).flat_map(column).collect()
        })
    }
}

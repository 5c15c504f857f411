//! A card, and the bytes of it that go to the log.

use super::limits::CardLimits;
use super::rows::{CardKey, CardRow};
use super::thumbnail::{shrink, SIDE_MAX};
use crate::recorder::error::RecordError;
use candle_core::{DType, Device, Tensor};
use gradlog_format::log::{encode_row, CardKind};

/// What an example looks like, for [`Recorder::describe`](crate::Recorder::describe).
///
/// ```
/// use gradlog::Card;
///
/// let gray = Card::Image { width: 3, height: 2, pixels: vec![0, 10, 20, 30, 40, 50] };
/// let text = Card::Text("a film to forget".into());
/// let row = Card::Row(vec![("species".into(), "Adelie".into()), ("bill".into(), "39.1".into())]);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Card {
    /// A picture. The log keeps a thumbnail of at most 64 pixels a side: each pixel of it is the mean of the pixels
    /// that it covers.
    Image {
        /// Pixels in a row.
        width: u32,
        /// Rows.
        height: u32,
        /// Row by row from the top: `width * height` bytes of gray, or three times as many of red, green and blue.
        pixels: Vec<u8>,
    },
    /// A text.
    Text(String),
    /// A row of a table: names and values.
    Row(Vec<(String, String)>),
}

impl Card {
    /// The picture of a tensor `[height, width]`, `[1, height, width]` or `[3, height, width]`. Bytes (u8) are taken as
    /// they are. Floats are taken for 0 to 1: `round(255 x)`, cut off at both ends, and 0 for NaN.
    ///
    /// # Errors
    /// [`RecordError::Config`] for other shapes and types; [`RecordError::Candle`] if the tensor cannot be read.
    pub fn image(tensor: &Tensor) -> Result<Self, RecordError> {
        let wrong = || {
            let (shape, dtype) = (tensor.dims(), tensor.dtype());
            let what = format!(
                "no picture is a tensor {shape:?} of {dtype:?}: give [height, width], [1, height, width] or [3, height, \
                 width], of u8 or of floats from 0 to 1"
            );
            RecordError::Config(what)
        };
        let (channels, height, width) = match tensor.dims() {
            [height, width] => (1, *height, *width),
            [channels @ (1 | 3), height, width] => (*channels, *height, *width),
            _ => return Err(wrong()),
        };
        let flat = tensor.detach().reshape((channels, height * width))?.t()?.flatten_all()?.to_device(&Device::Cpu)?;
        let pixels = match tensor.dtype() {
            DType::U8 => flat.to_vec1::<u8>()?,
            dtype if dtype.is_float() => {
                let numbers = flat.to_dtype(DType::F32)?.to_vec1::<f32>()?;
                // A cast of NaN is 0.
                numbers.into_iter().map(|x| (255.0 * x).round().clamp(0.0, 255.0) as u8).collect()
            }
            _ => return Err(wrong()),
        };
        let side = |pixels: usize| u32::try_from(pixels).map_err(|_| wrong());
        Ok(Card::Image { width: side(width)?, height: side(height)?, pixels })
    }

    /// Makes the row for the log.
    ///
    /// # Errors
    /// Why the card is refused, in words.
    pub(super) fn into_row(self, key: CardKey, limits: &CardLimits) -> Result<CardRow, String> {
        let row = match self {
            Card::Image { width, height, pixels } => {
                let count = u64::from(width) * u64::from(height);
                let kind = match pixels.len() as u64 {
                    0 => return Err("its picture has no pixels".into()),
                    bytes if bytes == count => CardKind::Gray,
                    bytes if count.checked_mul(3) == Some(bytes) => CardKind::Rgb,
                    bytes => {
                        return Err(format!(
                            "its picture has {bytes} bytes, and {width} × {height} pixels take {count} in gray and 3 \
                             times as many in color"
                        ))
                    }
                };
                let channels = if kind == CardKind::Rgb { 3 } else { 1 };
                let (width, bytes) = shrink(width as usize, height as usize, channels, pixels);
                CardRow { key, kind, width: width.min(SIDE_MAX) as u32, bytes }
            }
            Card::Text(text) => CardRow { key, kind: CardKind::Text, width: 0, bytes: text.into_bytes() },
            Card::Row(cells) => {
                let length: usize = cells.iter().map(|(name, value)| name.len() + value.len() + 8).sum();
                // Not copied if it is refused anyway.
                if length > limits.bytes_each {
                    return Err(too_long(length, limits));
                }
                let cells = cells.iter().map(|(name, value)| (name.as_str(), value.as_str()));
                CardRow { key, kind: CardKind::Row, width: 0, bytes: encode_row(cells) }
            }
        };
        match row.bytes.len() {
            length if length > limits.bytes_each => Err(too_long(length, limits)),
            _ => Ok(row),
        }
    }
}

fn too_long(length: usize, limits: &CardLimits) -> String {
    format!("it has {length} bytes, and `cards.bytes_each` allows {}", limits.bytes_each)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: CardKey = CardKey { set: None, example: 1 };

    #[test]
    fn a_tensor_becomes_pixels() {
        let cpu = &Device::Cpu;
        let gray = Tensor::new(&[[0f32, 0.5, 1.0], [-1.0, 2.0, f32::NAN]], cpu).unwrap();
        let expected = Card::Image { width: 3, height: 2, pixels: vec![0, 128, 255, 0, 255, 0] };
        assert_eq!(Card::image(&gray).unwrap(), expected);
        assert_eq!(Card::image(&gray.unsqueeze(0).unwrap()).unwrap(), expected);
        // Channels come first in a tensor and last in a picture.
        let color = Tensor::from_vec((0..12u8).collect::<Vec<_>>(), (3, 2, 2), cpu).unwrap();
        let pixels = vec![0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11];
        assert_eq!(Card::image(&color).unwrap(), Card::Image { width: 2, height: 2, pixels });
        for (shape, dtype) in [(&[4, 2, 2][..], DType::F32), (&[4], DType::F32), (&[2, 2], DType::U32)] {
            let error = Card::image(&Tensor::zeros(shape, dtype, cpu).unwrap()).unwrap_err();
            assert!(error.to_string().contains("no picture is a tensor"), "{error}");
        }
    }

    #[test]
    fn what_is_no_picture_or_too_long_is_refused() {
        let limits = CardLimits::default().bytes_each(20);
        let refused = |card: Card| card.into_row(KEY, &limits).unwrap_err();
        let image = |width, height, bytes| Card::Image { width, height, pixels: vec![0; bytes] };
        assert_eq!(refused(image(0, 3, 0)), "its picture has no pixels");
        assert!(refused(image(2, 3, 7)).contains("has 7 bytes, and 2 × 3 pixels take 6"));
        assert!(refused(image(u32::MAX, u32::MAX, 7)).contains("has 7 bytes"));
        assert!(refused(Card::Text("x".repeat(21))).contains("it has 21 bytes, and `cards.bytes_each` allows 20"));
        assert!(refused(Card::Row(vec![("name".into(), "x".repeat(9))])).contains("it has 21 bytes"));
        assert_eq!(Card::Text("x".repeat(20)).into_row(KEY, &limits).unwrap().bytes.len(), 20);
        let color = image(2, 3, 18).into_row(KEY, &limits).unwrap();
        assert_eq!((color.kind, color.width, color.bytes.len()), (CardKind::Rgb, 2, 18));
    }
}

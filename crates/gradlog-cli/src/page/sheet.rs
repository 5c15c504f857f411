//! Pictures side by side in PNG sheets: one sheet is far smaller than its pictures apart.

use super::arrays::base64;
use super::limits::PICTURE_BYTES_MAX;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ColorType, ImageEncoder, ImageError};
use serde_json::{json, Value};

/// A picture of 8-bit numbers, row by row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Picture {
    pub width: u32,
    pub height: u32,
    /// Whether a pixel has three numbers, red, green and blue, or one.
    pub is_color: bool,
    pub pixels: Vec<u8>,
}

/// Pictures of a sheet.
const SHEET: usize = 400;
/// Pictures in a row of a sheet.
const ACROSS: usize = 20;

/// How many bytes of pictures are left for a page.
#[derive(Debug)]
pub(crate) struct Budget(usize);

impl Budget {
    pub(crate) fn new() -> Self {
        Self(PICTURE_BYTES_MAX)
    }
}

/// Puts pictures into sheets until the budget is spent. Returns the sheets, and how many of the pictures are in them.
///
/// # Errors
/// What the encoder says.
pub(crate) fn write_sheets(pictures: &[Picture], budget: &mut Budget) -> Result<(Vec<Value>, usize), ImageError> {
    let (mut sheets, mut held) = (Vec::new(), 0);
    for pictures in pictures.chunks(SHEET) {
        let (cell_width, cell_height) = cell(pictures);
        let encoded = base64(&encode(pictures, cell_width, cell_height)?);
        let Some(left) = budget.0.checked_sub(encoded.len()) else { break };
        budget.0 = left;
        held += pictures.len();
        let sizes: Vec<[u32; 2]> = pictures.iter().map(|picture| [picture.width, picture.height]).collect();
        let all_alike = sizes.iter().all(|size| *size == [cell_width, cell_height]);
        sheets.push(json!({
            "png": encoded,
            "count": pictures.len(),
            "across": ACROSS,
            "cell": [cell_width, cell_height],
            "sizes": if all_alike { Value::Null } else { json!(sizes) },
        }));
    }
    Ok((sheets, held))
}

fn cell(pictures: &[Picture]) -> (u32, u32) {
    let most = |side: fn(&Picture) -> u32| pictures.iter().map(side).max().unwrap_or(1).max(1);
    (most(|picture| picture.width), most(|picture| picture.height))
}

fn encode(pictures: &[Picture], cell_width: u32, cell_height: u32) -> Result<Vec<u8>, ImageError> {
    let is_color = pictures.iter().any(|picture| picture.is_color);
    let channels = if is_color { 3 } else { 1 };
    let (across, down) = (ACROSS.min(pictures.len()), pictures.len().div_ceil(ACROSS));
    let (width, height) = (across * cell_width as usize, down * cell_height as usize);
    let mut sheet = vec![0u8; width * height * channels];
    for (at, picture) in pictures.iter().enumerate() {
        let (left, top) = (at % ACROSS * cell_width as usize, at / ACROSS * cell_height as usize);
        let own = if picture.is_color { 3 } else { 1 };
        let line = picture.width as usize * own;
        for (y, row) in picture.pixels.chunks_exact(line.max(1)).take(picture.height as usize).enumerate() {
            for (x, pixel) in row.chunks_exact(own).enumerate() {
                let to = ((top + y) * width + left + x) * channels;
                match (is_color, pixel) {
                    (true, [gray]) => sheet[to..to + 3].fill(*gray),
                    (_, pixel) => sheet[to..to + own].copy_from_slice(pixel),
                }
            }
        }
    }
    let mut png = Vec::new();
    let encoder = PngEncoder::new_with_quality(&mut png, CompressionType::Best, FilterType::NoFilter);
    let kind = if is_color { ColorType::Rgb8 } else { ColorType::L8 };
    encoder.write_image(&sheet, width as u32, height as u32, kind.into())?;
    Ok(png)
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;

    fn gray(value: u8) -> Picture {
        Picture { width: 2, height: 2, is_color: false, pixels: vec![value; 4] }
    }

    #[test]
    fn a_picture_lies_where_its_number_says() {
        let mut pictures: Vec<Picture> = (0..25).map(gray).collect();
        pictures[21] = Picture { width: 1, height: 2, is_color: true, pixels: vec![9, 8, 7, 6, 5, 4] };
        let (sheets, held) = write_sheets(&pictures, &mut Budget::new()).unwrap();
        assert_eq!((sheets.len(), held, sheets[0]["sizes"][21].clone()), (1, 25, json!([1, 2])));
        let png = base64::engine::general_purpose::STANDARD.decode(sheets[0]["png"].as_str().unwrap()).unwrap();
        let sheet = image::load_from_memory(&png).unwrap().to_rgb8();
        assert_eq!((sheet.width(), sheet.height()), (40, 4));
        assert_eq!(sheet.get_pixel(2 * 3 + 1, 1).0, [3, 3, 3]);
        assert_eq!((sheet.get_pixel(2, 2).0, sheet.get_pixel(2, 3).0), ([9, 8, 7], [6, 5, 4]));
    }

    #[test]
    fn no_more_is_written_than_the_budget_allows() {
        let pictures: Vec<Picture> = (0..900).map(|at| gray(at as u8)).collect();
        let (_, all) = write_sheets(&pictures, &mut Budget::new()).unwrap();
        let (sheets, held) = write_sheets(&pictures, &mut Budget(10)).unwrap();
        assert_eq!((all, sheets.len(), held), (900, 0, 0));
    }
}

//! Numbers as bytes in base64, little endian: a quarter of what JSON takes, and read at once.

use base64::engine::general_purpose::STANDARD;
use base64::Engine;
use serde_json::{json, Value};

/// Bytes as base64.
pub(crate) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

fn packed(kind: &str, bytes: &[u8]) -> Value {
    json!({ "kind": kind, "bytes": base64(bytes) })
}

/// 8-bit numbers.
pub(crate) fn u8s(values: impl IntoIterator<Item = u8>) -> Value {
    packed("u8", &values.into_iter().collect::<Vec<u8>>())
}

/// 16-bit numbers.
pub(crate) fn u16s(values: impl IntoIterator<Item = u16>) -> Value {
    packed("u16", &values.into_iter().flat_map(u16::to_le_bytes).collect::<Vec<u8>>())
}

/// 32-bit numbers.
pub(crate) fn u32s(values: impl IntoIterator<Item = u32>) -> Value {
    packed("u32", &values.into_iter().flat_map(u32::to_le_bytes).collect::<Vec<u8>>())
}

/// 32-bit floats.
pub(crate) fn f32s(values: impl IntoIterator<Item = f32>) -> Value {
    packed("f32", &values.into_iter().flat_map(f32::to_le_bytes).collect::<Vec<u8>>())
}

/// Ids of examples: 32 bits each if all fit, else 64.
pub(crate) fn ids(values: impl IntoIterator<Item = u64>) -> Value {
    let values: Vec<u64> = values.into_iter().collect();
    match values.iter().map(|id| u32::try_from(*id)).collect::<Result<Vec<u32>, _>>() {
        Ok(small) => u32s(small),
        Err(_) => packed("u64", &values.into_iter().flat_map(u64::to_le_bytes).collect::<Vec<u8>>()),
    }
}

/// Stands for no label in [`labels`].
const NO_LABEL: u32 = u32::MAX;

/// Labels or predictions; the largest number stands for none.
pub(crate) fn labels(values: impl IntoIterator<Item = Option<u32>>) -> Value {
    let values: Vec<u32> = values.into_iter().map(|label| label.unwrap_or(NO_LABEL)).collect();
    let none_in = |limit: u32| values.iter().all(|label| *label < limit || *label == NO_LABEL);
    if none_in(u32::from(u8::MAX)) {
        u8s(values.into_iter().map(|label| label as u8)) // the largest becomes the largest
    } else if none_in(u32::from(u16::MAX)) {
        u16s(values.into_iter().map(|label| label as u16))
    } else {
        u32s(values)
    }
}

/// A number of 0 to `most` on a grid of 65,535 steps; NaN becomes the largest.
pub(crate) fn on_grid(value: f64, most: f64) -> u16 {
    if value.is_nan() {
        return u16::MAX;
    }
    (value / most * 65_534.0).round().clamp(0.0, 65_534.0) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(value: &Value) -> (String, Vec<u8>) {
        let bytes = STANDARD.decode(value["bytes"].as_str().unwrap()).unwrap();
        (value["kind"].as_str().unwrap().to_owned(), bytes)
    }

    #[test]
    fn ids_and_labels_take_the_fewest_bytes_that_hold_them() {
        assert_eq!(decoded(&ids([1, 258])), ("u32".into(), vec![1, 0, 0, 0, 2, 1, 0, 0]));
        assert_eq!(decoded(&ids([1 << 40])), ("u64".into(), vec![0, 0, 0, 0, 0, 1, 0, 0]));
        assert_eq!(decoded(&labels([Some(3), None, Some(254)])), ("u8".into(), vec![3, 255, 254]));
        assert_eq!(decoded(&labels([Some(255), None])), ("u16".into(), vec![255, 0, 255, 255]));
        assert_eq!(decoded(&labels([Some(65_535)])).0, "u32");
        assert_eq!(decoded(&f32s([1.0])).1, 1f32.to_le_bytes());
    }

    #[test]
    fn the_grid_has_a_place_for_every_number() {
        assert_eq!((on_grid(0.0, 1.0), on_grid(1.0, 1.0), on_grid(f64::NAN, 1.0)), (0, 65_534, 65_535));
        assert_eq!((on_grid(-3.0, 1.0), on_grid(7.0, 1.0)), (0, 65_534));
    }
}

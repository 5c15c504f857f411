//! What an example looks like: kinds of card, and the bytes of a row (FORMAT.md, "Cards").

/// What the bytes of a card are. The discriminants are the numbers in the file. Numbers are added, and never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
#[non_exhaustive]
pub enum CardKind {
    /// A picture with one byte a pixel, row by row from the top.
    Gray = 1,
    /// A picture with three bytes a pixel: red, green, blue.
    Rgb = 2,
    /// UTF-8.
    Text = 3,
    /// Names and values, see [`encode_row`].
    Row = 4,
    /// No card: how many were refused.
    Refused = 5,
}

impl CardKind {
    /// The number of the kind in the file.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The kind of a number in the file, or `None` for one that a newer version added.
    pub fn from_code(code: u8) -> Option<Self> {
        let all = [CardKind::Gray, CardKind::Rgb, CardKind::Text, CardKind::Row, CardKind::Refused];
        all.into_iter().find(|kind| kind.code() == code)
    }
}

/// The most bytes of a card. A longer one is damage.
pub const CARD_BYTES_MAX: usize = 1 << 20;

/// The bytes of a row: for each cell its name and its value, each as its length in bytes (u32) and UTF-8.
pub fn encode_row<'a>(cells: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for text in cells.into_iter().flat_map(|(name, value)| [name, value]) {
        // A longer text is refused by the limit of a card.
        bytes.extend(u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend(text.bytes());
    }
    bytes
}

/// The names and values of a row; `None` if the bytes are not those of one.
pub fn decode_row(mut bytes: &[u8]) -> Option<Vec<(String, String)>> {
    let mut take = || -> Option<Option<String>> {
        if bytes.is_empty() {
            return Some(None);
        }
        let (length, rest) = bytes.split_first_chunk::<4>()?;
        let (text, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        bytes = rest;
        Some(Some(std::str::from_utf8(text).ok()?.to_owned()))
    };
    let mut cells = Vec::new();
    while let Some(name) = take()? {
        cells.push((name, take()??));
    }
    Some(cells)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_lengths_and_texts() {
        let bytes = encode_row([("a", "é"), ("", "x")]);
        assert_eq!(bytes, b"\x01\0\0\0a\x02\0\0\0\xc3\xa9\0\0\0\0\x01\0\0\0x");
        let cells = decode_row(&bytes).unwrap();
        assert_eq!(cells, [("a".to_owned(), "é".to_owned()), (String::new(), "x".to_owned())]);
        assert_eq!(decode_row(b""), Some(Vec::new()));
        // Every cut leaves half a cell, but for the one between two cells.
        let whole: Vec<usize> = (0..bytes.len()).filter(|at| decode_row(&bytes[..*at]).is_some()).collect();
        assert_eq!(whole, [0, 11]);
        assert_eq!(decode_row(b"\xff\xff\xff\xffabc"), None);
        assert_eq!(decode_row(b"\x01\0\0\0\xff\0\0\0\0"), None);
    }
}

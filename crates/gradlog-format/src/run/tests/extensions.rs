//! Fields that a later version, or anyone, adds to the manifest (FORMAT.md, "Extension fields").

use super::forge::manifest_file;
use super::*;
use crate::log::{Extension, EXTENSIONS_MAX, PRIVATE_TAG_MIN};

fn field(tag: u16, bytes: &[u8]) -> Extension {
    Extension { tag, bytes: bytes.to_vec() }
}

/// One of a later version, an empty one, one that is anyone's own.
pub(super) fn fields() -> Vec<Extension> {
    vec![field(1, b"of a later version"), field(77, b""), field(PRIVATE_TAG_MIN, &[0, 1, 2, 255])]
}

fn extended() -> Manifest {
    Manifest { extensions: fields(), ..manifest() }
}

/// The payload of a manifest without fields, and these bytes behind it, in a file whose checksum matches.
fn with_tail(tail: &[u8]) -> Vec<u8> {
    let plain = manifest().to_bytes().unwrap();
    manifest_file(1, &[&plain[20..], tail].concat())
}

#[test]
fn fields_stand_behind_the_known_ones_and_come_back() {
    let (plain, bytes) = (manifest().to_bytes().unwrap(), extended().to_bytes().unwrap());
    let mut tail = Vec::new();
    tail.extend([1, 0, 18, 0, 0, 0]);
    tail.extend(b"of a later version");
    tail.extend([77, 0, 0, 0, 0, 0]);
    tail.extend([0, 0x80, 4, 0, 0, 0, 0, 1, 2, 255]);
    assert_eq!(bytes[20..], [&plain[20..], &tail].concat());
    assert_eq!(bytes, with_tail(&tail));
    assert_eq!(Manifest::parse(&bytes).unwrap(), extended());
    assert_eq!(Manifest::parse(&plain).unwrap().extensions, []);
    let most: Vec<Extension> = (1..=EXTENSIONS_MAX as u16).map(|tag| field(tag, &[])).collect();
    let most = Manifest { extensions: most, ..manifest() };
    assert_eq!(Manifest::parse(&most.to_bytes().unwrap()).unwrap(), most);
}

/// The fuzzers begin with the file as the writer makes it.
#[test]
fn the_fuzz_seed_is_a_manifest_with_fields() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds/manifest");
    let bytes = extended().to_bytes().unwrap();
    assert_eq!(std::fs::read(seeds.join("extended-file")).unwrap(), [&[0], &bytes[..]].concat());
    assert_eq!(std::fs::read(seeds.join("extended-payload")).unwrap(), [&[1], &bytes[20..]].concat());
}

#[test]
fn a_run_with_unknown_fields_reads_as_any_other_and_a_recovery_keeps_them() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer =
        LogWriter::create_on(Box::new(MmapStorage::default()), dir.path(), &extended(), options()).unwrap();
    for index in 0..SAMPLE_BLOCKS {
        writer.append(&mut sample_block(index)).unwrap();
    }
    writer.finish().unwrap();
    drop(writer);
    let reading = read(dir.path()).unwrap();
    assert!(!reading.complains() && reading.report.finished, "{reading:?}");
    let to = tempfile::tempdir().unwrap();
    let new = to.path().join("new");
    // Of a sound run, and of one with a loss, whose manifest gets a note.
    Run::open(dir.path()).unwrap().recover(&new).unwrap();
    assert_eq!(Run::open(&new).unwrap().manifest().extensions, fields());
    let path = crate::log::segment_path(dir.path(), 0);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[64 + 20] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let hurt = to.path().join("hurt");
    Run::open(dir.path()).unwrap().recover(&hurt).unwrap();
    let run = Run::open(&hurt).unwrap();
    assert_eq!(run.manifest().extensions, fields());
    assert!(run.manifest().notes.iter().any(|(name, _)| name == "recovered"));
}

#[test]
fn every_cut_and_every_flipped_bit_is_found() {
    let bytes = extended().to_bytes().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("manifest");
    let refused = |bytes: &[u8], what: &str| {
        std::fs::write(&path, bytes).unwrap();
        let opened = Run::open(dir.path());
        assert!(matches!(opened, Err(ReadError::NotARun { .. })), "{what}: {opened:?}");
    };
    for length in 0..bytes.len() {
        refused(&bytes[..length], &format!("cut to {length}"));
    }
    for place in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[place] ^= 1 << bit;
            refused(&flipped, &format!("bit {bit} of byte {place}"));
        }
    }
    // Cut under a checksum that matches: only where a field ends there is a manifest left.
    let (payload, plain) = (&bytes[20..], manifest().to_bytes().unwrap().len() - 20);
    let whole: Vec<usize> = (plain..payload.len())
        .filter(|length| Manifest::parse(&manifest_file(1, &payload[..*length])).is_ok())
        .collect();
    assert_eq!(whole, [plain, plain + 24, plain + 30]);
}

#[test]
fn fields_that_break_the_rules_are_refused() {
    let one = |tag: u16, length: u32, bytes: &[u8]| [&tag.to_le_bytes()[..], &length.to_le_bytes()[..], bytes].concat();
    let cases: [(&str, Vec<u8>, &str); 6] = [
        ("tag 0", one(0, 0, &[]), "field 0 after field 0"),
        ("twice", [one(5, 1, b"a"), one(5, 1, b"b")].concat(), "field 5 after field 5"),
        ("not ascending", [one(6, 0, &[]), one(5, 0, &[])].concat(), "field 5 after field 6"),
        ("too long", one(5, 9, b"short"), "field 5 has 5 bytes of 9"),
        ("2^32 - 1 bytes", one(5, u32::MAX, b"x"), "field 5 has 1 bytes of 4294967295"),
        ("a head that is cut", one(5, 0, &[])[..5].to_vec(), "5 bytes left over"),
    ];
    for (what, tail, said) in cases {
        let (parsed, largest) = allocations::largest_allocation(|| Manifest::parse(&with_tail(&tail)));
        let error = parsed.unwrap_err().to_string();
        assert!(error.contains(said), "{what}: {error}");
        assert!(largest < 1 << 16, "{what}: asked for {largest} bytes");
    }
    let many: Vec<Extension> = (1..=EXTENSIONS_MAX as u16 + 1).map(|tag| field(tag, &[])).collect();
    assert!(Manifest { extensions: many.clone(), ..manifest() }.to_bytes().is_err(), "nor are they written");
    let tail: Vec<u8> = many.iter().flat_map(|field| one(field.tag, 0, &[])).collect();
    assert!(Manifest::parse(&with_tail(&tail)).unwrap_err().to_string().contains("1025 fields"));
    assert!(Manifest { extensions: vec![field(2, &[]), field(1, &[])], ..manifest() }.to_bytes().is_err());
}

//! Fields that a later version or another program adds to the manifest (FORMAT.md, "Extension fields").

use super::forge::manifest_file;
use super::*;
use crate::log::{worker_folder, AllReduce, Extension, WorkerRecord, EXTENSIONS_MAX, PRIVATE_TAG_MIN};

fn field(tag: u16, bytes: &[u8]) -> Extension {
    Extension { tag, bytes: bytes.to_vec() }
}

/// One of a later version, an empty one, a private one.
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
        ("tag 0", one(0, 0, &[]), "invalid tag 0"),
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
    assert!(Manifest::parse(&with_tail(&tail)).unwrap_err().to_string().contains("1025 extension fields"));
    assert!(Manifest { extensions: vec![field(2, &[]), field(1, &[])], ..manifest() }.to_bytes().is_err());
}

/// Whatever is parsed is written back byte for byte. So a recovery keeps what it does not know.
#[test]
fn a_payload_that_is_accepted_is_written_back_unchanged() {
    let payload = extended().to_bytes().unwrap()[20..].to_vec();
    let known = manifest().to_bytes().unwrap().len() - 20;
    let (mut accepted, mut refused, mut fields_differ) = (0, 0, 0);
    for seed in 0..10_000u64 {
        let mut changed = payload.clone();
        for change in 0..1 + number(seed, 0) as u32 % 2 {
            // Half of the changes hit the extension fields.
            let first = if number(seed, 10 + change) & 1 == 0 { known } else { 0 };
            let place = first + number(seed, 20 + change) as usize % (changed.len() - first);
            changed[place] =
                [0, 1, 0x7F, 0x80, 0xFF, number(seed, 30 + change) as u8][number(seed, 40 + change) as usize % 6];
        }
        let bytes = manifest_file(1, &changed);
        let (parsed, largest) = allocations::largest_allocation(|| Manifest::parse(&bytes));
        // A count that lies makes serde reserve a mebibyte, whatever the count.
        assert!(largest <= 1 << 20, "seed {seed}: asked for {largest} bytes");
        match parsed {
            Ok(parsed) => {
                assert_eq!(parsed.to_bytes().unwrap(), bytes, "seed {seed}");
                assert_eq!(parsed == extended(), changed == payload, "seed {seed}");
                fields_differ += u32::from(parsed.extensions != fields());
                accepted += 1;
            }
            Err(_) => refused += 1,
        }
    }
    assert!(accepted > 1_000 && refused > 1_000 && fields_differ > 300, "{accepted} {refused} {fields_differ}");
}

#[test]
fn manifests_of_the_largest_size_are_written_and_read_and_no_larger_ones() {
    let plain = manifest().to_bytes().unwrap().len();
    let room = (64 << 20) - plain - 6;
    let with_value = |bytes: usize| Manifest { extensions: vec![field(1, &vec![7; bytes])], ..manifest() };
    let largest = with_value(room);
    let bytes = largest.to_bytes().unwrap();
    assert_eq!(bytes.len(), 64 << 20);
    assert!(Manifest::parse(&bytes).unwrap() == largest);
    assert!(with_value(room + 1).to_bytes().is_err());
    let longer = manifest_file(1, &[&bytes[20..], &[2, 0, 0, 0, 0, 0]].concat());
    assert!(Manifest::parse(&longer).is_err());
}

/// Parts may differ in their fields. The whole run has those of the lowest rank, and a recovery keeps those of each.
#[test]
fn workers_may_have_different_fields() {
    let dir = tempfile::tempdir().unwrap();
    let own = [vec![field(4, b"of worker 0")], fields()];
    for (rank, extensions) in (0..).zip(own.clone()) {
        let worker = Some(WorkerRecord { rank, workers: 2, reduction: AllReduce::Mean });
        let manifest = Manifest { worker, extensions, ..manifest() };
        let folder = worker_folder(dir.path(), rank);
        let mut writer = LogWriter::create(&folder, &manifest, options()).unwrap();
        writer.append_end().unwrap();
        writer.finish().unwrap();
    }
    let run = Run::open(dir.path()).unwrap();
    assert_eq!(run.manifest().extensions, own[0]);
    let to = tempfile::tempdir().unwrap();
    let new = to.path().join("new");
    run.recover(&new).unwrap();
    let recovered = Run::open(&new).unwrap();
    let kept: Vec<_> = recovered.parts().iter().map(|part| part.manifest().extensions.clone()).collect();
    assert_eq!(kept, own);
}

//! What was written is what is read, for blocks of many shapes.

use super::*;

/// Appends one row of a step to `builder`, and the same numbers to `expected`.
fn put(builder: &mut BlockBuilder, expected: &mut [(ColumnKey, Values)], stream: u64, step: u64) {
    for (place, (key, values)) in expected.iter_mut().enumerate() {
        let any = number(stream, place as u32);
        // Half of the columns hold numbers that compress.
        let any = match key.column {
            Column::Step => step,
            Column::Epoch => step / 9,
            _ if place % 2 == 0 => any,
            _ => any % 3,
        };
        match values {
            Values::Bytes(all) => {
                builder.column(*key, Cells::U8, 1).push(any as u8);
                all.push(any as u8);
            }
            Values::U32(all) => {
                builder.column(*key, Cells::U32, 1).extend((any as u32).to_le_bytes());
                all.push(any as u32);
            }
            Values::U64(all) => {
                builder.column(*key, Cells::U64, 1).extend(any.to_le_bytes());
                all.push(any);
            }
            Values::F32(all) => {
                let value = float(stream, place as u32);
                builder.column(*key, Cells::F32, 1).extend(value.to_le_bytes());
                all.push(value);
            }
            Values::Vectors(encoding, width, all) => {
                let numbers: Vec<f32> = (0..*width).map(|i| float(stream + 1, i as u32)).collect();
                let mut codes = Vec::new();
                let scale = encoding.encode(&numbers, &mut codes).scale;
                builder.column(*key, Cells::Vector(*encoding), *width as u32).extend(&codes);
                let scales = ColumnKey { column: key.column.scales().unwrap(), ..*key };
                builder.column(scales, Cells::Bf16, 1).extend(scale.to_le_bytes());
                all.push((codes, scale.to_bits()));
            }
        }
    }
}

/// A set of columns: some plain ones, and the vectors of some layers.
fn columns(stream: u64) -> Vec<(ColumnKey, Values)> {
    let encodings = [Encoding::F32, Encoding::F16, Encoding::Q8, Encoding::Q4, Encoding::Signs];
    let mut columns = vec![
        (ColumnKey::from(Column::Example), Values::U64(vec![])),
        (ColumnKey::from(Column::Step), Values::U64(vec![])),
        (ColumnKey::from(Column::Epoch), Values::U32(vec![])),
    ];
    let optional = [
        (Column::Label, Values::U32(vec![])),
        (Column::Loss, Values::F32(vec![])),
        (Column::Flags, Values::Bytes(vec![])),
        (Column::Margin, Values::F32(vec![])),
    ];
    for (place, (column, values)) in optional.into_iter().enumerate() {
        if number(stream, place as u32) & 1 == 0 {
            columns.push((column.into(), values));
        }
    }
    for part in 0..(number(stream, 10) % 3) as u16 * 2 {
        let encoding = encodings[number(stream, 20 + u32::from(part)) as usize % 5];
        let width = number(stream, 30 + u32::from(part)) as usize % 40;
        let column = [Column::Input, Column::Delta][usize::from(part) % 2];
        columns.push((ColumnKey { column, layer: part / 2 }, Values::Vectors(encoding, width, vec![])));
    }
    columns
}

#[test]
fn blocks_of_many_shapes_come_back_as_they_were() {
    for seed in 0..60u64 {
        let dir = tempfile::tempdir().unwrap();
        let options = WriterOptions { segment_bytes: 500 + number(seed, 0) % 20_000, zstd_level: (seed % 5) as i32 };
        let storage = Box::new(MmapStorage::default());
        let mut writer = LogWriter::create_on(storage, dir.path(), &manifest(), options).unwrap();
        let mut builder = BlockBuilder::new(BlockKind::Visits);
        let mut written = Vec::new();
        for index in 0..number(seed, 1) % 25 {
            let stream = seed << 32 | index << 16;
            let mut expected = columns(number(stream, 2) % 8);
            let keys: Vec<(ColumnKey, Cells, u32)> =
                expected.iter().flat_map(|(key, values)| shape(*key, values)).collect();
            assert!(builder.prepare(&keys), "an empty builder takes any columns");
            let rows = 1 + number(stream, 3) % 300;
            let (mut steps, mut epochs) = ((u64::MAX, 0), (u32::MAX, 0));
            for row in 0..rows {
                let step = number(stream, 4) % 1000 + row / 3;
                put(&mut builder, &mut expected, stream + row + 100, step);
                steps = (steps.0.min(step), steps.1.max(step));
                epochs = (epochs.0.min(step as u32 / 9), epochs.1.max(step as u32 / 9));
                builder.advance(1, step, step as u32 / 9);
                assert!(builder.prepare(&keys), "its own columns");
            }
            assert!(!builder.prepare(&keys[1..]), "other columns while rows are there");
            writer.append(&mut builder).unwrap();
            if index % 3 == 0 {
                writer.append(&mut builder).unwrap(); // nothing is in it: no block
                writer.sync().unwrap();
            }
            let kind = Some(BlockKind::Visits);
            written.push(Contents { kind, rows: rows as usize, steps, epochs, columns: expected });
        }
        let bytes = writer.written_bytes();
        writer.finish().unwrap();
        drop(writer);
        let reading = read(dir.path()).unwrap();
        assert!(!reading.complains(), "{seed}: {:?} {:?}", reading.error, reading.damage);
        assert_eq!(reading.blocks, written, "{seed}");
        let on_disk: u64 = files(dir.path()).iter().map(|path| path.metadata().unwrap().len()).sum();
        assert_eq!(on_disk, bytes + manifest().to_bytes().unwrap().len() as u64, "{seed}: the count of bytes is off");
        assert_eq!(Run::open(dir.path()).unwrap().manifest(), &manifest());
    }
}

fn shape(key: ColumnKey, values: &Values) -> Vec<(ColumnKey, Cells, u32)> {
    match values {
        Values::Bytes(_) => vec![(key, Cells::U8, 1)],
        Values::U32(_) => vec![(key, Cells::U32, 1)],
        Values::U64(_) => vec![(key, Cells::U64, 1)],
        Values::F32(_) => vec![(key, Cells::F32, 1)],
        Values::Vectors(encoding, width, _) => {
            let scales = ColumnKey { column: key.column.scales().unwrap(), ..key };
            vec![(key, Cells::Vector(*encoding), *width as u32), (scales, Cells::Bf16, 1)]
        }
    }
}

//! `influence --method`, `similar`, `cluster` and `export`, against the library calls behind them.

use super::tests::{gradlog, records, written};
use crate::analysis::{
    clusters, estimate, near_duplicates, neighbours, vectors, Combine, Curvature, Damping, EstimateQuestion, Method,
    Question, Shape, UnitVectors, VectorQuestion,
};
use safetensors::SafeTensors;
use serde_json::Value as Json;

const PROBE: [&str; 4] = ["--probe", "test", "--id", "3"];

fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    PROBE.iter().chain(more).copied().collect()
}

#[test]
fn every_method_says_what_the_library_says() {
    let written = written(true);
    for (method, flags) in [
        (Method::InfluenceFunction, &["--damping", "0.5", "--by-layer", "--numbers", "10"][..]),
        (Method::InfluenceFunction, &["--damping-absolute", "0.25", "--curvature", "set:test"]),
        (Method::DataInf, &["--by-layer"]),
        (Method::Adjoint, &["--curvature", "none"]),
        (Method::Adjoint, &["--numbers", "20"]),
    ] {
        let mut asked = EstimateQuestion::new(Question::one("test", 3), method);
        let given = |name: &str| flags.iter().position(|flag| *flag == name).map(|at| flags[at + 1]);
        asked.shape = Shape {
            length: given("--numbers").map_or(method.default_length(), |n| n.parse().unwrap()),
            by_layer: flags.contains(&"--by-layer"),
        };
        if let Some(factor) = given("--damping") {
            asked.dampings = vec![Damping::Relative(factor.parse().unwrap())];
        }
        if let Some(lambda) = given("--damping-absolute") {
            asked.dampings = vec![Damping::Absolute(lambda.parse().unwrap())];
        }
        match given("--curvature") {
            Some("none") => asked.curvature = Curvature::Nothing,
            Some(_) => asked.curvature = Curvature::Set("test".into()),
            None => {}
        }
        let expected = &estimate(&written.run(), &asked).unwrap()[0];

        let mut line = with(&["--method", method.name(), "--format", "json"]);
        line.extend(flags);
        let (code, json, words) = gradlog(&written, "influence", &line);
        assert_eq!(code, 0, "{words}");
        assert!(words.contains(&expected.variant()) && words.contains("as concentrated as"), "{words}");
        let json: Json = serde_json::from_str(&json).unwrap();
        assert_eq!(json["method"], method.name());
        assert_eq!(json["order"], "positive helps");
        assert_eq!(json["by_layer"], asked.shape.by_layer);
        assert!(json["carriers"].as_f64().unwrap() >= 1.0);
        let rows = json["rows"].as_array().unwrap();
        assert_eq!(rows.len(), expected.rows.len());
        for (row, position) in rows.iter().zip(expected.ranking(0)) {
            assert_eq!(row["example"], expected.rows[position].example);
            let (got, score) = (row["score"].as_f64(), expected.score(position, 0));
            assert!(
                got.map_or(score.is_nan(), |got| (got - score).abs() <= 1e-6 * (1e-6 + score.abs())),
                "{got:?} {score}"
            );
        }
    }
    // All probes, in a table and as rows.
    let (code, csv, words) =
        gradlog(&written, "influence", &["--probe", "test", "--all", "--method", "if", "--format", "csv"]);
    assert_eq!(code, 0, "{words}");
    assert_eq!(records(&csv).1.len(), 60);
    let (code, table, _) = gradlog(&written, "influence", &with(&["--method", "adjoint"]));
    assert_eq!((code, table.lines().next().unwrap().contains("role")), (0, true));
}

#[test]
fn settings_that_do_not_fit_are_refused() {
    let written = written(true);
    for (code, more, says) in [
        (1, &["--damping", "1"][..], "setting without effect"),
        (1, &["--method", "adjoint", "--damping", "1"], "nothing is inverted"),
        (1, &["--method", "if", "--damping", "0"], "above 0"),
        (1, &["--method", "if", "--curvature", "set:none of that name"], "has no probe set"),
        (1, &["--method", "trak"], "cross entropies"),
        (2, &["--method", "if", "--curvature", "something"], "probe set"),
        (2, &["--method", "if", "--damping", "1", "--damping-absolute", "2"], "cannot be used with"),
        (2, &["--method", "magic"], "possible values"),
    ] {
        let (got, out, words) = gradlog(&written, "influence", &with(more));
        assert_eq!((got, out.as_str()), (code, ""), "{words}");
        assert!(words.contains(says), "{words}");
    }
}

#[test]
fn similar_examples_and_pairs() {
    let written = written(true);
    let unit = UnitVectors::new(vectors(&written.run(), &VectorQuestion::means(1024), &|_| {}).unwrap());
    let id = unit.examples[4];
    let (code, csv, words) =
        gradlog(&written, "similar", &["--example", &id.to_string(), "--top", "6", "--format", "csv"]);
    assert_eq!(code, 0, "{words}");
    assert!(words.contains("mean gradients") && words.contains("30 rows"), "{words}");
    let (header, rows) = records(&csv);
    assert_eq!(header, ["example", "cosine", "label"]);
    let expected = neighbours(&unit, 4, 6);
    assert_eq!(rows.len(), 6);
    for (row, found) in rows.iter().zip(&expected) {
        assert_eq!(row[0], found.example.to_string());
        assert!((row[1].parse::<f32>().unwrap() - found.cosine).abs() < 1e-6);
        assert_eq!(row[2], unit.labels[found.position].unwrap().to_string());
    }
    let (_, json, _) = gradlog(&written, "similar", &["--duplicates", "0.1", "--format", "json", "--top", "400"]);
    let json: Json = serde_json::from_str(&json).unwrap();
    assert_eq!(json["rows"].as_array().unwrap().len(), near_duplicates(&unit, 0.1, 400).len());
    for (code, line, says) in [
        (1, &["--example", "31337"][..], "no gradient of example 31337"),
        (2, &[], "required"),
        (2, &["--example", "1", "--duplicates", "1"], "cannot be used with"),
        (1, &["--duplicates", "0.9", "--memory", "0"], "shorter vectors"),
        (1, &["--duplicates", "0.9", "--numbers", "0"], "1 to"),
    ] {
        let (got, out, words) = gradlog(&written, "similar", line);
        assert_eq!((got, out.as_str()), (code, ""), "{words}");
        assert!(words.contains(says), "{words}");
    }
}

#[test]
fn clusters_by_row_and_by_example() {
    let written = written(true);
    let unit = UnitVectors::new(vectors(&written.run(), &VectorQuestion::means(1024), &|_| {}).unwrap());
    let expected = clusters(&unit, 4, 100, 9);
    let line = ["--clusters", "4", "--seed", "9", "--format", "csv"];
    let (code, csv, words) = gradlog(&written, "cluster", &line);
    assert_eq!(code, 0, "{words}");
    let (header, rows) = records(&csv);
    assert_eq!((header[..3].to_vec(), rows.len()), (["example", "cluster", "cosine"].map(String::from).to_vec(), 30));
    for (position, row) in rows.iter().enumerate() {
        assert_eq!((&row[0], &row[1]), (&unit.examples[position].to_string(), &expected.of[position].to_string()));
    }
    let (_, table, _) = gradlog(&written, "cluster", &line[..4]);
    assert_eq!(table.lines().count(), 1 + expected.clusters.len());
}

#[test]
fn export_is_the_vectors() {
    let written = written(true);
    let out = written.path().parent().unwrap().join(format!("export-{}.safetensors", std::process::id()));
    let path = out.to_str().unwrap();
    for (rows, combine) in [("mean", Combine::Mean), ("visits", Combine::Visits), ("applied", Combine::Applied)] {
        let (code, data, words) =
            gradlog(&written, "export", &["--out", path, "--rows", rows, "--numbers", "12", "--epochs", "1.."]);
        assert_eq!((code, data.as_str()), (0, ""), "{words}");
        let window = crate::analysis::Window::epochs(1..u32::MAX);
        let question = VectorQuestion { combine, window, ..VectorQuestion::means(12) };
        let expected = vectors(&written.run(), &question, &|_| {}).unwrap();
        let bytes = std::fs::read(&out).unwrap();
        std::fs::remove_file(&out).unwrap();
        let read = SafeTensors::deserialize(&bytes).unwrap();
        let found = read.tensor("vectors").unwrap();
        assert_eq!(found.shape(), [expected.examples.len(), 12]);
        let values: Vec<f32> =
            found.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        assert_eq!(values, expected.values);
        let examples = read.tensor("example").unwrap();
        let ids: Vec<u64> =
            examples.data().chunks_exact(8).map(|b| u64::from_le_bytes(b.try_into().unwrap())).collect();
        assert_eq!(ids, expected.examples);
        assert!(read.tensor("label").is_ok());
    }
    let (code, _, words) = gradlog(&written, "export", &["--out", path, "--numbers", "0"]);
    assert_eq!((code, out.exists()), (1, false), "{words}");
}

#[test]
fn export_to_numpy_holds_the_same() {
    let written = written(true);
    let path = |name: &str| written.path().join(name).to_str().unwrap().to_owned();
    let (by_name, asked, tensors) = (path("a.NPY"), path("a.bin"), path("a.safetensors"));
    for more in [&["--out", &by_name][..], &["--out", &asked, "--format", "npy"], &["--out", &tensors]] {
        let (code, data, words) = gradlog(&written, "export", &[more, &["--numbers", "12"]].concat());
        assert_eq!((code, data.as_str()), (0, ""), "{words}");
    }
    let bytes = std::fs::read(&by_name).unwrap();
    assert_eq!(std::fs::read(&asked).unwrap(), bytes);
    let other = std::fs::read(&tensors).unwrap();
    let other = SafeTensors::deserialize(&other).unwrap();
    let file = npyz::NpyFile::new(bytes.as_slice()).unwrap();
    let rows = other.tensor("vectors").unwrap().shape()[0];
    assert_eq!(file.shape(), [rows as u64]);
    let npyz::DType::Record(fields) = file.dtype() else { panic!("{:?}", file.dtype()) };
    let names: Vec<&str> = fields.iter().map(|field| field.name.as_str()).collect();
    assert_eq!(names, ["example", "step", "visits", "label", "vectors"]);
    let record = 4 * 8 + 12 * 4;
    for (row, bytes) in bytes[bytes.len() - rows * record..].chunks_exact(record).enumerate() {
        let mut at = 0;
        for name in names.iter() {
            let data = other.tensor(name).unwrap().data();
            let length = data.len() / rows;
            assert_eq!(bytes[at..at + length], data[row * length..(row + 1) * length], "{name}");
            at += length;
        }
    }
}

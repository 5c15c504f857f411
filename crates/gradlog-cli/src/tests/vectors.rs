//! `influence --method`, `similar`, `cluster` and `export`, against the library calls behind them.

use super::{gradlog, records, written};
use gradlog_analysis::{
    spearman, Combine, Curvature, Damping, EstimateQuestion, InfluenceQuestion, Method, Normalization, UnitVectors,
    VectorQuestion,
};
use gradlog_format::sketch::Encoding;
use gradlog_testing::{Draws, Synthetic, Visit};
use safetensors::SafeTensors;
use serde_json::Value as Json;

const PROBE: [&str; 4] = ["--probe", "test", "--id", "3"];

fn probe_line<'a>(more: &[&'a str]) -> Vec<&'a str> {
    PROBE.iter().chain(more).copied().collect()
}

#[test]
fn every_method_says_what_the_library_says() {
    let written = written(true);
    for (method, flags) in [
        (Method::InfluenceFunction, &["--damping", "0.5", "--by-layer", "--numbers", "10"][..]),
        (Method::InfluenceFunction, &["--damping-absolute", "0.25", "--curvature", "set:test"]),
        (Method::Ekfac, &["--damping", "0.5", "--by-layer"]),
        (Method::Ekfac, &["--curvature", "set:test", "--by-layer", "--numbers", "3"]),
        (Method::DataInf, &["--by-layer"]),
        (Method::Adjoint, &["--curvature", "none"]),
        (Method::Adjoint, &["--numbers", "20"]),
    ] {
        let mut asked = EstimateQuestion::new(InfluenceQuestion::new("test").id(3), method);
        let given = |name: &str| flags.iter().position(|flag| *flag == name).map(|at| flags[at + 1]);
        let by_layer = flags.contains(&"--by-layer");
        if let Some(numbers) = given("--numbers") {
            asked = asked.length(numbers.parse().unwrap());
        }
        if by_layer {
            asked = asked.by_layer();
        }
        if let Some(factor) = given("--damping") {
            asked = asked.damping(Damping::Relative(factor.parse().unwrap()));
        }
        if let Some(lambda) = given("--damping-absolute") {
            asked = asked.damping(Damping::Absolute(lambda.parse().unwrap()));
        }
        match given("--curvature") {
            Some("none") => asked = asked.curvature(Curvature::Nothing),
            Some(_) => asked = asked.curvature(Curvature::Set("test".into())),
            None => {}
        }
        let expected = &asked.compute(&written.run()).unwrap()[0];

        let mut line = probe_line(&["--method", method.name(), "--format", "json"]);
        line.extend(flags);
        let (code, json, words) = gradlog(&written, "influence", &line);
        assert_eq!(code, 0, "{words}");
        assert!(words.contains(&expected.variant()) && words.contains("as concentrated as"), "{words}");
        let json: Json = serde_json::from_str(&json).unwrap();
        assert_eq!(json["method"], method.name());
        assert_eq!(json["order"], "positive helps");
        assert_eq!(json["by_layer"], by_layer);
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
    let (code, table, _) = gradlog(&written, "influence", &probe_line(&["--method", "adjoint"]));
    assert_eq!((code, table.lines().nth(1).unwrap().contains("role")), (0, true));
}

/// At a learning rate at which each step makes the derivative longer, the adjoint says so; without curvature it does
/// not grow.
#[test]
fn an_adjoint_that_grows_warns() {
    let probe = Draws(1).visit(3, 6, 0);
    let step = |step| Visit { example: 1, step, learning_rate: 1e4, coefficient: 1.0, clip: 1.0, ..probe.clone() };
    let mut run = Synthetic::new(Encoding::F32);
    run.set(0, "test");
    run.probes(std::slice::from_ref(&probe));
    run.visits(&(0..6).map(step).collect::<Vec<Visit>>());
    run.end();
    let written = run.finish();
    for (curvature, warns) in [("visits", true), ("none", false)] {
        let (code, table, words) =
            gradlog(&written, "influence", &probe_line(&["--method", "adjoint", "--curvature", curvature]));
        assert_eq!(code, 0, "{words}");
        assert!(table.contains("momentum and weight decay were not told"), "{table}");
        assert_eq!(words.contains("warning: the derivatives grew"), warns, "{words}");
    }
}

/// Sides that are stored as signs are told of, exact ones are not.
#[test]
fn ekfac_of_signs_warns() {
    for (encoding, warns) in [(Encoding::Signs, true), (Encoding::F32, false)] {
        let mut draws = Draws(4);
        let mut run = Synthetic::new(encoding);
        run.set(0, "test");
        run.probes(&[draws.visit(3, 6, 0)]);
        run.visits(&(0..6).map(|id| draws.visit(id, id, 0)).collect::<Vec<Visit>>());
        run.end();
        let (code, _, words) = gradlog(&run.finish(), "influence", &probe_line(&["--method", "ekfac"]));
        assert_eq!((code, words.contains("warning: sides of gradients were stored as signs")), (0, warns), "{words}");
        assert_eq!(words.contains("(2 with a side stored as signs)"), warns, "{words}");
    }
}

#[test]
fn a_sweep_over_dampings_is_its_answers_one_after_another() {
    let written = written(true);
    let told = |more: &[&str]| -> (Json, String) {
        let (code, json, words) = gradlog(&written, "influence", &[&probe_line(&["--format", "json"]), more].concat());
        assert_eq!(code, 0, "{words}");
        (serde_json::from_str(&json).unwrap(), words)
    };
    for (method, flag) in
        [("if", "--damping"), ("if", "--damping-absolute"), ("ekfac", "--damping"), ("datainf", "--damping")]
    {
        let alone = ["0.01", "0.5", "20"].map(|value| told(&["--method", method, flag, value]).0);
        // In whatever order they are given, they come from the smallest to the largest.
        let (all, words) = told(&["--method", method, flag, "0.5,20,0.01"]);
        let mut expected = Vec::new();
        for (json, damping) in alone.iter().zip([0.01, 0.5, 20.0]) {
            for row in json["rows"].as_array().unwrap() {
                let mut row = row.clone();
                row["damping"] = damping.into();
                expected.push(row);
            }
        }
        let rows = all["rows"].as_array().unwrap();
        assert_eq!(rows.len(), expected.len());
        for (row, expected) in rows.iter().zip(&expected) {
            let number = |row: &Json| row["score"].as_f64();
            assert_eq!((&row["damping"], &row["example"]), (&expected["damping"], &expected["example"]));
            let close = |a: f64, b: f64| (a - b).abs() <= 1e-5 * (1e-6 + b.abs());
            assert!(number(row).zip(number(expected)).is_none_or(|(a, b)| close(a, b)), "{row} {expected}");
        }
        for key in ["damping", "carriers"] {
            assert_eq!(all[key].as_array().unwrap().len(), 3);
        }
        assert_eq!(all["damping"][1], alone[1]["damping"]);
        assert!(all["variant"].as_str().unwrap().contains("dampings 0.01, 0.5, 20"), "{}", all["variant"]);
        // Neighbors, by what the answers alone say.
        let scores = |json: &Json| -> Vec<f64> {
            let mut rows = json["rows"].as_array().unwrap().clone();
            rows.sort_by_key(|row| row["example"].as_u64());
            rows.iter().filter_map(|row| row["score"].as_f64()).collect()
        };
        let strongest = |json: &Json, end: f64| -> Vec<u64> {
            let mut rows = json["rows"].as_array().unwrap().clone();
            rows.retain(|row| row["score"].as_f64().is_some_and(|score| end * score > 0.0));
            rows.sort_by(|a, b| (end * b["score"].as_f64().unwrap()).total_cmp(&(end * a["score"].as_f64().unwrap())));
            rows.iter().take(10).map(|row| row["example"].as_u64().unwrap()).collect()
        };
        for number in 0..2 {
            let (one, next) = (&alone[number], &alone[number + 1]);
            let correlation = spearman(&scores(one), &scores(next));
            assert!((all["spearman_to_next"][number].as_f64().unwrap() - correlation).abs() < 1e-3);
            let ends = [1.0, -1.0].map(|end| (strongest(one, end), strongest(next, end)));
            let kept: usize = ends.iter().map(|(a, b)| a.iter().filter(|id| b.contains(id)).count()).sum();
            let there: usize = ends.iter().map(|(a, _)| a.len()).sum();
            let told = all["kept_to_next"][number].as_f64().unwrap();
            assert!((told - kept as f64 / there as f64).abs() < 1e-9, "{told} {kept} {there}");
        }
        assert!(words.contains("from damping 0.01 to 0.5: rank correlation "), "{words}");
        assert!(words.contains("damping 20: the hundredth"), "{words}");
    }
    let sweep = ["--method", "if", "--damping", "0.1,1"];
    let csv = gradlog(&written, "influence", &[&probe_line(&["--format", "csv"])[..], &sweep].concat()).1;
    let (header, rows) = records(&csv);
    assert_eq!((header[..2].to_vec(), rows.len()), (["damping", "example"].map(String::from).to_vec(), 60));
    let table = gradlog(&written, "influence", &[&probe_line(&["--top", "2"])[..], &sweep].concat()).1;
    let first = |line: &str| line.split_whitespace().next().map(str::to_owned);
    let firsts: Vec<String> = table.lines().skip(1).filter_map(first).collect();
    assert_eq!(firsts.len(), 9);
    assert_eq!(firsts[0], "damping");
    // A table has a column for errors only where the method says them.
    assert!(!table.contains('±'), "{table}");
    let (code, csv, words) =
        gradlog(&written, "influence", &[&["--probe", "test", "--all", "--format", "csv"][..], &sweep].concat());
    assert_eq!((code, records(&csv).1.len()), (0, 120));
    assert!(words.contains("from damping 0.1 to 1 over 2 probes"), "{words}");
    let (nearest, _) = told(&[&sweep[..], &["--nearest", "3"]].concat());
    assert_eq!(nearest["rows"].as_array().unwrap().len(), 2 * 9);
    assert_eq!(nearest["nearest_also_proponents"].as_array().unwrap().len(), 2);
}

#[test]
fn influence_functions_are_normalized_by_relatif() {
    let written = written(true);
    let question = InfluenceQuestion::new("test").id(3).normalization(Normalization::Relatif);
    let asked = EstimateQuestion::new(question, Method::InfluenceFunction);
    let expected = &asked.compute(&written.run()).unwrap()[0];
    let line = probe_line(&["--method", "if", "--normalize", "relatif", "--format", "csv"]);
    let (code, csv, words) = gradlog(&written, "influence", &line);
    assert!(code == 0 && words.contains("RelatIF"), "{words}");
    for (row, position) in records(&csv).1.iter().zip(expected.ranking(0)) {
        assert_eq!(row[0], expected.rows[position].example.to_string());
    }
}

#[test]
fn settings_that_do_not_fit_are_refused() {
    let written = written(true);
    for (code, more, says) in [
        (2, &["--damping", "1"][..], "setting of another --method"),
        (2, &["--method", "adjoint", "--damping", "1"], "nothing is inverted"),
        (2, &["--method", "if", "--damping", "0"], "above 0"),
        (2, &["--method", "if", "--damping", "0.1,0"], "above 0"),
        (2, &["--method", "if", "--damping=0.1,-2"], "above 0"),
        (2, &["--method", "if", "--damping-absolute", "0.1,NaN"], "above 0"),
        (2, &["--method", "if", "--damping", "-1"], "`-1` is not a number above 0"),
        (2, &["--method", "if", "--damping", "-1,0.1"], "`-1` is not a number above 0"),
        (2, &["--method", "if", "--numbers", "0"], "1 to 65536"),
        (2, &["--method", "if", "--damping", "0.1,2,0.1"], "0.1 is given twice"),
        (2, &["--method", "adjoint", "--damping", "1,2"], "nothing is inverted"),
        (2, &["--damping", "1,2"], "setting of another --method"),
        (2, &["--soft-threshold", "1"], "setting of another --method"),
        (2, &["--method", "if", "--soft-threshold", "1"], "belongs to TRAK"),
        (2, &["--method", "trak", "--soft-threshold=-1"], "at least 0"),
        (2, &["--method", "if", "--normalize", "cosine"], "none, or relatif"),
        (2, &["--method", "datainf", "--normalize", "relatif"], "none, or relatif"),
        (2, &["--method", "ekfac", "--normalize", "cosine"], "none, or relatif"),
        (2, &["--method", "ekfac", "--curvature", "none"], "influence functions and EK-FAC"),
        (2, &["--method", "ekfac", "--soft-threshold", "1"], "belongs to TRAK"),
        (2, &["--method", "if", "--damping", "1", "--damping", "2"], "cannot be used multiple times"),
        (2, &["--method", "if", "--damping", "1,x"], "invalid value"),
        (1, &["--method", "if", "--curvature", "set:none of that name"], "has no probe set"),
        (1, &["--method", "trak"], "cross entropies"),
        (2, &["--method", "if", "--curvature", "something"], "probe set"),
        (2, &["--method", "if", "--damping", "1", "--damping-absolute", "2"], "cannot be used with"),
        (2, &["--method", "magic"], "possible values"),
    ] {
        let (got, out, words) = gradlog(&written, "influence", &probe_line(more));
        assert_eq!((got, out.as_str()), (code, ""), "{words}");
        assert!(words.contains(says), "{words}");
    }
}

#[test]
fn similar_examples_and_pairs() {
    let written = written(true);
    let unit = UnitVectors::new(VectorQuestion::new(1024).compute(&written.run()).unwrap());
    let id = unit.examples[4];
    let (code, csv, words) =
        gradlog(&written, "similar", &["--example", &id.to_string(), "--top", "6", "--format", "csv"]);
    assert_eq!(code, 0, "{words}");
    assert!(words.contains("mean gradients") && words.contains("30 rows"), "{words}");
    let (header, rows) = records(&csv);
    assert_eq!(header, ["example", "cosine", "label"]);
    let expected = unit.neighbors(4, 6);
    assert_eq!(rows.len(), 6);
    for (row, found) in rows.iter().zip(&expected) {
        assert_eq!(row[0], found.example.to_string());
        assert!((row[1].parse::<f32>().unwrap() - found.cosine).abs() < 1e-6);
        assert_eq!(row[2], unit.labels[found.position].unwrap().to_string());
    }
    let (_, json, _) = gradlog(&written, "similar", &["--duplicates", "0.1", "--format", "json", "--top", "400"]);
    let json: Json = serde_json::from_str(&json).unwrap();
    assert_eq!(json["rows"].as_array().unwrap().len(), unit.near_duplicates(0.1, 400).len());
    for (code, line, says) in [
        (1, &["--example", "31337"][..], "no gradient of example 31337"),
        (2, &[], "required"),
        (2, &["--example", "1", "--duplicates", "1"], "cannot be used with"),
        (2, &["--duplicates", "0.9", "--memory", "0"], "not in 1.."),
        (2, &["--duplicates", "nan"], "not a cosine"),
        (2, &["--duplicates", "1.5"], "not a cosine"),
        (2, &["--duplicates", "0.9", "--numbers", "0"], "1 to"),
    ] {
        let (got, out, words) = gradlog(&written, "similar", line);
        assert_eq!((got, out.as_str()), (code, ""), "{words}");
        assert!(words.contains(says), "{words}");
    }
}

#[test]
fn clusters_by_row_and_by_example() {
    let written = written(true);
    let unit = UnitVectors::new(VectorQuestion::new(1024).compute(&written.run()).unwrap());
    let expected = unit.clusters(4, 100, 9);
    let line = ["--clusters", "4", "--seed", "9", "--format", "csv"];
    let (code, csv, words) = gradlog(&written, "cluster", &line);
    assert_eq!(code, 0, "{words}");
    let (header, rows) = records(&csv);
    assert_eq!((header[..3].to_vec(), rows.len()), (["example", "cluster", "cosine"].map(String::from).to_vec(), 30));
    for (position, row) in rows.iter().enumerate() {
        assert_eq!(
            (&row[0], &row[1]),
            (&unit.examples[position].to_string(), &expected.assignments[position].to_string())
        );
    }
    let (_, table, _) = gradlog(&written, "cluster", &line[..4]);
    assert_eq!(table.lines().count(), 2 + expected.clusters.len());
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
        let question = VectorQuestion::new(12).combine(combine).epochs(1..);
        let expected = question.compute(&written.run()).unwrap();
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
        let norms = read.tensor("norm").unwrap();
        let norms = norms.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
        assert!(norms.zip(&expected.norms).all(|(found, norm)| found == *norm as f32));
    }
    let (code, _, words) = gradlog(&written, "export", &["--out", path, "--numbers", "0"]);
    assert_eq!((code, out.exists()), (2, false), "{words}");
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
    let rows = other.tensor("vectors").unwrap().shape()[0];
    let names = ["example", "step", "visits", "label", "norm", "vectors"];
    let header = String::from_utf8_lossy(&bytes[10..10 + usize::from(bytes[8]) + 256 * usize::from(bytes[9])]);
    assert!(header.contains(&format!("'shape': ({rows}, )")), "{header}");
    let places: Vec<usize> = names.iter().map(|name| header.find(&format!("('{name}', ")).unwrap()).collect();
    assert!(places.is_sorted(), "{header}");
    let record = 4 * 8 + 4 + 12 * 4;
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

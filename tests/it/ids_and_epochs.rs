//! Ids and epochs as loops have them: ids of many types, ids from content with their map, and runs whose loop does not
//! say its epochs.

use crate::common::*;
use candle_core::{Device, Module, Tensor};
use gradlog::{ids, Recorder};

#[test]
fn a_pass_takes_ids_as_the_loop_has_them() {
    let dir = tempfile::tempdir().unwrap();
    let OneLayer { taps, layer, .. } = one_layer(3);
    let mut recorder = Recorder::create(dir.path(), &taps, exact()).unwrap();
    macro_rules! record {
        ($ids:expr) => {{
            let mut pass = recorder.pass($ids).unwrap();
            pass.cross_entropy(&layer.forward(&noise(1, &[2, 4])).unwrap(), &labels(2)).unwrap().backward().unwrap();
            pass.commit(0.1).unwrap();
        }};
    }
    let order: Vec<u32> = vec![3, 0, 2, 1];
    order.chunks(2).for_each(|chunk| record!(chunk));
    record!(&Tensor::new(&order[..2], &Device::Cpu).unwrap());
    record!(&[7usize, 8]);
    record!(9..11u64);
    record!(&(11..13u32).map(u64::from).collect::<Vec<_>>());
    let rows = noise(1, &[2, 4]);
    let content = ids::content_ids(&rows).unwrap();
    record!(&content);
    let error = recorder.pass(&[1, -1]).unwrap_err().to_string();
    assert!(error.contains("step 7") && error.contains("the id -1 is negative"), "{error}");
    recorder.save_ids(&content).unwrap();
    recorder.finish().unwrap();
    let mut expected = vec![3, 0, 2, 1, 3, 0, 7, 8, 9, 10, 11, 12];
    expected.extend(&content);
    assert_eq!(visited(dir.path()), expected);
    let saved = std::fs::read_to_string(dir.path().join("ids.csv")).unwrap();
    assert_eq!(saved, format!("id,position\n{},0\n{},1\n", content[0], content[1]));
    // A disabled recorder refuses nothing and writes nothing.
    let mut disabled = Recorder::disabled();
    drop(disabled.pass(&[-1]).unwrap());
    disabled.save_ids(&[-1]).unwrap();
}

#[test]
fn a_run_without_epochs_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let record = |name: &str, epochs: u32, set: bool| {
        let run = dir.path().join(name);
        let OneLayer { taps, layer, .. } = one_layer(3);
        let mut recorder = Recorder::create(&run, &taps, exact()).unwrap();
        for epoch in 0..epochs {
            if set {
                recorder.set_epoch(epoch);
            }
            record_noise(&mut recorder, &layer, &[1, 2]).unwrap();
        }
        recorder.finish().unwrap();
        run.to_str().unwrap().to_owned()
    };
    let (unset, set, one) = (record("unset", 2, false), record("set", 2, true), record("one", 1, false));
    let call = "`recorder.set_epoch(epoch)`";
    for (run, told) in [(&unset, true), (&set, false), (&one, false)] {
        let info = gradlog(&["info", run]);
        assert_eq!(info.out.contains(call), told, "{}", info.out);
    }
    let asked = gradlog(&["scores", &unset, "--score", "grand", "--epochs", "1.."]);
    assert!(asked.err.contains(call) && asked.err.contains("no visit lies inside"), "{}", asked.err);
    let asked = gradlog(&["scores", &set, "--score", "grand", "--epochs", "2.."]);
    assert!(!asked.err.contains(call) && asked.err.contains("no visit lies inside"), "{}", asked.err);
}

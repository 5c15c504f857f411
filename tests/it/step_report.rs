//! What an optimizer tells about its steps, and what the log, `info` and the adjoint make of what it does not tell.

use crate::common::*;
use candle_core::{backprop::GradStore, Module, Result, Var};
use candle_nn::{AdamW, Linear, Optimizer, ParamsAdamW, SGD};
use gradlog::{Config, Pass, Recorder, StepInfo, StepReport, Tapped, Taps};
use gradlog_format::log::{BlockKind, Column};
use gradlog_format::run::Run;
use std::path::Path;
use std::process::Command;

/// An optimizer of another crate: it has momentum, and tells it by the trait.
struct Foreign(SGD);

impl Optimizer for Foreign {
    type Config = f64;

    fn new(variables: Vec<Var>, rate: f64) -> Result<Self> {
        Ok(Self(SGD::new(variables, rate)?))
    }

    fn step(&mut self, grads: &GradStore) -> Result<()> {
        self.0.step(grads)
    }

    fn learning_rate(&self) -> f64 {
        self.0.learning_rate()
    }

    fn set_learning_rate(&mut self, rate: f64) {
        self.0.set_learning_rate(rate);
    }
}

impl StepReport for Foreign {
    fn step_info(&self) -> StepInfo {
        StepInfo::new(self.learning_rate()).momentum(0.75)
    }
}

/// Ends a pass over the loss that it has.
type End<'a> = dyn FnMut(Pass<'_>, &candle_core::Tensor) + 'a;

/// Records three steps and a probe at the end.
fn record(dir: &Path, make: impl FnOnce(Vec<Var>) -> Box<End<'static>>) {
    let taps = Taps::new();
    let weight = Var::from_tensor(&noise(1, &[2, 3])).unwrap();
    let layer: Tapped<Linear> = taps.tap("fc", Linear::new(weight.as_tensor().clone(), None));
    let mut end = make(vec![weight]);
    let mut recorder = Recorder::create(dir, &taps, Config::default()).unwrap();
    for step in 0..3 {
        let mut pass = recorder.pass(&[step, step + 10]).unwrap();
        let loss = pass.mse(&layer.forward(&noise(step, &[2, 3])).unwrap(), &noise(9, &[2, 2])).unwrap();
        end(pass, &loss);
    }
    let mut probe = recorder.probe("test", &[99]).unwrap();
    probe.mse(&layer.forward(&noise(7, &[1, 3])).unwrap(), &noise(8, &[1, 2])).unwrap().backward().unwrap();
    probe.commit().unwrap();
    recorder.finish().unwrap();
}

fn step_by<O: Optimizer + StepReport + 'static>(mut optimizer: O) -> Box<End<'static>> {
    Box::new(move |pass, loss| drop(pass.backward_step(&mut optimizer, loss).unwrap()))
}

/// Momentum and weight decay of the steps as the log has them, and the two lines of `gradlog info`.
fn told(dir: &Path) -> ([Option<Vec<f32>>; 2], [String; 2]) {
    let columns = [Column::Momentum, Column::WeightDecay].map(|column| {
        let steps = blocks(dir, BlockKind::Steps);
        let holding: Vec<_> = steps.iter().filter(|block| block.has(column)).collect();
        (!holding.is_empty()).then(|| holding.iter().flat_map(|block| block.f32s(column).unwrap()).collect())
    });
    let command = env!("CARGO_BIN_EXE_gradlog-under-test");
    let info = Command::new(command).arg("info").arg(dir).output().unwrap();
    let info = String::from_utf8(info.stdout).unwrap();
    let line = |name: &str| {
        let line = info.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{info}"));
        line[name.len()..].trim().to_owned()
    };
    (columns, [line("momentum"), line("weight decay")])
}

/// What the adjoint says about the optimizer.
fn adjoint_words(dir: &Path) -> String {
    let command = env!("CARGO_BIN_EXE_gradlog-under-test");
    let mut command = Command::new(command);
    let output = command.arg("influence").arg(dir).args(["--probe", "test", "--id", "99", "--method", "adjoint"]);
    let output = output.output().unwrap();
    let words = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{words}");
    let rows = String::from_utf8(output.stdout).unwrap();
    rows.lines().find(|line| line.starts_with("# ")).unwrap_or_else(|| panic!("{rows}")).to_owned()
}

#[test]
fn what_an_optimizer_does_not_tell_is_not_zero() {
    let dir = tempfile::tempdir().unwrap();
    let run = |name: &str| dir.path().join(name);
    let some = |value: f32| Some(vec![value; 3]);

    record(&run("foreign"), |variables| step_by(Foreign::new(variables, 0.1).unwrap()));
    let words = ["0.75 to 0.75".to_owned(), "not told".to_owned()];
    assert_eq!(told(&run("foreign")), ([some(0.75), None], words));
    let words = adjoint_words(&run("foreign"));
    assert!(words.contains("momentum up to 0.75") && words.contains("weight decay was not told"), "{words}");

    record(&run("bare"), |variables| {
        let mut optimizer = SGD::new(variables, 0.1).unwrap();
        Box::new(move |pass, loss| {
            let grads = loss.backward().unwrap();
            pass.commit(0.1).unwrap();
            optimizer.step(&grads).unwrap();
        })
    });
    assert_eq!(told(&run("bare")), ([None, None], ["not told".to_owned(), "not told".to_owned()]));
    let words = adjoint_words(&run("bare"));
    assert!(words.contains("momentum and weight decay were not told"), "{words}");

    record(&run("sgd"), |variables| step_by(SGD::new(variables, 0.1).unwrap()));
    assert_eq!(told(&run("sgd")), ([some(0.0), some(0.0)], ["0 to 0".to_owned(), "0 to 0".to_owned()]));
    let words = adjoint_words(&run("sgd"));
    assert!(words.contains("SGD with momentum up to 0 and weight decay up to 0"), "{words}");

    record(&run("adam"), |variables| step_by(AdamW::new(variables, ParamsAdamW::default()).unwrap()));
    // Its decay acts on the weights, as the rule says. Its moments are no momentum.
    assert_eq!(told(&run("adam")), ([None, some(0.01)], ["not told".to_owned(), "0.01 to 0.01".to_owned()]));
    assert_eq!(f32s(&run("adam"), BlockKind::Steps, Column::LearningRate), [0.001; 3]);
}

/// Some steps of a block tell it and others do not, in both orders; a block behind them starts anew.
#[test]
fn steps_that_tell_and_steps_that_do_not_share_a_block() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::create(dir.path(), &Taps::new(), Config::default()).unwrap();
    let commit = |recorder: &mut Recorder, step: StepInfo| {
        let mut pass = recorder.pass(&[1]).unwrap();
        pass.mse(&noise(1, &[1, 1]), &noise(2, &[1, 1])).unwrap();
        pass.commit(step).unwrap();
    };
    let plain = || StepInfo::new(0.1);
    for step in [plain(), plain().momentum(0.5), plain(), plain().momentum(0.25).weight_decay(0.125)] {
        commit(&mut recorder, step);
    }
    recorder.flush().unwrap();
    commit(&mut recorder, plain());
    recorder.flush().unwrap();
    commit(&mut recorder, plain().momentum(0.0));
    recorder.finish().unwrap();
    let steps = blocks(dir.path(), BlockKind::Steps);
    let shown = |block: usize, column: Column| {
        let values = steps[block].has(column).then(|| steps[block].f32s(column).unwrap());
        values.map(|values| values.iter().map(|value| value.to_string()).collect::<Vec<_>>().join(" "))
    };
    assert_eq!(shown(0, Column::Momentum).unwrap(), "NaN 0.5 NaN 0.25");
    assert_eq!(shown(0, Column::WeightDecay).unwrap(), "NaN NaN NaN 0.125");
    assert_eq!((shown(1, Column::Momentum), shown(1, Column::WeightDecay)), (None, None));
    assert_eq!((shown(2, Column::Momentum), shown(2, Column::WeightDecay)), (Some("0".into()), None));
    let report = Run::open(dir.path()).unwrap().verify().unwrap();
    assert_eq!((report.damage, report.finished), (None, true));
    let (_, info) = told(dir.path());
    assert_eq!(info, ["0 to 0.5, not told for 3 steps", "0.125 to 0.125, not told for 5 steps"]);
}

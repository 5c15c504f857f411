//! The one reader of rows: every reason to leave a row out, under every rule.

use super::gradient::Layout;
use super::inside::Inside;
use super::reader::{BlockRows, RowReader, WantedGradient};
use super::rule::{AbsentNumber, Predictions, RowRule, UnseenGradient, Verdict};
use super::sweep::Sweeps;
use crate::{AnalysisError, LeftOut, Window};
use gradlog_format::log::{BlockKind, Column};
use gradlog_format::run::{Block, Run};
use gradlog_format::sketch::Encoding;
use gradlog_testing::{Draws, Opened, Synthetic, Visit};

/// One row for each thing that can be wrong with it; the first is in order.
fn rows() -> Vec<Visit> {
    let mut draws = Draws(17);
    let mut rows: Vec<Visit> = (0..7).map(|id| draws.visit(id, id, 0)).collect();
    rows[1].flags = Column::FLAG_NOT_FINITE;
    rows[2].flags = Column::FLAG_NO_WEIGHT;
    rows[3].loss = f32::NAN;
    (rows[4].loss, rows[4].positions) = (f32::NAN, 0);
    rows[5].positions = 2;
    rows[6].coefficient = f32::INFINITY;
    rows
}

fn write(without: &[Column]) -> Opened {
    let mut run = Synthetic::new(Encoding::F32);
    run.without = without.to_vec();
    run.visits(&rows());
    // The second row is repeated by the last.
    let swept = [&rows()[..], &rows()[1..2]].concat();
    run.sweeps(&swept.iter().map(|row| Visit { step: 9, ..row.clone() }).collect::<Vec<_>>());
    run.end();
    run.finish().run()
}

fn read(
    run: &Run,
    window: &Window,
    rule: RowRule,
    gradient: WantedGradient<'_>,
) -> Result<(BlockRows, Vec<usize>, LeftOut), AnalysisError> {
    let sweeps = Sweeps::find(run, window, crate::rows::sweep::Untrained::Counts)?;
    let reader = RowReader { window, sweeps: &sweeps, rule, gradient };
    let block: Block = run.scan().find(|block| window.is_on(block)).unwrap();
    let mut left_out = sweeps.left_out();
    let rows = reader.read(&block)?;
    let counting = rows.counting(&mut left_out);
    Ok((rows, counting, left_out))
}

#[test]
fn each_rule_leaves_out_what_it_says() {
    let run = write(&[]);
    let (visits, sweeps) = (Window::everything(), Window::sweeps());
    let ask = |window: &Window, rule| {
        let (_, counting, left_out) = read(&run, window, rule, WantedGradient::None).unwrap();
        (counting, left_out)
    };
    let left_out = |not_finite, unseen| LeftOut { not_finite, unseen, ..LeftOut::default() };

    // A score of the loss: no gradient, any number of predictions.
    let loss = RowRule::outputs(&[Column::Loss]);
    assert_eq!(ask(&visits, loss), (vec![0, 2, 5, 6], left_out(2, 1)));
    // The same of the gradient itself, and multiplied by the coefficient.
    let grand = RowRule { unseen: UnseenGradient::LeftOut, ..loss };
    assert_eq!(ask(&visits, grand), (vec![0, 5, 6], left_out(2, 2)));
    let weighted = RowRule::gradients(&[Column::Clip, Column::Coefficient], UnseenGradient::ZeroByCoefficient);
    assert_eq!(ask(&visits, weighted), (vec![0, 2, 3, 4, 5], left_out(2, 0)));
    // On sweeps clip factor and coefficient are 1, so no coefficient hides the gradient that was not seen. The replaced
    // row is the one with the flag: it counts once.
    let on_sweeps = LeftOut { not_finite: 1, unseen: 1, replaced: 1, ..LeftOut::default() };
    assert_eq!(ask(&sweeps, weighted), (vec![0, 3, 4, 5, 6], on_sweeps));
    // Predicted classes.
    let votes = RowRule { predictions: Predictions::OneOrLeftOut, ..RowRule::outputs(&[]) };
    let several = LeftOut { several_predictions: 1, ..left_out(1, 0) };
    assert_eq!(ask(&visits, votes), (vec![0, 2, 3, 4, 6], several));
    let forgetting = RowRule { predictions: Predictions::OneOrRefused, ..loss };
    let error = read(&run, &visits, forgetting, WantedGradient::None).unwrap_err();
    assert!(matches!(error, AnalysisError::SeveralPredictions { example: 5, positions: 2 }), "{error}");
    // Outside the window nothing is refused and nothing is counted.
    assert_eq!(ask(&Window::steps(0..3), forgetting), (vec![0, 2], left_out(1, 0)));
}

#[test]
fn a_block_that_lacks_something_is_left_out_as_a_whole() {
    let run = write(&[Column::Margin]);
    let margins = RowRule::outputs(&[Column::Margin]);
    let visits = Window::everything();
    let (rows, counting, left_out) = read(&run, &visits, margins, WantedGradient::None).unwrap();
    assert!(rows.gap.is_some() && counting.is_empty() && rows.numbers.is_empty());
    assert_eq!(left_out, LeftOut { missing: 7, ..LeftOut::default() });
    let ignored = RowRule { absent: AbsentNumber::Ignored, ..margins };
    assert_eq!(read(&run, &visits, ignored, WantedGradient::None).unwrap().1, [0, 2, 3, 4, 5, 6]);

    let plain = RowRule::gradients(&[], UnseenGradient::NotUsed);
    let block = run.scan().find(|block| block.kind() == Some(BlockKind::Visits)).unwrap();
    let layout = Layout::read(&block, run.manifest());
    let other = Layout { folded: None, ..layout.clone() };
    let of_form = |run: &Run, gradient| read(run, &Window::steps(0..5), plain, gradient).unwrap();
    assert_eq!(of_form(&run, WantedGradient::Whole(&layout, run.manifest())).1.len(), 4);
    let other_layers = LeftOut { other_layers: 5, ..LeftOut::default() };
    assert_eq!(of_form(&run, WantedGradient::Whole(&other, run.manifest())).2, other_layers);
    let Some(head) = layout.factored.last() else { panic!("no factors") };
    assert_eq!(
        of_form(&run, WantedGradient::Input { layer: head.layer, width: head.inputs, manifest: run.manifest() })
            .1
            .len(),
        4
    );
    assert_eq!(
        of_form(&run, WantedGradient::Input { layer: head.layer, width: head.inputs + 1, manifest: run.manifest() }).2,
        other_layers
    );
    let bare = write(&[Column::Input, Column::Delta, Column::Folded]);
    let (rows, _, left_out) = of_form(&bare, WantedGradient::Whole(&layout, run.manifest()));
    assert_eq!(left_out, LeftOut { without_gradient: 5, ..LeftOut::default() });
    assert_eq!(rows.inside, Inside::Marked([vec![true; 5], vec![false; 2]].concat()));
}

#[test]
fn a_clip_factor_that_was_not_written_is_one() {
    let mut run = Synthetic::new(Encoding::F32);
    run.sweeps(&rows()[..1]);
    run.end();
    let run = run.finish().run();
    let block = run.scan().next().unwrap();
    assert!(!block.has(Column::Clip));
    let rule = RowRule::outputs(&[Column::Clip]);
    let (window, sweeps) = (&Window::everything(), &Sweeps::default());
    let reader = RowReader { window, sweeps, rule, gradient: WantedGradient::None };
    let rows = reader.read(&block).unwrap();
    assert_eq!((rows.numbers.as_slice(), rows.verdict(0)), (&[vec![1.0]][..], Verdict::Counts));
}

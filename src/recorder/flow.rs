//! What a pass's forward and backward say together: where the gradient ends, and whether an embedding got positions in
//! place of examples.

use super::error::quote_names;
use super::reach::{list_causes, CUT};
use crate::taps::{read_i64, Taken};

/// How far the gradient came, in the order of the forward pass.
#[derive(Debug, Default)]
pub(super) struct Flow {
    uses: Vec<Use>,
}

#[derive(Debug)]
struct Use {
    name: String,
    order: u64,
    uses: usize,
    caught: usize,
}

impl Flow {
    pub(super) fn note(&mut self, name: &str, taken: &Taken) {
        if taken.uses > 0 {
            let (order, uses, caught) = (taken.order, taken.uses, taken.caught.len());
            self.uses.push(Use { name: name.into(), order, uses, caught });
        }
    }

    /// Why layers got no gradient: the causes, the likeliest first.
    pub(super) fn explain(mut self) -> String {
        self.uses.sort_by_key(|layer| layer.order);
        let second =
            "A second forward inside the pass, of a teacher, a target or a metric: run it before `recorder.pass`, or \
                      under `let _paused = taps.pause();`";
        let detached = "An output that is detached or does not reach the loss, of a frozen part or an unused head: tap these \
                        layers with `taps.tap_optional`, which records the gradient zero then; if the optimizer has not got \
                        them, call `taps.trained(&variables)`";
        let is_severed = |layer: &&Use| layer.caught == 0;
        let last = self.uses.iter().rposition(|layer| is_severed(&layer));
        let first = self.uses.iter().position(|layer| !is_severed(&layer));
        // Every layer before some place is severed, and none behind it.
        let cut = last.zip(first).filter(|(last, first)| last < first);
        let place = cut.map(|(last, first)| {
            let (before, behind) = (&self.uses[last].name, &self.uses[first].name);
            format!("The gradient ends between `{before}` and `{behind}`, so look there. ")
        });
        let repeated: Vec<String> = (self.uses.iter())
            .filter(|layer| layer.caught > 0 && layer.caught < layer.uses)
            .map(|layer| layer.name.clone())
            .collect();
        let causes = match (repeated.is_empty(), cut.map(|(last, _)| last)) {
            (false, _) => [second, detached, CUT],
            // One layer alone is rather an unused head, several in a row are rather cut off.
            (true, Some(1..)) => [CUT, detached, second],
            (true, _) => [detached, CUT, second],
        };
        let again = match repeated[..] {
            [] => String::new(),
            _ => format!("Some uses of {} got a gradient and some did not. ", quote_names(&repeated)),
        };
        again + &place.unwrap_or_default() + &list_causes(&causes)
    }
}

/// What the inputs of a pass's layers look like.
#[derive(Debug, Default)]
pub(super) struct Inputs {
    /// Layers whose integers may number positions, with these integers.
    suspects: Vec<(String, Vec<i64>)>,
    /// A layer that saw as many positions as there are examples.
    square: Option<String>,
}

/// Fewer examples prove nothing.
const EXAMPLES_MIN: usize = 2;

impl Inputs {
    pub(super) fn note(&mut self, name: &str, taken: &Taken, batch: usize) {
        if batch < EXAMPLES_MIN {
            return;
        }
        if taken.positions == Some(batch) {
            self.square.get_or_insert_with(|| name.into());
        }
        let flat = taken.flat.iter().filter(|ids| ids.dims() == [batch]);
        let numbers = flat.filter_map(|ids| read_i64(ids).ok()).find(|numbers| is_run(numbers));
        self.suspects.extend(numbers.map(|numbers| (name.to_owned(), numbers)));
    }

    /// Refuses an embedding of `[positions]` ids in a pass with as many examples as positions. Its output `[positions,
    /// width]` is added to each example, so row `i` of its gradient belongs to position `i` of all examples, and not to
    /// example `i`.
    ///
    /// The shape alone cannot tell it from an embedding of one id for each example. So it is refused if the ids are a
    /// run of numbers, `k, k + s, k + 2 s, ...`, and another layer has `[batch, positions, ...]`.
    pub(super) fn check_position_ids(&self, batch: usize) -> Result<(), String> {
        let (Some((name, numbers)), Some(other)) = (self.suspects.first(), &self.square) else { return Ok(()) };
        let (first, last) = (numbers.first().copied().unwrap_or(0), numbers.last().copied().unwrap_or(0));
        Err(format!(
            "layer `{name}` got the ids {first} to {last}, of shape [{batch}], in a pass over {batch} examples, and `{other}` saw \
             {batch} positions. They look like position ids without a batch dimension. Then their gradient would be given to the \
             wrong examples. Give position ids a batch dimension: `ids.unsqueeze(0)?.expand((batch, positions))?`. If it is one id \
             for each example, give `ids.unsqueeze(1)?` and squeeze the output"
        ))
    }
}

/// Whether the numbers ascend or descend in equal steps.
fn is_run(numbers: &[i64]) -> bool {
    let step = |pair: &[i64]| pair[1].wrapping_sub(pair[0]);
    let mut steps = numbers.windows(2).map(step);
    steps.next().is_some_and(|first| first != 0 && steps.all(|other| other == first))
}

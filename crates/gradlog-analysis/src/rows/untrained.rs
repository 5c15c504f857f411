//! Layers that no step changed, or that steps changed in part.

use super::gradient::Layout;
use super::layer_rates::{steps_inside, LayerRates};
use super::window::Window;
use crate::AnalysisError;
use gradlog_format::run::Run;

/// The layers that no step changed, though they are tapped: they are not in the optimizer.
///
/// They are left out of every score that is made of gradients. A layer that shares the folded vector with trained ones
/// cannot be taken out of it, and counts.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub struct UntrainedLayers {
    /// Names of those that are left out.
    pub left_out: Vec<String>,
    /// Names of those that count all the same.
    pub counted: Vec<String>,
    /// Names of layers that were trained in a part of the window only. Scores of single visits leave them out where
    /// they were not trained. Questions with probes and flat vectors refuse such a window.
    pub partly: Vec<String>,
    /// Names of layers of which steps change some parameters and not others. Nothing told which, so the gradients of
    /// the whole layers count, and scores of them are wrong by what the other parameters add.
    pub in_part: Vec<String>,
}

impl UntrainedLayers {
    /// Those of the visits inside `window`.
    ///
    /// # Errors
    /// [`AnalysisError::Read`] if the file system refuses.
    pub fn find(run: &Run, window: &Window) -> Result<Self, AnalysisError> {
        let (rates, layers, mut found) = (LayerRates::read(run)?, &run.manifest().layers, Self::default());
        let Some(steps) = steps_inside(run, window).filter(|_| !rates.is_empty()) else { return Ok(found) };
        let mut blocks = run.scan().filter(|block| window.is_on(block) && window.touches(block));
        let layout =
            blocks.find_map(|block| Some(Layout::read(&block, run.manifest())).filter(|layout| !layout.is_empty()));
        let Some(layout) = layout else { return Ok(found) };
        let is_folded = |number: u16| !layout.factored.iter().any(|factored| factored.layer == number);
        let numbers = || 0..layers.len().min(usize::from(u16::MAX)) as u16;
        let states: Vec<Result<f32, u64>> = numbers().map(|layer| rates.constant(layer, &steps, false)).collect();
        let any_folded = numbers().zip(&states).any(|(layer, state)| is_folded(layer) && *state != Ok(0.0));
        for ((layer, state), number) in layers.iter().zip(states).zip(numbers()) {
            if state != Ok(0.0) && rates.is_in_part(number, &steps) {
                found.in_part.push(layer.name.clone());
            }
            let to = match state {
                Err(_) => &mut found.partly,
                Ok(0.0) if is_folded(number) && any_folded => &mut found.counted,
                Ok(0.0) => &mut found.left_out,
                Ok(_) => continue,
            };
            to.push(layer.name.clone());
        }
        Ok(found)
    }

    /// Whether every layer is trained.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// In words: empty if every layer is trained.
impl std::fmt::Display for UntrainedLayers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts = [
            (&self.left_out, "layers that no step changed are left out"),
            (&self.counted, "layers that no step changed, but that share the folded vector, count"),
            (&self.partly, "layers that were not trained in all steps"),
            (&self.in_part, "layers that were trained in part, and count whole"),
        ];
        let mut and = "";
        for (names, what) in parts.into_iter().filter(|(names, _)| !names.is_empty()) {
            write!(f, "{and}{what}: {}", names.join(", "))?;
            and = "; ";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn untrained_layers_in_words() {
        let name = |name: &str| vec![name.to_owned()];
        let mut found = UntrainedLayers::default();
        assert!(found.is_empty() && found.to_string().is_empty());
        found.left_out = name("a");
        assert_eq!(found.to_string(), "layers that no step changed are left out: a");
        found.partly = name("b");
        assert!(found.to_string().ends_with("; layers that were not trained in all steps: b"));
    }
}

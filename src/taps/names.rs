//! What the names of a model's variables say: which are the statistics of a BatchNorm, and which belong to a layer that
//! hides its tensors.

use super::spec::Parameter;
use candle_core::{Shape, TensorId};

const MEAN: &str = "running_mean";
const VARIANCE: &str = "running_var";

/// The names of the BatchNorm layers among variables: those that have a running mean and a running variance of one
/// shape. The layer at the root of the map has an empty name.
pub(crate) fn find_batch_norms<'a>(variables: impl Iterator<Item = (&'a str, &'a Shape)> + Clone) -> Vec<String> {
    let has_variance = |prefix: &str, shape: &Shape| {
        let full = format!("{prefix}{VARIANCE}");
        variables.clone().any(|(name, other)| name == full && other == shape)
    };
    let means = variables.clone().filter_map(|(name, shape)| Some((name.strip_suffix(MEAN)?, shape)));
    let is_whole_word = |prefix: &str| prefix.is_empty() || prefix.ends_with('.');
    let layers = means.filter(|(prefix, shape)| is_whole_word(prefix) && has_variance(prefix, shape));
    layers.map(|(prefix, _)| prefix.trim_end_matches('.').to_owned()).collect()
}

/// The full name of a BatchNorm's variable.
fn full_name(layer: &str, variable: &str) -> String {
    if layer.is_empty() {
        variable.into()
    } else {
        format!("{layer}.{variable}")
    }
}

/// Whether a variable is a statistic of one of these BatchNorm layers. A statistic is not trained.
pub(crate) fn is_statistic(name: &str, batch_norms: &[String]) -> bool {
    batch_norms.iter().any(|layer| [MEAN, VARIANCE].iter().any(|variable| name == full_name(layer, variable)))
}

/// The name of the weight of a BatchNorm.
pub(crate) fn weight_of(batch_norm: &str) -> String {
    full_name(batch_norm, "weight")
}

/// The name of the running mean of a BatchNorm.
pub(crate) fn mean_of(batch_norm: &str) -> String {
    full_name(batch_norm, MEAN)
}

/// The variables that a layer's parameter may be, by name and shape: for a layer that hides its tensors, or was only
/// declared. The parameter is known if exactly one variable matches. A parameter with an id matches by that.
pub(crate) fn matching_variables<'a>(
    layer: &str,
    parameter: &Parameter,
    variables: impl Iterator<Item = (&'a str, &'a Shape, TensorId)>,
) -> Vec<usize> {
    let full = format!("{layer}.{}", parameter.name);
    let by_name = |name: &str| name == full || name.ends_with(&format!(".{full}"));
    let matches = |(name, shape, id): (&str, &Shape, TensorId)| {
        parameter.id.map_or_else(|| by_name(name) && *shape == parameter.shape, |own| own == id)
    };
    variables.enumerate().filter(|(_, variable)| matches(*variable)).map(|(place, _)| place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_norm_is_known_by_its_two_statistics() {
        let (eight, four) = (Shape::from(8), Shape::from(4));
        let names = [
            ("a.running_mean", &eight),
            ("a.running_var", &eight),
            ("b.running_mean", &eight),
            ("b.running_var", &four),
            ("c.not_running_mean", &eight),
            ("c.not_running_var", &eight),
            ("running_mean", &four),
            ("running_var", &four),
        ];
        let found = find_batch_norms(names.iter().copied());
        assert_eq!(found, ["a", ""]);
        assert!(is_statistic("a.running_mean", &found) && is_statistic("running_var", &found));
        assert!(!is_statistic("b.running_mean", &found) && !is_statistic("a.weight", &found));
        assert_eq!((weight_of("a"), weight_of("")), ("a.weight".into(), "weight".into()));
    }
}

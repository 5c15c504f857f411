//! Values of the libraries that an argument takes by name.

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};

/// A value with a name on the command line. (`clap::ValueEnum` cannot be implemented for types of other crates.)
pub(crate) trait Choice: Copy + PartialEq + Send + Sync + 'static {
    fn all() -> &'static [Self];
    fn word(&self) -> &'static str;
    /// What `--help` says of it.
    fn help(&self) -> &'static str;
}

/// Takes the words of `T` and no others.
pub(crate) fn choice<T: Choice>() -> impl TypedValueParser<Value = T> {
    let possible = T::all().iter().map(|value| PossibleValue::new(value.word()).help(value.help()));
    PossibleValuesParser::new(possible)
        .try_map(|word| T::all().iter().copied().find(|value| value.word() == word).ok_or("no such value"))
}

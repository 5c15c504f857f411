//! Names of choices: `Display` writes the name, and `FromStr` reads it back.

/// Gives an enum with `ALL` and `name()` the two directions between value and text.
macro_rules! named {
    ($type:ty, $what:literal) => {
        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }

        impl std::str::FromStr for $type {
            type Err = $crate::AnalysisError;

            /// The value of this name, or else [`OutOfRange`](crate::AnalysisError::OutOfRange) with all names.
            fn from_str(name: &str) -> Result<Self, Self::Err> {
                Self::ALL.into_iter().find(|value| value.name() == name).ok_or_else(|| {
                    let names = Self::ALL.map(Self::name).join(", ");
                    let range = format!("one of {names}");
                    $crate::AnalysisError::OutOfRange { what: $what, given: name.into(), range }
                })
            }
        }
    };
}

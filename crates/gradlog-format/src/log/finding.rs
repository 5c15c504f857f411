//! What a check of recorded gradients can find (FORMAT.md, "Checks").

/// What a check of recorded gradients found. The discriminants are the bits of [`Column::Findings`](super::Column).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
#[non_exhaustive]
pub enum FindingKind {
    /// Two equal runs of the batch differ, for example by dropout. So couplings could not be looked for.
    Random = 0,
    /// What a layer sees of an example depends on the other examples of the batch.
    CoupledExamples = 1,
    /// The loss of an example depends on the other examples of the batch.
    CoupledLosses = 2,
    /// The batch is not the first dimension of a tapped layer's input or output.
    BatchNotFirst = 3,
    /// A tap's per-example gradients are not those of the layer itself.
    WrongTap = 4,
    /// A parameter gets a gradient from outside its tapped layer: another module uses it, or a term of the loss.
    SharedParameter = 5,
    /// A trained variable that no tap covers. What is recorded is right, but it is not the whole gradient.
    UncoveredVariable = 6,
    /// A tapped layer got no gradient, or the forward pass did not reach it.
    NoGradient = 7,
    /// Recorded gradients are not those of the examples alone, for another reason.
    Disagreement = 8,
}

impl FindingKind {
    const ALL: [FindingKind; 9] = [
        FindingKind::Random,
        FindingKind::CoupledExamples,
        FindingKind::CoupledLosses,
        FindingKind::BatchNotFirst,
        FindingKind::WrongTap,
        FindingKind::SharedParameter,
        FindingKind::UncoveredVariable,
        FindingKind::NoGradient,
        FindingKind::Disagreement,
    ];

    /// The bit of the kind in the file.
    pub fn bit(self) -> u32 {
        1 << self as u32
    }

    /// The kinds of a bit set. Bits that a newer version added are left out.
    pub fn from_bits(bits: u32) -> Vec<Self> {
        Self::ALL.into_iter().filter(|kind| bits & kind.bit() != 0).collect()
    }

    /// Its name, as the command writes it.
    pub fn name(self) -> &'static str {
        match self {
            FindingKind::Random => "random",
            FindingKind::CoupledExamples => "coupled-examples",
            FindingKind::CoupledLosses => "coupled-losses",
            FindingKind::BatchNotFirst => "batch-not-first",
            FindingKind::WrongTap => "wrong-tap",
            FindingKind::SharedParameter => "shared-parameter",
            FindingKind::UncoveredVariable => "uncovered-variable",
            FindingKind::NoGradient => "no-gradient",
            FindingKind::Disagreement => "disagreement",
        }
    }

    /// Whether recorded gradients may then be other than each example's own. Only [`FindingKind::UncoveredVariable`] is
    /// no fault.
    pub fn is_fault(self) -> bool {
        self != Self::UncoveredVariable
    }
}

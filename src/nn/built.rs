//! What all layers of this module have in common.

/// Makes a layer that taps itself out of candle_nn's: clones and prints as that does, is a `Module`, and gives the
/// layer itself.
macro_rules! built_layer {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone)]
        pub struct $name(pub(super) $crate::taps::Tapped<$inner>);

        impl $name {
            /// Taps the layer under the path of `vb`, if taps are collecting.
            #[allow(dead_code, reason = "some layers are built from tensors only")]
            pub(super) fn at(vb: &candle_nn::VarBuilder<'_>, layer: $inner) -> Self {
                Self($crate::taps::tap_built(&vb.prefix(), layer))
            }

            /// The layer as candle_nn has it. A forward pass through it is not recorded.
            pub fn inner(&self) -> &$inner {
                self.0.inner()
            }
        }

        impl candle_nn::Module for $name {
            fn forward(&self, x: &candle_core::Tensor) -> candle_core::Result<candle_core::Tensor> {
                candle_nn::Module::forward(&self.0, x)
            }
        }

        /// Prints the kind and not the numbers.
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }

        /// A layer that was tapped by hand, for a model of this module's types.
        impl From<$crate::taps::Tapped<$inner>> for $name {
            fn from(layer: $crate::taps::Tapped<$inner>) -> Self {
                Self(layer)
            }
        }

        /// Taps the layer if taps are collecting.
        impl From<$inner> for $name {
            fn from(layer: $inner) -> Self {
                Self($crate::taps::tap_built("", layer))
            }
        }
    };
}

pub(super) use built_layer;

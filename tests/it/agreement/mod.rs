//! Agreement with the peers: what gradlog says of two trainings against PyTorch, Captum, dattri and aum,
//! and of EK-FAC against kronfluence.
//!
//! `tests/agreement/reference.py` and `ekfac.py` made the reference values. `docs/agreement.md` has the table and says
//! where conventions differ. This prints the table anew:
//!
//!     cargo test --release -p gradlog-tests --test it agreement -- --nocapture --test-threads 1

mod checkpoints;
mod ekfac;
mod reference;
mod sketches;
mod table;
mod training;

use reference::Reference;
use table::Table;

#[test]
fn an_mlp_agrees_with_the_peers() {
    agree("mlp");
}

#[test]
fn a_cnn_agrees_with_the_peers() {
    agree("cnn");
}

#[test]
fn ekfac_agrees_with_kronfluence() {
    let reference = Reference::load_described("ekfac", "ekfac");
    let mut table = Table::new(&reference);
    ekfac::compare(&reference, &mut table);
    table.check();
}

/// Everything of one training, recorded exactly, within 1e-4 of the reference.
fn agree(name: &str) {
    let reference = Reference::load(name);
    let mut table = Table::new(&reference);
    training::compare(&reference, &mut table);
    checkpoints::compare(&reference, &mut table);
    table.check();
}

//! The configuration with what it names: its text, and the certificates and keys in other files.

use std::path::Path;

use crate::{
    config::{self, Config, problem::Problem},
    identity::pem,
};

/// The whole configuration below `folder` (without a folder the defaults), or every problem that keeps the daemon from
/// starting with it.
pub fn load(folder: Option<&Path>) -> Result<Config, Vec<Problem>> {
    let mut understood = config::load::understand(folder);
    let unfit = understood.pems.iter().flat_map(pem::problems);
    understood.problems.extend(unfit);
    understood.whole()
}

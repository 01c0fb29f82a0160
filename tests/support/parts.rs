//! The programs that scripts/setup.sh builds for the tests.

use std::path::PathBuf;

/// Their folder: `KIT_PARTS`, or `/opt/podbay-parts/bin`.
pub fn parts() -> PathBuf {
    std::env::var_os("KIT_PARTS").map_or_else(|| "/opt/podbay-parts/bin".into(), PathBuf::from)
}

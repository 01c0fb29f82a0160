//! Where podbay answers otherwise than the plugin on purpose, and why.

/// A difference that is meant.
pub struct Exception {
    /// Name of the scenario.
    pub scenario: &'static str,
    /// Where; all below it is meant too. `*` is any one part.
    pub path: &'static str,
    /// Why podbay does it.
    #[allow(dead_code)] // for the reader
    pub reason: &'static str,
}

const fn meant(scenario: &'static str, path: &'static str, reason: &'static str) -> Exception {
    Exception { scenario, path, reason }
}

/// All of them. One that explains no difference any more fails its scenario.
pub const EXCEPTIONS: &[Exception] = &[
];

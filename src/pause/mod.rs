//! The pause program as it is embedded in the agent: a pod starts with no registry at all.

/// The program: a static executable of a few KB for this agent's architecture. It waits for
/// ever as PID 1 of a pod, reaps orphans, and ends with code 0 at SIGTERM or SIGINT.
pub static PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pause"));

#[cfg(test)]
mod tests;

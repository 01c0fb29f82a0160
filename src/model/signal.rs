//! Stop signals.

use serde::{Deserialize, Serialize};

/// A Linux signal number, 1 to 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Signal(i32);

/// A text or number that is not a signal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown signal {0:?}")]
pub struct UnknownSignal(pub String);

impl Signal {
    /// SIGTERM.
    pub const TERM: Self = Self(15);
    /// SIGKILL.
    pub const KILL: Self = Self(9);

    /// The number.
    pub fn number(self) -> i32 {
        self.0
    }

    /// Name with the `SIG` prefix, e.g. `SIGTERM`, `SIGRTMIN+3`.
    pub fn name(self) -> String {
        if let Some((name, _)) = NAMES.iter().find(|(_, number)| *number == self.0) {
            return format!("SIG{name}");
        }
        match self.0 - RTMIN {
            0 => "SIGRTMIN".to_owned(),
            n if n <= 15 => format!("SIGRTMIN+{n}"),
            n if n == RTMAX - RTMIN => "SIGRTMAX".to_owned(),
            n => format!("SIGRTMAX-{}", RTMAX - RTMIN - n),
        }
    }

    /// Parses a number or a name with or without `SIG`, in any case: the forms that an image's
    /// `StopSignal` may have.
    pub fn parse(text: &str) -> Result<Self, UnknownSignal> {
        let unknown = || UnknownSignal(text.to_owned());
        if let Ok(number) = text.parse::<i32>() {
            return if (1..=RTMAX).contains(&number) { Ok(Self(number)) } else { Err(unknown()) };
        }
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        if let Some((_, number)) = NAMES.iter().chain(ALIASES).find(|(known, _)| *known == name) {
            return Ok(Self(*number));
        }
        let number = if name == "RTMIN" {
            Some(RTMIN)
        } else if name == "RTMAX" {
            Some(RTMAX)
        } else if let Some(n) = name.strip_prefix("RTMIN+") {
            n.parse::<i32>().ok().filter(|n| (0..=30).contains(n)).map(|n| RTMIN + n)
        } else if let Some(n) = name.strip_prefix("RTMAX-") {
            n.parse::<i32>().ok().filter(|n| (0..=30).contains(n)).map(|n| RTMAX - n)
        } else {
            None
        };
        number.map(Self).ok_or_else(unknown)
    }
}

const RTMIN: i32 = 34;
const RTMAX: i32 = 64;
const ALIASES: &[(&str, i32)] = &[("CLD", 17), ("POLL", 29), ("IOT", 6), ("UNUSED", 31)];
const NAMES: &[(&str, i32)] = &[
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("PWR", 30),
    ("SYS", 31),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_survives_its_name() {
        for number in (1..=31).chain(RTMIN..=RTMAX) {
            let signal = Signal::parse(&number.to_string()).unwrap();
            assert_eq!(Signal::parse(&signal.name()), Ok(signal), "{number}");
        }
    }

    #[test]
    fn refuses_nonsense() {
        for bad in ["", "0", "65", "-9", "SIGNOPE", "RTMIN+31", "SIG"] {
            assert!(Signal::parse(bad).is_err(), "{bad}");
        }
    }
}

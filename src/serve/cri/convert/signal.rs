//! Stop signals. The interface has its own numbering, so signals are matched by name.

use super::{Invalid, Result, known};
use crate::model::signal::Signal;
use crate::proto::runtime::v1;

const PREFIX: &str = "SIGNAL_";

/// The zero value means the image's signal.
pub(super) fn signal_in(field: &str, number: i32) -> Result<Option<Signal>> {
    let wanted: v1::Signal = known(field, number)?;
    if wanted == v1::Signal::RuntimeDefault {
        return Ok(None);
    }
    let wire = wanted.as_str_name();
    let name = wire.trim_start_matches(PREFIX).replace("PLUS", "+").replace("MINUS", "-");
    Signal::parse(&name).map(Some).map_err(|unknown| Invalid::new(field, unknown))
}

/// The wire value of a signal in force.
pub(super) fn signal_out(signal: Signal) -> v1::Signal {
    let name = signal.name().replace('+', "PLUS").replace('-', "MINUS");
    v1::Signal::from_str_name(&format!("{PREFIX}{name}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_of_the_interface_survives() {
        for number in 1..=65 {
            let signal = signal_in("f", number).unwrap().unwrap();
            let back = signal_out(signal);
            assert_ne!(back, v1::Signal::RuntimeDefault, "{signal:?}");
            assert_eq!(signal_in("f", back as i32).unwrap(), Some(signal));
            // CLD, POLL and IOT are aliases of CHLD, IO and ABRT.
            if ![5, 12, 15].contains(&number) {
                assert_eq!(back as i32, number);
            }
        }
        assert_eq!(signal_in("f", 0), Ok(None));
        assert_eq!(signal_in("f", 23), Ok(Some(Signal::TERM)));
        assert!(signal_in("stop_signal", 66).is_err());
    }
}

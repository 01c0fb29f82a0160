//! Conversion of CPU and memory quantities to numbers and back.

/// A quantity in thousandths, e.g. 250 for `250m`; 0 if invalid.
pub fn milli(quantity: &str) -> i128 {
    let end = quantity.find(|c: char| !c.is_ascii_digit() && !".+-".contains(c));
    let (number, suffix) = quantity.split_at(end.unwrap_or(quantity.len()));
    let binary = |power: u32| (1_i128 << (10 * power), 1);
    let (times, by) = match suffix {
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1000),
        "" => (1, 1),
        "k" => (1000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        _ => match suffix.strip_prefix(['e', 'E']).map(str::parse::<u32>) {
            Some(Ok(power)) if power < 19 => (10_i128.pow(power), 1),
            _ => return 0,
        },
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = fraction.len().min(9);
    let scale = 10_i128.pow(digits as u32);
    let Ok(scaled) = format!("{whole}{}", &fraction[..digits]).parse::<i128>() else { return 0 };
    let up = |value: i128, by: i128| value.div_euclid(by) + i128::from(value.rem_euclid(by) > 0);
    up(scaled.saturating_mul(1000).saturating_mul(times), by * scale)
}

/// Formats thousandths as CPU: `250m`, `2`.
pub fn cpu(milli: i128) -> String {
    if milli % 1000 == 0 { (milli / 1000).to_string() } else { format!("{milli}m") }
}

/// Formats thousandths as bytes, with the largest exact suffix: `64Mi`.
pub fn bytes(milli: i128) -> String {
    let mut value = milli / 1000;
    let mut suffix = "";
    for next in ["Ki", "Mi", "Gi", "Ti"] {
        if value == 0 || value % 1024 != 0 {
            break;
        }
        (value, suffix) = (value / 1024, next);
    }
    format!("{value}{suffix}")
}

/// Percentage of the whole; 0 if that is 0.
pub fn percent(part: i128, whole: i128) -> i128 {
    if whole == 0 { 0 } else { part * 100 / whole }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_and_told() {
        for (text, expected) in [
            ("250m", 250),
            ("2", 2000),
            ("1.5", 1500),
            ("0.1", 100),
            ("1500000n", 2),
            ("1Ki", 1_024_000),
            ("1.5Gi", 1_610_612_736_000),
            ("5e3", 5_000_000),
            ("3M", 3_000_000_000),
            ("", 0),
            ("x", 0),
        ] {
            assert_eq!(milli(text), expected, "{text}");
        }
        assert_eq!((cpu(250), cpu(2000), cpu(0)), ("250m".into(), "2".into(), "0".into()));
        assert_eq!(bytes(milli("128Mi")), "128Mi");
        assert_eq!(bytes(milli("1025")), "1025");
        assert_eq!(bytes(0), "0");
        assert_eq!((percent(1, 3), percent(1, 0)), (33, 0));
    }
}

//! Kubernetes quantities: `500m`, `1.5Gi`, `12e6`.
//!
//! Follows `k8s.io/apimachinery/pkg/api/resource`: fractions of a billionth are rounded up, values
//! are limited to 2^63-1, rounding is away from zero, and the text is canonical: no fraction, the
//! largest exact suffix.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

/// Maximum length of a text in bytes.
const LONGEST: usize = 128;
/// Number of significant digits of a fraction; further ones only round up.
const FRACTION: usize = 18;
const NANO: i128 = 1_000_000_000;
const MOST: i128 = i64::MAX as i128 * NANO;

/// An exact amount. Compared by amount, regardless of notation.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quantity {
    nanos: i128,
    style: Style,
}

/// The kind of suffix in the text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Style {
    /// `m`, `k`, `M`: powers of 1000.
    #[default]
    Decimal,
    /// `Ki`, `Mi`: powers of 1024.
    Binary,
    /// `e3`: powers of ten.
    Exponent,
}

/// Why a text is not a quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// It does not start with a number.
    #[error(
        "quantities must match the regular expression \
         '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
    )]
    Format,
    /// It does not end with a valid suffix.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

impl Quantity {
    /// A number of whole units, e.g. bytes.
    pub fn units(units: i64) -> Self {
        Self { nanos: i128::from(units) * NANO, style: Style::Decimal }
    }

    /// A number of bytes, formatted with `Ki`, `Mi` and so on.
    pub fn bytes(bytes: i64) -> Self {
        Self { nanos: i128::from(bytes) * NANO, style: Style::Binary }
    }

    /// Whole units, rounded away from zero.
    pub fn value(self) -> i64 {
        saturate(divide_up(self.nanos, NANO))
    }

    /// Thousandths, rounded away from zero; at most `i64::MAX`.
    pub fn milli(self) -> i64 {
        saturate(divide_up(self.nanos, NANO / 1000))
    }

    /// Whether it is negative.
    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }

    /// Whether it is zero.
    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }

    /// Whether it is a whole number of units.
    pub fn is_whole(self) -> bool {
        self.nanos % NANO == 0
    }

    /// Zero in the same notation.
    pub fn nothing(self) -> Self {
        Self { nanos: 0, ..self }
    }

    /// The sum, in the notation of the first; limited to the allowed range.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { nanos: (self.nanos + other.nanos).clamp(-MOST, MOST), ..self }
    }

    /// Rounds up to thousandths, as the API server does for resources.
    #[must_use]
    pub fn round_up_to_milli(self) -> Self {
        let step = NANO / 1000;
        Self { nanos: (divide_up(self.nanos, step) * step).clamp(-MOST, MOST), ..self }
    }
}

impl TryFrom<&Text> for Quantity {
    type Error = QuantityError;

    fn try_from(text: &Text) -> Result<Self, QuantityError> {
        text.0.parse()
    }
}

impl From<Quantity> for Text {
    fn from(quantity: Quantity) -> Self {
        Self(quantity.to_string())
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        if text.len() > LONGEST {
            return Err(QuantityError::Format);
        }
        let (negative, rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
            return Err(QuantityError::Format);
        }
        let (style, power) = read_suffix(suffix)?;
        let nanos = match style {
            Style::Binary => nanos(whole, fraction, power),
            Style::Decimal | Style::Exponent => {
                let (whole, fraction) = move_point(whole, fraction, power);
                nanos(&whole, &fraction, 0)
            }
        };
        // Amounts below one are never written with binary suffixes.
        let style = match style {
            Style::Binary if nanos < NANO => Style::Decimal,
            style => style,
        };
        Ok(Self { nanos: if negative { -nanos } else { nanos }, style })
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = self.nanos % NANO == 0;
        if self.style == Style::Binary && whole && self.nanos.abs() >= 1024 * NANO {
            let (amount, times) = without_factor(self.nanos / NANO, 1024);
            let suffix = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][times];
            return write!(f, "{amount}{suffix}");
        }
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let (amount, thousands) = without_factor(self.nanos, 1000);
        match (self.style, thousands as i32 - 3) {
            (_, 0) => write!(f, "{amount}"),
            (Style::Exponent, steps) => write!(f, "{amount}e{}", steps * 3),
            _ => {
                let suffix = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"][thousands];
                write!(f, "{amount}{suffix}")
            }
        }
    }
}

/// Style and exponent: of ten, or of two for binary suffixes.
fn read_suffix(suffix: &str) -> Result<(Style, i32), QuantityError> {
    let decimal = |power| Ok((Style::Decimal, power));
    let binary = |power| Ok((Style::Binary, power));
    match suffix {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => {
            let power = suffix.strip_prefix(['e', 'E']).ok_or(QuantityError::Suffix)?;
            let power: i64 = power.parse().map_err(|_| QuantityError::Suffix)?;
            // Beyond this bound every exponent gives the same result: the limit, or almost nothing.
            let bound = 2 * LONGEST as i64;
            Ok((Style::Exponent, power.clamp(-bound, bound) as i32))
        }
    }
}

/// Digits before and after the point, multiplied by ten to the power.
fn move_point(whole: &str, fraction: &str, power: i32) -> (String, String) {
    let digits = format!("{whole}{fraction}");
    let point = whole.len() as i32 + power;
    if point <= 0 {
        let zeros = "0".repeat(point.unsigned_abs() as usize);
        (String::new(), format!("{zeros}{digits}"))
    } else if point as usize >= digits.len() {
        let zeros = "0".repeat(point as usize - digits.len());
        (format!("{digits}{zeros}"), String::new())
    } else {
        let (whole, fraction) = digits.split_at(point as usize);
        (whole.to_owned(), fraction.to_owned())
    }
}

/// `whole.fraction` times two to the power, in billionths, rounded up, limited to the allowed
/// range.
fn nanos(whole: &str, fraction: &str, power: i32) -> i128 {
    let whole = whole.trim_start_matches('0');
    if whole.len() > 19 {
        return MOST;
    }
    let (fraction, finer) = fraction.split_at(fraction.len().min(FRACTION));
    // A limited number of digits only, so neither can fail.
    let units: i128 = if whole.is_empty() { 0 } else { whole.parse().unwrap_or(i128::MAX) };
    let part: i128 = format!("{fraction:0<FRACTION$}").parse().unwrap_or(i128::MAX);
    let units = units << power;
    if units >= i128::from(i64::MAX) {
        return MOST;
    }
    let inexact = i128::from(finer.bytes().any(|digit| digit != b'0'));
    let part = divide_up((part << power) + inexact, NANO);
    (units * NANO + part).min(MOST)
}

fn divide_up(amount: i128, by: i128) -> i128 {
    let quotient = amount / by;
    if amount % by == 0 { quotient } else { quotient + amount.signum() }
}

fn without_factor(mut amount: i128, factor: i128) -> (i128, usize) {
    let mut times = 0;
    while amount % factor == 0 && amount != 0 {
        amount /= factor;
        times += 1;
    }
    (amount, times)
}

fn saturate(amount: i128) -> i64 {
    amount.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Quantity {
        text.parse().unwrap_or_else(|e| panic!("{text:?}: {e}"))
    }

    #[test]
    fn canonical_texts() {
        for (text, canonical) in [
            ("0", "0"),
            ("0Ki", "0"),
            ("-0", "0"),
            ("100m", "100m"),
            ("0.5", "500m"),
            (".5", "500m"),
            ("1.", "1"),
            ("+1", "1"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("1k", "1k"),
            ("1000", "1k"),
            ("1024", "1024"),
            ("1024Ki", "1Mi"),
            ("1Ki", "1Ki"),
            ("1.5Gi", "1536Mi"),
            ("0.5Ki", "512"),
            ("0.1Ki", "102400m"),
            ("2Ei", "2Ei"),
            ("1e3", "1e3"),
            ("1E3", "1e3"),
            ("1E", "1E"),
            ("12e6", "12e6"),
            ("1e-3", "1e-3"),
            ("1e-10", "1e-9"),
            ("1n", "1n"),
            ("0.1n", "1n"),
            ("-0.1n", "-1n"),
            ("0.0000000001", "1n"),
            ("-1.5Ki", "-1536"),
            ("100E", "9223372036854775807"),
            ("9e400", "9223372036854775807"),
            ("0e400", "0"),
            ("1e-400", "1e-9"),
            ("99999999999999999999999999", "9223372036854775807"),
            ("0.001Ki", "1024m"),
        ] {
            assert_eq!(read(text).to_string(), canonical, "{text}");
        }
    }

    #[test]
    fn amounts_round_away_from_zero() {
        for (text, value, milli) in [
            ("1500m", 2, 1500),
            ("-1500m", -2, -1500),
            ("1u", 1, 1),
            ("64Mi", 64 << 20, (64 << 20) * 1000),
            ("8Ei", i64::MAX, i64::MAX),
            ("0.1Ki", 103, 102_400),
        ] {
            assert_eq!((read(text).value(), read(text).milli()), (value, milli), "{text}");
        }
        assert_eq!(read("1u").round_up_to_milli().to_string(), "1m");
        assert_eq!(Quantity::bytes(64 << 20).to_string(), "64Mi");
        assert_eq!(Quantity::units(3000).to_string(), "3k");
    }

    #[test]
    fn compared_by_amount() {
        assert_eq!(read("1"), read("1000m"));
        assert!(read("1Ki") > read("1k"));
        assert!(read("-1").is_negative() && read("0e3").is_zero());
        assert!(!read("0.5").is_whole() && read("2Ki").is_whole());
    }

    #[test]
    fn no_quantities() {
        let long = "1".repeat(200);
        for text in ["", "+", ".", "Mi", "1..2", "--1", "aoeu", " 1", "1 ", "1,5", "１", &long] {
            let error = text.parse::<Quantity>().err();
            assert!(error.is_some(), "{text:?} was taken");
        }
        for text in ["1i", "1K", "1mi", "1kk", "1e", "1e1.5", "3e+-1", "1Kib", "1ee3"] {
            assert_eq!(text.parse::<Quantity>(), Err(QuantityError::Suffix), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,40}") {
            let _ = text.parse::<Quantity>();
        }

        #[test]
        fn the_canonical_text_is_the_same_amount(text in "[+-]?[0-9]{1,25}(\\.[0-9]{0,25})?([numkMGTPE]|[KMGTPE]i|e-?[0-9]{1,3})?") {
            let first = read(&text);
            let canonical = first.to_string();
            prop_assert_eq!(read(&canonical), first, "{}", &canonical);
            prop_assert_eq!(read(&canonical).to_string(), canonical);
        }
    }
}

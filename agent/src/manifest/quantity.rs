//! Kubernetes quantities (apimachinery, pkg/api/resource): `500m`, `1.5Gi`, `128974848`, `129e6`.

/// A quantity that is not negative, exactly: `digits * 10^tens * 2^twos`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quantity {
    digits: u128,
    tens: i32,
    twos: u32,
}

/// What is wrong with a quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Not of the form of a quantity.
    #[error("it is not a quantity such as 500m, 1.5, 64Mi or 2G")]
    Form,
    /// Below zero.
    #[error("it is negative")]
    Negative,
    /// More than can be counted.
    #[error("it is too large")]
    TooLarge,
    /// More digits than make a difference.
    #[error("it has too many digits")]
    TooLong,
}

/// Digits that are read; a u64 has 20.
const MAX_DIGITS: usize = 30;
/// Greatest exponent that is read, either way.
const MAX_EXPONENT: i32 = 30;

impl Quantity {
    /// Reads a quantity.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        let (negative, unsigned) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(end);
        let (digits, fraction_len) = mantissa(number)?;
        let (tens, twos) = scale(suffix)?;
        if negative && digits != 0 {
            return Err(QuantityError::Negative);
        }
        Ok(Self { digits, tens: tens - fraction_len, twos })
    }

    /// In whole units, rounded up as Kubernetes does.
    pub fn units(self) -> Result<u64, QuantityError> {
        self.scaled(0)
    }

    /// In thousandths, rounded up.
    pub fn thousandths(self) -> Result<u64, QuantityError> {
        self.scaled(3)
    }

    fn scaled(self, more_tens: i32) -> Result<u64, QuantityError> {
        if self.digits == 0 {
            return Ok(0);
        }
        let tens = self.tens + more_tens;
        let power = 10_u128.checked_pow(tens.unsigned_abs()).ok_or(QuantityError::TooLarge);
        let twos = self.digits.checked_mul(1_u128 << self.twos).ok_or(QuantityError::TooLarge)?;
        let value = if tens >= 0 {
            twos.checked_mul(power?).ok_or(QuantityError::TooLarge)?
        } else {
            // What is divided by more than there is room for is a tiny part of one, and one rounded up.
            power.map_or(1, |power| twos.div_ceil(power))
        };
        i64::try_from(value).map(i64::cast_unsigned).map_err(|_| QuantityError::TooLarge)
    }
}

/// The digits without their point, and how many stand behind it.
fn mantissa(number: &str) -> Result<(u128, i32), QuantityError> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole = whole.trim_start_matches('0');
    let kept = fraction.trim_end_matches('0');
    if number.len() <= usize::from(number.contains('.')) || fraction.contains('.') {
        return Err(QuantityError::Form);
    }
    if whole.len() + kept.len() > MAX_DIGITS {
        return Err(QuantityError::TooLong);
    }
    let digits = format!("0{whole}{kept}").parse().map_err(|_| QuantityError::Form)?;
    Ok((digits, kept.len() as i32))
}

/// Powers of ten and of two of a suffix or exponent.
fn scale(suffix: &str) -> Result<(i32, u32), QuantityError> {
    Ok(match suffix {
        "n" => (-9, 0),
        "u" => (-6, 0),
        "m" => (-3, 0),
        "" => (0, 0),
        "k" => (3, 0),
        "M" => (6, 0),
        "G" => (9, 0),
        "T" => (12, 0),
        "P" => (15, 0),
        "E" => (18, 0),
        "Ki" => (0, 10),
        "Mi" => (0, 20),
        "Gi" => (0, 30),
        "Ti" => (0, 40),
        "Pi" => (0, 50),
        "Ei" => (0, 60),
        _ => (exponent(suffix)?, 0),
    })
}

fn exponent(suffix: &str) -> Result<i32, QuantityError> {
    let text = suffix.strip_prefix(['e', 'E']).ok_or(QuantityError::Form)?;
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(QuantityError::Form);
    }
    let exponent = text.parse::<i32>().map_err(|_| QuantityError::TooLarge)?;
    if exponent.abs() > MAX_EXPONENT {
        return Err(QuantityError::TooLarge);
    }
    Ok(exponent)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn units_and_thousandths() {
        for (text, units, thousandths) in [
            ("0", 0, 0),
            ("-0", 0, 0),
            ("1", 1, 1000),
            ("+5", 5, 5000),
            ("500m", 1, 500),
            ("100u", 1, 1),
            ("1n", 1, 1),
            ("1.5", 2, 1500),
            (".5", 1, 500),
            ("5.", 5, 5000),
            ("0.0001", 1, 1),
            ("2k", 2000, 2_000_000),
            ("1Ki", 1024, 1_024_000),
            ("0.1Gi", 107_374_183, 107_374_182_400),
            ("1.5Gi", 1_610_612_736, 1_610_612_736_000),
            ("64Mi", 67_108_864, 67_108_864_000),
            ("128974848", 128_974_848, 128_974_848_000),
            ("129e6", 129_000_000, 129_000_000_000),
            ("129M", 129_000_000, 129_000_000_000),
            ("1e3", 1000, 1_000_000),
            ("1E3", 1000, 1_000_000),
            ("1e-3", 1, 1),
            ("0001.50000000000000000000000000000000000000", 2, 1500),
            ("1e-30", 1, 1),
            ("0e30", 0, 0),
        ] {
            let quantity = Quantity::parse(text).unwrap();
            assert_eq!(
                (quantity.units().unwrap(), quantity.thousandths().unwrap()),
                (units, thousandths),
                "{text}"
            );
        }
        assert_eq!(Quantity::parse("1E").unwrap().units(), Ok(1_000_000_000_000_000_000));
        assert_eq!(Quantity::parse("7Ei").unwrap().units(), Ok(7 << 60));
    }

    #[test]
    fn what_is_refused() {
        use QuantityError as E;
        for (text, error) in [
            ("", E::Form),
            (".", E::Form),
            ("m", E::Form),
            ("1.2.3", E::Form),
            ("1 Gi", E::Form),
            ("1gi", E::Form),
            ("1K", E::Form),
            ("1mi", E::Form),
            ("0x10", E::Form),
            ("1_000", E::Form),
            ("1e", E::Form),
            ("1e1.5", E::Form),
            ("1Gi2", E::Form),
            ("１", E::Form),
            ("--1", E::Form),
            ("-1", E::Negative),
            ("-1Gi", E::Negative),
            ("1e31", E::TooLarge),
            ("1e99999999999", E::TooLarge),
            ("1234567890123456789012345678901", E::TooLong),
        ] {
            assert_eq!(Quantity::parse(text), Err(error), "{text}");
        }
        for text in ["8Ei", "9223372036854775808", "1e20", "99999E", "999999999999999999999999999999Ei"] {
            assert_eq!(Quantity::parse(text).unwrap().units(), Err(E::TooLarge), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[-+]?[0-9.]{0,40}[a-zA-Z0-9+-]{0,6}|\\PC*") {
            if let Ok(quantity) = Quantity::parse(&text) {
                let _ = (quantity.units(), quantity.thousandths());
            }
        }

        #[test]
        fn whole_numbers_are_themselves(number in 0..=i64::MAX as u64) {
            prop_assert_eq!(Quantity::parse(&number.to_string()).unwrap().units(), Ok(number));
        }

        #[test]
        fn suffixes_are_products(number in 0..1_u64 << 20, suffix in 0..6_usize) {
            let (name, factor) = [("k", 1_000), ("M", 1_000_000), ("Ki", 1 << 10), ("Mi", 1 << 20), ("Gi", 1 << 30), ("e3", 1_000)][suffix];
            let quantity = Quantity::parse(&format!("{number}{name}")).unwrap();
            prop_assert_eq!(quantity.units(), Ok(number * factor));
            prop_assert_eq!(quantity.thousandths().ok(), (number * factor).checked_mul(1000).filter(|n| i64::try_from(*n).is_ok()));
        }
    }
}

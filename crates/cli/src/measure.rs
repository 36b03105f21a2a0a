//! Values of options: durations and sizes as people write them.

use std::time::Duration;

/// `5`, `0.5` (seconds), `200ms`, `1m 30s`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string());
    }
    humantime::parse_duration(text).map_err(|error| format!("{error}; write it like 5, 0.5, 200ms or 1m30s"))
}

/// `4096`, `64k`, `1M`, `1MiB`, `2G`: powers of 1024.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        unit => return Err(format!("unknown unit {unit:?}; write it like 4096, 64k, 1M or 2G")),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| "write it like 4096, 64k, 1M or 2G".to_owned())?;
    number.checked_mul(1 << shift).ok_or_else(|| "too large".to_owned())
}

/// `600`, `0660`.
pub(crate) fn mode(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text.trim_start_matches("0o"), 8).map_err(|_| "write it like 600 or 0660".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_as_people_write_them() {
        assert_eq!(duration("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("200ms"), Ok(Duration::from_millis(200)));
        assert_eq!(duration("1m 30s"), Ok(Duration::from_secs(90)));
        for wrong in ["", "x", "-1", "nan", "inf", "5 parsecs"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        assert_eq!(size("4096"), Ok(4096));
        assert_eq!(size("64k"), Ok(64 << 10));
        assert_eq!(size("2GiB"), Ok(2 << 30));
        for wrong in ["", "k", "1x", "-1", "99999999T", "1.5M"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
        assert_eq!(mode("0660"), Ok(0o660));
        assert!(mode("rw").is_err());
    }
}

//! Reads sizes as people write them.

/// Reads a size in bytes: a whole number followed by K, M or G (powers of 1024).
///
/// # Errors
/// A sentence that says what a size looks like.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("'{text}' is not a size: write a whole number and K, M or G, like 16M");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let shift = match unit.to_ascii_uppercase() {
        'K' => 10,
        'M' => 20,
        'G' => 30,
        _ => return Err(wrong()),
    };
    // The unit is ASCII, so the byte before the end is a character boundary.
    let digits = &text[..text.len() - 1];
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let count: u64 = digits.parse().map_err(|_| wrong())?;
    count.checked_mul(1 << shift).ok_or_else(|| format!("'{text}' does not fit 64 bits"))
}

#[cfg(test)]
mod tests {
    use super::parse_bytes;

    #[test]
    fn sizes_are_read() {
        assert_eq!(parse_bytes("16M"), Ok(16 << 20));
        assert_eq!(parse_bytes("512k"), Ok(512 << 10));
        assert_eq!(parse_bytes("1G"), Ok(1 << 30));
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["", "M", "16", "16MB", "+1M", "-1M", "1.5G", "16 M", "ß", "1é", "99999999999G", "99999999999999999999999M"]
        {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }
}

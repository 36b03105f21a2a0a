//! tmp
pub fn write() -> Result<(), String> {
    Ok(())
}

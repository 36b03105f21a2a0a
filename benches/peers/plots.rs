//! The plots of docs/performance: SVG, drawn from a session's results.
pub fn draw(_: &serde_json::Value) -> Result<(), String> {
    Ok(())
}

//! Compiles proto/ and nothing else: no network, no git, no protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    Ok(())
}

//! Compiles proto/ and nothing else: no network, no git, no protoc.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_source_info(true).include_imports(true);
    let served =
        ["inference", "router", "governance"].map(|name| format!("quorate/v1/{name}.proto"));
    compiler.open_files(served)?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    // What server reflection answers with.
    std::fs::write(
        out.join("quorate.v1.fds"),
        compiler.encode_file_descriptor_set(),
    )?;
    compiler.open_file("quorate/v1/plane.proto")?; // no service, so reflection does not list it
    tonic_prost_build::configure().compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}

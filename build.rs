//! Compiles the protos (no protoc needed) and the pause program.

use std::error::Error;
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    compile_protos(&out)
}

/// Turns `proto/` into Rust and into the descriptor set that gRPC reflection serves.
fn compile_protos(out: &Path) -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler
        .include_imports(true)
        .include_source_info(true)
        .open_files(["runtime/v1/api.proto"])?;
    tonic_prost_build::configure()
        .btree_map(".")
        .generate_default_stubs(true)
        // Credentials: their Debug is written by hand in src/proto.rs.
        .skip_debug([".runtime.v1.AuthConfig"])
        .out_dir(out)
        .compile_fds(compiler.file_descriptor_set())?;
    // Comments are of use to rustdoc only; callers of the reflection do without.
    compiler.include_source_info(false);
    std::fs::write(out.join("descriptors.bin"), compiler.encode_file_descriptor_set())?;
    Ok(())
}

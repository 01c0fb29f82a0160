//! Compiles the protos (no protoc needed) and the pause program.

use std::error::Error;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(env("OUT_DIR")?);
    compile_protos(&out)?;
    compile_nri(&out)?;
    lay_out(&out)?;
    compile_pause(&out)
}

/// Turns `proto/` into Rust and into the descriptor set that gRPC reflection serves.
fn compile_protos(out: &Path) -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(true).open_files([
        "runtime/v1/api.proto",
        "podbay/v1/pods.proto",
        "podbay/v1/images.proto",
    ])?;
    tonic_prost_build::configure()
        .btree_map(".")
        .generate_default_stubs(true)
        // Credentials and secrets: their Debug is written by hand in src/proto.rs.
        .skip_debug([".runtime.v1.AuthConfig"])
        .skip_debug([".podbay.v1.ApplyRequest", ".podbay.v1.AdmitRequest"])
        .skip_debug([".podbay.v1.RegistryCredentials"])
        .out_dir(out)
        .compile_fds(compiler.file_descriptor_set())?;
    // Comments are of use to rustdoc only; callers of the reflection do without.
    compiler.include_source_info(false);
    std::fs::write(out.join("descriptors.bin"), compiler.encode_file_descriptor_set())?;
    Ok(())
}

/// Turns the messages of the node resource interface into Rust. Its services travel as ttrpc, not
/// gRPC, and no reflection serves them.
fn compile_nri(out: &Path) -> Result<(), Box<dyn Error>> {
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.open_files(["nri/v1alpha1/api.proto"])?;
    tonic_prost_build::configure()
        .btree_map(".")
        .build_client(false)
        .build_server(false)
        .out_dir(out)
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}

/// Places the functions that an agent at work enters side by side at the start of the release binary,
/// by the list that `scripts/layout.sh` writes: scattered, they would keep nearly all of its pages in
/// memory. The list has symbol names, whose hashes depend on the dependencies, the profile and the
/// compiler, but not on code or on the folder; unknown names are ignored. Only for the linker that
/// comes with Rust on this target.
///
/// The release binary has no symbols, unless `KEEP_SYMBOLS` is set.
fn lay_out(out: &Path) -> Result<(), Box<dyn Error>> {
    const LIST: &str = "scripts/layout/order.gz";
    println!("cargo:rerun-if-changed={LIST}");
    println!("cargo:rerun-if-env-changed=KEEP_SYMBOLS");
    if env("PROFILE")? == "release" && std::env::var_os("KEEP_SYMBOLS").is_none() {
        println!("cargo:rustc-link-arg-bins=-Wl,--strip-all");
    }
    let flags = env("CARGO_ENCODED_RUSTFLAGS")?.to_string_lossy().into_owned();
    let other_linker = std::env::var_os("RUSTC_LINKER").is_some()
        || flags.contains("linker")
        || flags.contains("fuse-ld");
    if env("PROFILE")? != "release"
        || env("TARGET")? != "x86_64-unknown-linux-gnu"
        || other_linker
        || !has_lld()?
    {
        return Ok(());
    }
    let list = out.join("order");
    let mut text = flate2::read::GzDecoder::new(std::fs::File::open(LIST)?);
    std::io::copy(&mut text, &mut std::fs::File::create(&list)?)?;
    println!("cargo:rustc-link-arg-bins=-Wl,--symbol-ordering-file={}", list.display());
    println!("cargo:rustc-link-arg-bins=-Wl,--no-warn-symbol-ordering");
    Ok(())
}

/// Whether Rust brings its own lld, which is then the default on x86_64 Linux.
fn has_lld() -> Result<bool, Box<dyn Error>> {
    let printed = Command::new(env("RUSTC")?).args(["--print", "sysroot"]).output()?;
    let root = PathBuf::from(String::from_utf8(printed.stdout)?.trim());
    let host = env("HOST")?;
    Ok(root.join("lib/rustlib").join(host).join("bin/gcc-ld/ld.lld").exists())
}

/// Compiles `src/pause/pause.rs` for the target to `out/pause`: static, without any library.
fn compile_pause(out: &Path) -> Result<(), Box<dyn Error>> {
    const SOURCE: &str = "src/pause/pause.rs";
    println!("cargo:rerun-if-changed={SOURCE}");
    let mut rustc = Command::new(env("RUSTC")?);
    rustc.arg(SOURCE).arg("--target").arg(env("TARGET")?).arg("-o").arg(out.join("pause"));
    rustc.args(["--edition=2024", "--crate-name=pause", "--crate-type=bin"]);
    let codegen = [
        "opt-level=s",
        "panic=abort",
        "strip=symbols",
        "force-unwind-tables=no",
        "relocation-model=static",
        "target-feature=+crt-static",
        "link-arg=-nostartfiles",
        "link-arg=-nostdlib",
        "link-arg=-static",
        "link-arg=-no-pie",
        "link-arg=-Wl,--build-id=none",
        "link-arg=-Wl,-z,noseparate-code", // one page in place of four
        "link-arg=-Wl,-z,noexecstack",
    ];
    rustc.args(codegen.iter().flat_map(|option| ["-C", option]));
    if env("CARGO_CFG_TARGET_ENV")? == "musl" {
        // Without the start files that come with that target.
        rustc.args(["-C", "link-self-contained=no"]);
    }
    if let Some(linker) = std::env::var_os("RUSTC_LINKER") {
        let mut option = OsString::from("linker=");
        option.push(linker);
        rustc.arg("-C").arg(option);
    }
    let status = rustc.status()?;
    if status.success() { Ok(()) } else { Err(format!("compile {SOURCE}: {status}").into()) }
}

fn env(name: &str) -> Result<OsString, String> {
    std::env::var_os(name).ok_or_else(|| format!("cargo did not set {name}"))
}

//! Compiles the .proto files with protox, so that no protoc is needed.
use prost::Message as _;
use std::{env, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut files = Vec::new();
    for package in ["kctl/agent/v1", "kctl/controller/v1"] {
        for entry in fs::read_dir(package)? {
            files.push(entry?.path());
        }
    }
    files.sort();
    println!("cargo:rerun-if-changed=kctl");
    let descriptors = protox::Compiler::new(["."])?
        .include_imports(true)
        .include_source_info(true)
        .open_files(&files)?
        .file_descriptor_set();
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let mut reflected = descriptors.clone();
    for file in &mut reflected.file {
        file.source_code_info = None;
    }
    fs::write(out.join("descriptors.bin"), reflected.encode_to_vec())?;
    tonic_prost_build::configure()
        // Connections are made elsewhere.
        .build_transport(false)
        .codec_path("crate::codec::Codec")
        .compile_fds(descriptors)?;
    Ok(())
}

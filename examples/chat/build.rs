//! Makes Rust of the .proto file.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(["proto/chat.proto"], ["proto"])?;
    tonic_prost_build::configure()
        // What is said is published as JSON, which pages read.
        .type_attribute("chat.Said", "#[derive(serde::Serialize, serde::Deserialize)]")
        .compile_fds(files)?;
    Ok(())
}

//! Generates Rust code from the .proto file.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(["proto/chat.proto"], ["proto"])?;
    tonic_prost_build::configure()
        // `Said` is published as JSON, because pages read it.
        .type_attribute("chat.Said", "#[derive(serde::Serialize, serde::Deserialize)]")
        .compile_fds(files)?;
    Ok(())
}

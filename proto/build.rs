//! Compiles the protocol definition with protox, so that no protoc has to be installed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(["proto/collegium/v1/collegium.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .bytes(".collegium.v1.UploadChunk.data")
        .bytes(".collegium.v1.DownloadChunk.data")
        // Both hold secrets; src/redacted.rs shows the rest of them.
        .skip_debug([".collegium.v1.EnrolRequest", ".collegium.v1.SharePiece"])
        .compile_fds(descriptors)?;
    Ok(())
}

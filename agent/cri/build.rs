//! Compiles the .proto files without protoc and keeps the descriptor set of CRI for the wire test.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    for (proto, secret) in [("api", "runtime.v1.AuthConfig"), ("holdfast", "holdfast.v1.Credentials")] {
        let descriptors = protox::compile([format!("{proto}.proto")], ["proto"])?;
        fs::write(out.join(format!("{proto}.bin")), descriptors.encode_to_vec())?;
        tonic_prost_build::configure()
            .btree_map(".")
            .generate_default_stubs(true)
            // The messages that carry secrets: their Debug is written by hand and shows none of them.
            .skip_debug([secret])
            .compile_fds(descriptors)?;
    }
    Ok(())
}

//! Compiles the .proto files without protoc and keeps their descriptor sets for the tests.

use std::{env, error::Error, fs, path::PathBuf};

use protox::{
    Compiler,
    prost_reflect::{DescriptorPool, Value},
};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    for proto in ["api", "holdfast"] {
        let mut compiler = Compiler::new(["proto"])?;
        compiler.include_imports(true).include_source_info(true).open_file(format!("{proto}.proto"))?;
        fs::write(out.join(format!("{proto}.bin")), compiler.encode_file_descriptor_set())?;
        tonic_prost_build::configure()
            .btree_map(".")
            .generate_default_stubs(true)
            .skip_debug(secrets(&compiler.descriptor_pool()))
            .compile_fds(compiler.file_descriptor_set())?;
    }
    Ok(())
}

/// The messages with a field marked `debug_redact`. They get no derived Debug: one that has none written by hand,
/// which shows no secret, does not compile.
fn secrets(pool: &DescriptorPool) -> Vec<String> {
    let messages = pool.all_messages().filter(|message| {
        message.fields().any(|field| {
            field.options().get_field_by_name("debug_redact").as_deref() == Some(&Value::Bool(true))
        })
    });
    messages.map(|message| format!(".{}", message.full_name())).collect()
}

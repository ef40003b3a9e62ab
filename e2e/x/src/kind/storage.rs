//! The default storage class: kind's own manifest, from its module, with the provisioner that it names.

use std::fs;

use anyhow::{Context, Result, ensure};

use crate::{kubernetes, work::Work};

/// The storage class of kind's source.
#[derive(Debug, PartialEq, Eq)]
pub struct Storage {
    /// Name of the provisioner's image.
    pub provisioner: String,
    /// Name of the image of the pods that the provisioner starts on a node.
    pub helper: String,
    /// For /kind/manifests/default-storage.yaml.
    pub manifest: String,
}

impl Storage {
    /// Reads kind's source.
    pub fn of_kind(work: &Work) -> Result<Self> {
        let path = kubernetes::kind_module(work)?.join("pkg/build/nodeimage/const_storage.go");
        let source = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        Self::parse(&source).with_context(|| format!("find the storage class in {}", path.display()))
    }

    fn parse(source: &str) -> Result<Self> {
        let text = |name: &str| {
            let line = source.lines().find_map(|line| line.strip_prefix(&format!("const {name} = \"")));
            line.and_then(|rest| rest.strip_suffix('"'))
                .map(str::to_owned)
                .with_context(|| format!("no constant {name}"))
        };
        let (provisioner, helper) = (text("storageProvisionerImage")?, text("storageHelperImage")?);
        let (_, rest) = source.split_once("const defaultStorageManifest = ").context("no manifest")?;
        // Raw strings, with names of images between them.
        let mut manifest = String::new();
        for (number, part) in rest.split('`').enumerate().skip(1) {
            if number % 2 == 1 {
                manifest += part;
                continue;
            }
            match part.trim() {
                "+ storageProvisionerImage +" => manifest += &provisioner,
                "+ storageHelperImage +" => manifest += &helper,
                _ => break,
            }
        }
        ensure!(manifest.contains("StorageClass"), "no StorageClass in the manifest");
        Ok(Self { provisioner, helper, manifest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_of_a_source() {
        let source = "const storageProvisionerImage = \"r/p:1\"\nconst storageHelperImage = \"r/h:2\"\n\
            const defaultStorageManifest = `\nimage: ` + storageProvisionerImage + `\nargs: ` + storageHelperImage + `\nkind: StorageClass\n`\nvar x = `y`\n";
        let storage = Storage::parse(source).expect("constants");
        assert_eq!(storage.manifest, "\nimage: r/p:1\nargs: r/h:2\nkind: StorageClass\n");
        assert_eq!((storage.provisioner.as_str(), storage.helper.as_str()), ("r/p:1", "r/h:2"));
        assert!(Storage::parse("package x\n").is_err());
    }
}

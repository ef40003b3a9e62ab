//! What a store makes of what an earlier one has left.

use std::path::Path;

use crate::bed::{Bed, holders, names, open};
use crate::images::{Entry, Layer, TestImage, archive, files, small};
use crate::needs_root;
use crate::registry::Registry;

type Damage = fn(&Path);

/// Two images that share a layer, one of which needs directories on top.
async fn filled(registry: &Registry) -> Bed {
    let bed = Bed::new().await;
    for (mark, image) in images() {
        registry.add(mark, "v1", &image);
        bed.pull(&registry.name(mark, "v1")).await.unwrap();
    }
    registry.forget_requests();
    bed
}

fn images() -> [(&'static str, TestImage); 2] {
    let base = Layer::gzip(archive(&[
        Entry::Directory("./", 0o755),
        Entry::Directory("tmp/", 0o1777),
        Entry::File("base", b"base"),
    ]));
    let one = TestImage::new("one", vec![base.clone(), Layer::gzip(files(&[("tmp/one", b"1")]))]);
    let two = TestImage::new(
        "two",
        vec![base, Layer::zstd(archive(&[Entry::Directory("./", 0o755), Entry::File("two", b"2")]))],
    );
    [("one", one), ("two", two)]
}

fn layer(root: &Path, layer: &Layer) -> std::path::PathBuf {
    root.join("layers").join(&layer.diff_id()[7..])
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_as_it_was() {
    needs_root!();
    let registry = Registry::start().await;
    let bed = filled(&registry).await;
    let (list, usage) = (bed.store.list(), bed.store.usage().await.unwrap());
    assert_eq!((list.len(), bed.names("directories").len()), (2, 1));
    let bed = bed.reopen(|_| ()).await;
    assert_eq!((bed.store.list(), bed.store.usage().await.unwrap()), (list, usage));
    bed.assert_consistent().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_record_names_is_removed() {
    needs_root!();
    let registry = Registry::start().await;
    let bed = filled(&registry).await;
    let list = bed.store.list();
    let bed = bed
        .reopen(|root| {
            // A pull in the middle, a commit that ended between name and record, a removal in the middle.
            for directory in ["work/0/fs/a/b", "work/77", "trash/5/x", "layers/0123", "directories/4567"] {
                std::fs::create_dir_all(root.join(directory)).unwrap();
            }
            let complete = layer(root, &images()[0].1.layers[0]);
            let stray = root.join("layers").join("0".repeat(64));
            std::fs::create_dir(&stray).unwrap();
            std::fs::copy(complete.join("layer.json"), stray.join("layer.json")).unwrap();
            std::fs::write(root.join("work/0/fs/file"), "x").unwrap();
            std::fs::write(root.join("blobs/sha256").join("1".repeat(64)), "x").unwrap();
            std::fs::write(root.join("blobs/sha256").join("blob"), "x").unwrap();
        })
        .await;
    assert_eq!(bed.store.list(), list);
    bed.assert_consistent().await;
    assert_eq!(bed.names("blobs/sha256").len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_layer_is_noticed_and_mended() {
    needs_root!();
    let damages: [(&str, Damage); 5] = [
        ("gone", |layer| std::fs::remove_dir_all(layer).unwrap()),
        ("no files", |layer| std::fs::remove_dir_all(layer.join("fs")).unwrap()),
        ("empty", |layer| {
            std::fs::remove_dir_all(layer.join("fs")).unwrap();
            std::fs::create_dir(layer.join("fs")).unwrap();
        }),
        ("facts gone", |layer| std::fs::remove_file(layer.join("layer.json")).unwrap()),
        ("facts of no bytes", |layer| std::fs::write(layer.join("layer.json"), "").unwrap()),
    ];
    for (what, damage) in damages {
        let registry = Registry::start().await;
        let bed = filled(&registry).await;
        let [(_, one), (_, two)] = images();
        let own = &two.layers[1];
        let before = bed.store.list();
        let bed = bed.reopen(|root| damage(&layer(root, own))).await;
        // The other image does not have that layer.
        let left: Vec<String> = bed.store.list().iter().map(|image| image.id.clone()).collect();
        assert_eq!(left, [one.id()], "{what}");
        assert_eq!(bed.store.get(&registry.name("two", "v1")).unwrap(), None, "{what}");
        let again = bed.pull(&registry.name("two", "v1")).await.unwrap();
        assert_eq!(again.id, two.id());
        assert!(again.layers[1].join("two").exists());
        assert_eq!(registry.count(&own.digest()), 1, "{what}");
        assert_eq!(registry.count(&two.layers[0].digest()), 0, "{what}: only what is missing is fetched");
        assert_eq!(bed.store.list(), before, "{what}");
        bed.assert_consistent().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_goes_while_we_run_comes_back_with_a_pull() {
    needs_root!();
    let registry = Registry::start().await;
    let bed = filled(&registry).await;
    let [_, (_, two)] = images();
    std::fs::remove_dir_all(layer(&bed.root(), &two.layers[1])).unwrap();
    let again = bed.pull(&registry.name("two", "v1")).await.unwrap();
    assert!(again.layers[1].join("two").exists());
    assert_eq!((registry.count(&two.layers[1].digest()), registry.count(&two.layers[0].digest())), (1, 0));
    bed.assert_consistent().await;
    let bed = bed.reopen(|_| ()).await;
    assert_eq!(bed.store.list().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_directories_are_noticed_and_mended() {
    needs_root!();
    let registry = Registry::start().await;
    let bed = filled(&registry).await;
    let [(_, one), _] = images();
    let before = bed.store.list();
    let bed = bed
        .reopen(|root| std::fs::remove_dir_all(root.join("directories").join(&one.id()[7..])).unwrap())
        .await;
    assert_eq!(bed.store.get(&one.id()).unwrap(), None);
    bed.pull(&registry.name("one", "v1")).await.unwrap();
    assert_eq!(bed.store.list(), before);
    bed.assert_consistent().await;
}

fn record(root: &Path, image: &TestImage) -> std::path::PathBuf {
    root.join("images").join(format!("{}.json", &image.id()[7..]))
}

/// Everything else of an image is there, and a container may run from it; only its names are lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_cannot_be_read_costs_only_names() {
    needs_root!();
    let damages: [(&str, Damage); 6] = [
        ("of no bytes", |path| std::fs::write(path, "").unwrap()),
        ("of zeroes", |path| std::fs::write(path, [0; 300]).unwrap()),
        ("cut", |path| {
            let text = std::fs::read(path).unwrap();
            std::fs::write(path, &text[..text.len() / 2]).unwrap();
        }),
        ("newer", |path| {
            let text = std::fs::read_to_string(path).unwrap();
            std::fs::write(path, text.replace("\"version\":1", "\"version\":2")).unwrap();
        }),
        ("a link", |path| {
            std::fs::remove_file(path).unwrap();
            std::os::unix::fs::symlink("/etc/passwd", path).unwrap();
        }),
        ("not named so", |path| std::fs::write(path.with_file_name("README"), "").unwrap()),
    ];
    for (what, damage) in damages {
        let registry = Registry::start().await;
        let bed = filled(&registry).await;
        let want = bed.store.list();
        let [(_, one), _] = images();
        let path = record(&bed.root(), &one);
        let mut damaged = None;
        let bed = bed
            .reopen(|_| {
                damage(&path);
                damaged = std::fs::read(&path).ok();
            })
            .await;
        let found = bed.store.list();
        assert_eq!(found.len(), want.len(), "{what}");
        for (found, want) in found.iter().zip(&want) {
            assert_eq!((&found.id, &found.layers, &found.config), (&want.id, &want.layers, &want.config));
            let named = found.id != one.id() || what == "not named so";
            assert_eq!(
                (!found.repo_tags.is_empty(), !found.repo_digests.is_empty()),
                (named, named),
                "{what}"
            );
        }
        assert_eq!(std::fs::read(&path).ok(), damaged, "{what}: it is left alone");
        // A pull brings the names back and downloads no layer.
        bed.pull(&registry.name("one", "v1")).await.unwrap();
        assert!(one.layers.iter().all(|layer| registry.count(&layer.digest()) == 0), "{what}");
        assert_eq!(bed.store.list(), want, "{what}");
        let _ = std::fs::remove_file(bed.root().join("images/README"));
        let bed = bed.reopen(|_| ()).await;
        assert_eq!(bed.store.list(), want, "{what}");
        bed.assert_consistent().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_without_records_is_not_a_new_one() {
    needs_root!();
    let damages: [(&str, Damage); 3] = [
        ("gone", |root| std::fs::remove_dir_all(root.join("images")).unwrap()),
        ("empty", |root| {
            std::fs::remove_dir_all(root.join("images")).unwrap();
            std::fs::create_dir(root.join("images")).unwrap();
        }),
        ("gone with the sign", |root| {
            std::fs::remove_dir_all(root.join("images")).unwrap();
            std::fs::remove_file(root.join("store.redb")).unwrap();
        }),
    ];
    for (what, damage) in damages {
        let registry = Registry::start().await;
        let bed = filled(&registry).await;
        let want = bed.store.list();
        let bed = bed.reopen(damage).await;
        let ids = |list: &[std::sync::Arc<holdfast_model::Image>]| -> Vec<_> {
            list.iter().map(|image| (image.id.clone(), image.layers.clone())).collect()
        };
        assert_eq!(ids(&bed.store.list()), ids(&want), "{what}");
        bed.assert_consistent().await;
        for (mark, image) in images() {
            bed.pull(&registry.name(mark, "v1")).await.unwrap();
            assert!(image.layers.iter().all(|layer| registry.count(&layer.digest()) == 0), "{what}");
        }
        assert_eq!(bed.store.list(), want, "{what}");
        assert!(bed.root().join("store.redb").exists(), "{what}");
    }
}

/// A name moves by the newcomer's record alone; that the other one's still claims it does not matter.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_ends_while_a_name_moves() {
    needs_root!();
    let registry = Registry::start().await;
    let bed = filled(&registry).await;
    let [(_, one), (_, two)] = images();
    let name = "holdfast.test/moving:1";
    bed.store.tag(&one.id(), name).await.unwrap();
    let path = record(&bed.root(), &one);
    let old = std::fs::read(&path).unwrap();
    bed.store.tag(&two.id(), name).await.unwrap();
    let want = bed.store.list();
    let bed = bed.reopen(|_| std::fs::write(&path, &old).unwrap()).await;
    assert_eq!(bed.store.list(), want);
    assert_eq!(bed.store.get(name).unwrap().unwrap().id, two.id());
    // And it does not come back with the removal of its owner.
    bed.store.remove(&two.id()).await.unwrap();
    let bed = bed.reopen(|_| ()).await;
    assert_eq!(bed.store.get(name).unwrap(), None);
    bed.assert_consistent().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_belongs_to_one_process() {
    needs_root!();
    let registry = Registry::start().await;
    let bed = filled(&registry).await;
    let parent = bed.root().parent().unwrap().to_owned();
    std::fs::create_dir(bed.root().join("work/in-progress")).unwrap();
    let error = open(&parent, 1, holders(&[])).await.unwrap_err();
    assert!(error.to_string().contains("in use by another process"), "{error}");
    // The work of the first was let alone.
    assert_eq!(names(&bed.root().join("work")), ["in-progress"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_store_is_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let bed = Bed::new().await;
    let mode = std::fs::metadata(bed.root()).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o700);
    bed.assert_empty().await;
    let bed = bed.reopen(|_| ()).await;
    bed.assert_empty().await;
    assert!(!bed.root().join("store.redb.unreadable").exists());
    assert!(bed.store.get(&small("x").id()).unwrap().is_none());
}

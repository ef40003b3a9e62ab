//! What a store makes of what an earlier one has left.

use std::path::Path;

use crate::bed::{Bed, names, open};
use crate::images::{Entry, Layer, TestImage, archive, files, small};
use crate::needs_root;
use crate::registry::Registry;

type Damage = fn(&Path);
type ByteDamage = fn(&mut Vec<u8>);

/// Two images that share a layer, one of which needs directories on top; the second has a lease.
async fn filled(registry: &Registry) -> Bed {
    let bed = Bed::new().await;
    for (mark, image) in images() {
        registry.add(mark, "v1", &image);
        bed.pull(&registry.name(mark, "v1")).await.unwrap();
    }
    let two = bed.store.get(&registry.name("two", "v1")).unwrap().unwrap();
    bed.store.lease(&two.id, "c1").await.unwrap();
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

#[tokio::test(flavor = "multi_thread")]
async fn records_that_cannot_be_read_are_set_aside() {
    needs_root!();
    let damages: [(&str, ByteDamage); 6] = [
        ("of no bytes", Vec::clear),
        ("no database", |bytes| *bytes = b"{\"images\": []}".to_vec()),
        ("of zeroes", |bytes| bytes.fill(0)),
        ("cut", |bytes| bytes.truncate(bytes.len() / 2)),
        ("cut in its header", |bytes| bytes.truncate(100)),
        ("scrambled", |bytes| {
            for at in (4096..bytes.len()).step_by(16) {
                bytes[at] ^= 0x5a;
            }
        }),
    ];
    for (what, damage) in damages {
        let registry = Registry::start().await;
        let bed = filled(&registry).await;
        let before = bed.store.list();
        let bed = bed
            .reopen(|root| {
                let path = root.join("store.redb");
                let mut bytes = std::fs::read(&path).unwrap();
                damage(&mut bytes);
                std::fs::write(&path, bytes).unwrap();
            })
            .await;
        assert!(bed.root().join("store.redb.unreadable").exists(), "{what}");
        // The images are there, for containers may run from them; only their names are lost.
        let after = bed.store.list();
        assert_eq!(after.len(), before.len(), "{what}");
        for (before, after) in before.iter().zip(&after) {
            assert_eq!(
                (&before.id, &before.layers, &before.config),
                (&after.id, &after.layers, &after.config)
            );
            assert!(after.repo_tags.is_empty() && after.repo_digests.is_empty());
        }
        bed.assert_consistent().await;
        // A pull of each brings them back and downloads no layer.
        for (mark, image) in images() {
            bed.pull(&registry.name(mark, "v1")).await.unwrap();
            assert!(image.layers.iter().all(|layer| registry.count(&layer.digest()) == 0), "{what}");
        }
        let names = |list: &[std::sync::Arc<holdfast_model::Image>]| -> Vec<_> {
            list.iter().map(|image| (image.repo_tags.clone(), image.repo_digests.clone())).collect()
        };
        assert_eq!(names(&bed.store.list()), names(&before), "{what}");
        // And that is durable.
        let list = bed.store.list();
        let bed = bed.reopen(|_| ()).await;
        assert_eq!(bed.store.list(), list, "{what}");
    }
}

/// Single bytes: most are harmless or found by a checksum; none may make the store fail, hang, or show what is not there.
#[tokio::test(flavor = "multi_thread")]
async fn any_byte_of_the_records_may_be_wrong() {
    needs_root!();
    let registry = Registry::start().await;
    let bed = filled(&registry).await;
    let ids: Vec<String> = bed.store.list().iter().map(|image| image.id.clone()).collect();
    let mut bytes = Vec::new();
    let mut bed = bed.reopen(|root| bytes = std::fs::read(root.join("store.redb")).unwrap()).await;
    let interesting = (0..bytes.len()).filter(|at| bytes[*at] != 0 || at % 997 == 0);
    let step = interesting.clone().count() / 60 + 1;
    for at in interesting.step_by(step) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0xff;
        bed = bed.reopen(|root| std::fs::write(root.join("store.redb"), damaged).unwrap()).await;
        for image in bed.store.list() {
            assert!(ids.contains(&image.id), "byte {at}");
            assert!(image.layers.iter().all(|layer| layer.is_dir()), "byte {at}");
        }
        for (mark, _) in images() {
            bed.pull(&registry.name(mark, "v1")).await.unwrap();
        }
        assert_eq!(bed.store.list().len(), 2, "byte {at}");
    }
    bed.assert_consistent().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_belongs_to_one_process() {
    needs_root!();
    let registry = Registry::start().await;
    let bed = filled(&registry).await;
    let parent = bed.root().parent().unwrap().to_owned();
    std::fs::create_dir(bed.root().join("work/in-progress")).unwrap();
    let error = open(&parent, 1).await.unwrap_err();
    assert!(error.to_string().contains("open"), "{error}");
    // Nothing was set aside, and the work of the first was let alone.
    assert!(!bed.root().join("store.redb.unreadable").exists());
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

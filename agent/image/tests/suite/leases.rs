//! Containers that hold images: nothing of theirs goes, whatever happens to the store.

use std::collections::HashSet;
use std::path::Path;

use holdfast_image::{Error, Holders};

use crate::bed::{Bed, eventually, holders};
use crate::images::{Entry, Layer, TestImage, archive, files, small};
use crate::needs_root;
use crate::registry::Registry;

#[tokio::test(flavor = "multi_thread")]
async fn leases_keep_layers() {
    needs_root!();
    let (registry, bed) = (Registry::start().await, Bed::new().await);
    let (image, other) = (small("x"), small("other"));
    registry.add("app", "v1", &image);
    registry.add("other", "v1", &other);
    let name = registry.name("app", "v1");
    let leased = bed.pull(&name).await.unwrap();
    bed.pull(&registry.name("other", "v1")).await.unwrap();
    // One owner may hold several images, and an image have several owners.
    assert_eq!(bed.store.lease(&leased.id, "c1").unwrap(), leased);
    bed.store.lease(&leased.id, "c2").unwrap();
    bed.store.lease(&other.id(), "c1").unwrap();
    let before = bed.store.usage().await.unwrap();
    bed.store.remove(&name).await.unwrap();
    assert_eq!(bed.store.get(&leased.id).unwrap(), None);
    assert_eq!(bed.store.list().len(), 1);
    assert_eq!(bed.store.usage().await.unwrap(), before);
    let error = bed.store.lease(&leased.id, "c3").unwrap_err();
    assert!(matches!(error, Error::NoSuchImage { .. }), "{error}");
    // A restart changes nothing of that.
    let held = holders(&[("c1", &leased.id), ("c1", &other.id()), ("c2", &leased.id)]);
    let bed = bed.reopen_for(held, |_| ()).await;
    assert_eq!(bed.store.list().len(), 1);
    assert!(leased.layers[0].join("mark").exists());
    bed.store.release("c1");
    bed.store.release("c1");
    bed.store.release("nobody");
    bed.settled().await;
    assert!(leased.layers[0].join("mark").exists());
    bed.store.release("c2");
    eventually("the layer goes", || !leased.layers[0].exists()).await;
    bed.assert_consistent().await;
    bed.store.remove(&other.id()).await.unwrap();
    bed.assert_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_image_that_is_leased_comes_back_with_a_pull() {
    needs_root!();
    let (registry, bed) = (Registry::start().await, Bed::new().await);
    let image = small("x");
    registry.add("app", "v1", &image);
    let name = registry.name("app", "v1");
    let first = bed.pull(&name).await.unwrap();
    bed.store.lease(&first.id, "c1").unwrap();
    bed.store.remove(&name).await.unwrap();
    let bed = bed.reopen_for(holders(&[("c1", &first.id)]), |_| ()).await;
    assert!(bed.store.list().is_empty());
    assert_eq!(bed.pull(&name).await.unwrap(), first);
    assert_eq!(registry.count(&image.layers[0].digest()), 1, "the layer never went");
    bed.store.release("c1");
    assert_eq!(bed.store.list(), [first]);
    bed.assert_consistent().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_of_unknown_owners_end_with_a_restart() {
    needs_root!();
    let (registry, bed) = (Registry::start().await, Bed::new().await);
    for mark in ["one", "two"] {
        let image = small(mark);
        registry.add(mark, "v1", &image);
        bed.pull(&registry.name(mark, "v1")).await.unwrap();
        bed.store.lease(&image.id(), mark).unwrap();
        bed.store.remove(&image.id()).await.unwrap();
    }
    let bed = bed.reopen_for(holders(&[("two", &small("two").id())]), |_| ()).await;
    bed.settled().await;
    assert_eq!(bed.names("layers"), [small("two").layers[0].diff_id()[7..].to_owned()]);
    bed.reopen(|_| ()).await.assert_empty().await;
}

/// An image of two layers and directories on top, in the hands of a container, and another one that is not.
async fn held(registry: &Registry) -> (Bed, TestImage, Vec<std::path::PathBuf>) {
    let below = Layer::gzip(archive(&[Entry::Directory("./", 0o755), Entry::Directory("tmp/", 0o1777)]));
    let image = TestImage::new("held", vec![below, Layer::gzip(files(&[("tmp/held", b"held")]))]);
    let bed = Bed::new().await;
    registry.add("held", "v1", &image);
    registry.add("other", "v1", &small("other"));
    let pulled = bed.pull(&registry.name("held", "v1")).await.unwrap();
    bed.pull(&registry.name("other", "v1")).await.unwrap();
    assert_eq!(pulled.layers.len(), 3);
    (bed, image, pulled.layers.clone())
}

type Damage = Box<dyn Fn(&Path)>;

/// Whatever becomes of the records, also after the image was removed: what the container mounts is there.
#[tokio::test(flavor = "multi_thread")]
async fn no_loss_of_records_takes_a_layer_that_is_held() {
    needs_root!();
    let each = |root: &Path, change: fn(&Path)| {
        for entry in std::fs::read_dir(root.join("images")).unwrap() {
            change(&entry.unwrap().path());
        }
    };
    let damages: [(&str, Damage); 5] = [
        ("nothing", Box::new(|_| ())),
        ("all gone", Box::new(|root| std::fs::remove_dir_all(root.join("images")).unwrap())),
        ("each gone", Box::new(move |root| each(root, |file| std::fs::remove_file(file).unwrap()))),
        ("torn", Box::new(move |root| each(root, |file| std::fs::write(file, "").unwrap()))),
        (
            "those of an old store, torn",
            Box::new(|root| std::fs::write(root.join("store.redb"), "torn").unwrap()),
        ),
    ];
    for (what, damage) in damages {
        for removed in [false, true] {
            let registry = Registry::start().await;
            let (bed, image, layers) = held(&registry).await;
            bed.store.lease(&image.id(), "c1").unwrap();
            if removed {
                bed.store.remove(&image.id()).await.unwrap();
            }
            let bed = bed.reopen_for(holders(&[("c1", &image.id())]), |root| damage(root)).await;
            for _ in 0..2 {
                bed.settled().await;
                assert!(layers.iter().all(|layer| layer.is_dir()), "{what}, removed: {removed}");
                assert!(layers[1].join("tmp/held").exists(), "{what}, removed: {removed}");
                bed.store.remove(&image.id()).await.unwrap();
                assert_eq!(bed.store.get(&image.id()).unwrap(), None);
            }
            bed.store.release("c1");
            eventually("the layers go", || layers.iter().all(|layer| !layer.exists())).await;
        }
    }
}

/// A layer that is not as it should be is of no use to a new container, and all that a running one has.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_layer_that_is_held_stays() {
    needs_root!();
    let registry = Registry::start().await;
    let (bed, image, layers) = held(&registry).await;
    let damage = |_: &Path| std::fs::remove_file(layers[1].with_file_name("layer.json")).unwrap();
    let bed = bed.reopen_for(holders(&[("c1", &image.id())]), damage).await;
    assert_eq!(bed.store.get(&image.id()).unwrap(), None);
    assert!(layers.iter().all(|layer| layer.is_dir()));
    let bed = bed.reopen_for(holders(&[("c1", &image.id())]), |_| ()).await;
    assert!(layers.iter().all(|layer| layer.is_dir()));
    bed.store.release("c1");
    eventually("the layers go", || layers.iter().all(|layer| !layer.exists())).await;
}

/// As long as nobody knows what a container holds it may be anything.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_goes_while_a_holder_is_not_known() {
    needs_root!();
    let registry = Registry::start().await;
    let unknown = || Holders { unknown: HashSet::from(["torn".to_owned()]), ..Holders::default() };
    let (bed, image, layers) = held(&registry).await;
    let bed = bed
        .reopen_for(unknown(), |root| {
            // Removed and then forgotten: no record says what these are.
            std::fs::remove_file(root.join(format!("images/{}.json", &image.id()[7..]))).unwrap();
            std::fs::create_dir(root.join("layers").join("0".repeat(64))).unwrap();
        })
        .await;
    bed.settled().await;
    let there = || layers.iter().all(|layer| layer.is_dir());
    assert!(there() && bed.names("layers").len() == 4);
    assert_eq!(bed.store.get(&image.id()).unwrap(), None);
    bed.store.remove(&small("other").id()).await.unwrap();
    bed.settled().await;
    assert!(bed.store.list().is_empty());
    assert_eq!(bed.names("layers").len(), 4);
    // A layer that is there is used again, and not put in the place of the one that may be in use.
    registry.forget_requests();
    bed.pull(&registry.name("held", "v1")).await.unwrap();
    assert!(image.layers.iter().all(|layer| registry.count(&layer.digest()) == 0));
    bed.store.remove(&image.id()).await.unwrap();
    assert!(there());
    bed.store.release("torn");
    eventually("all goes", || bed.names("layers").is_empty()).await;
    bed.assert_empty().await;
    // An image that nobody can put together makes its holder one of these.
    let (bed, image, layers) = held(&registry).await;
    let lose = |root: &Path| {
        std::fs::remove_dir_all(root.join("images")).unwrap();
        std::fs::remove_dir_all(root.join("blobs")).unwrap();
    };
    let bed = bed.reopen_for(holders(&[("c1", &image.id())]), lose).await;
    bed.settled().await;
    assert!(layers.iter().all(|layer| layer.is_dir()));
    bed.store.release("c1");
    eventually("all goes", || bed.names("layers").is_empty()).await;
}

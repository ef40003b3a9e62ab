//! Removal, and what holds it up.

use std::collections::HashSet;

use holdfast_image::{Error, ErrorKind};

use crate::bed::Bed;
use crate::images::{Layer, TestImage, files, small};
use crate::needs_root;
use crate::registry::Registry;

#[tokio::test(flavor = "multi_thread")]
async fn one_name_takes_all() {
    needs_root!();
    let (registry, bed) = (Registry::start().await, Bed::new().await);
    let image = small("x");
    registry.add("app", "v1", &image);
    let name = registry.name("app", "v1");
    let by_digest = format!("{}/app@{}", registry.host(), image.digest());
    for by in [&name, &by_digest, &image.id(), &image.id()[7..].to_owned(), &image.id()[7..15].to_owned()] {
        bed.pull(&name).await.unwrap();
        bed.store.tag(&image.id(), "other.example/name:v2").await.unwrap();
        bed.store.remove(by).await.unwrap();
        for gone in [&name, &by_digest, &image.id(), &"other.example/name:v2".to_owned()] {
            assert_eq!(bed.store.get(gone).unwrap(), None, "{gone} after removal of {by}");
        }
        bed.assert_empty().await;
        bed.store.remove(by).await.unwrap();
    }
    assert_eq!(bed.store.remove("NO NAME").await.unwrap_err().kind(), ErrorKind::InvalidReference);
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_of_others_stay() {
    needs_root!();
    let (registry, bed) = (Registry::start().await, Bed::new().await);
    let base = Layer::gzip(files(&[("base", b"base")]));
    for mark in ["one", "two"] {
        let own = Layer::gzip(files(&[(mark, b"")]));
        registry.add(mark, "v1", &TestImage::new(mark, vec![base.clone(), own]));
        bed.pull(&registry.name(mark, "v1")).await.unwrap();
    }
    assert_eq!(bed.names("layers").len(), 3);
    bed.store.remove(&registry.name("one", "v1")).await.unwrap();
    bed.assert_consistent().await;
    assert_eq!(bed.names("layers").len(), 2);
    bed.store.remove(&registry.name("two", "v1")).await.unwrap();
    bed.assert_empty().await;
}

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
    assert_eq!(bed.store.lease(&leased.id, "c1").await.unwrap(), leased);
    bed.store.lease(&leased.id, "c2").await.unwrap();
    bed.store.lease(&other.id(), "c1").await.unwrap();
    let before = bed.store.usage().await.unwrap();
    bed.store.remove(&name).await.unwrap();
    assert_eq!(bed.store.get(&leased.id).unwrap(), None);
    assert_eq!(bed.store.list().len(), 1);
    assert_eq!(bed.store.usage().await.unwrap(), before);
    let error = bed.store.lease(&leased.id, "c3").await.unwrap_err();
    assert!(matches!(error, Error::NoSuchImage { .. }), "{error}");
    // A restart changes nothing of that.
    let bed = bed.reopen(|_| ()).await;
    assert_eq!(bed.store.list().len(), 1);
    assert!(leased.layers[0].join("mark").exists());
    bed.store.release("c1").await.unwrap();
    bed.store.release("c1").await.unwrap();
    bed.store.release("nobody").await.unwrap();
    bed.settled().await;
    assert!(leased.layers[0].join("mark").exists());
    bed.store.release("c2").await.unwrap();
    bed.assert_consistent().await;
    assert!(!leased.layers[0].exists());
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
    bed.store.lease(&first.id, "c1").await.unwrap();
    bed.store.remove(&name).await.unwrap();
    assert_eq!(bed.pull(&name).await.unwrap(), first);
    assert_eq!(registry.count(&image.layers[0].digest()), 1, "the layer never went");
    bed.store.release("c1").await.unwrap();
    assert_eq!(bed.store.list(), [first]);
    bed.assert_consistent().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_of_unknown_owners_end() {
    needs_root!();
    let (registry, bed) = (Registry::start().await, Bed::new().await);
    for mark in ["one", "two"] {
        let image = small(mark);
        registry.add(mark, "v1", &image);
        bed.pull(&registry.name(mark, "v1")).await.unwrap();
        bed.store.lease(&image.id(), mark).await.unwrap();
        bed.store.remove(&image.id()).await.unwrap();
    }
    let bed = bed.reopen(|_| ()).await;
    assert_eq!(bed.names("layers").len(), 2);
    bed.store.retain_leases(&HashSet::from(["two".to_owned(), "three".to_owned()])).await.unwrap();
    bed.settled().await;
    assert_eq!(bed.names("layers"), [small("two").layers[0].diff_id()[7..].to_owned()]);
    bed.store.retain_leases(&HashSet::new()).await.unwrap();
    bed.assert_empty().await;
}

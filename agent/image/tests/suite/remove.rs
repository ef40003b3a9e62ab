//! Removal, and what holds it up.

use holdfast_image::ErrorKind;

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

//! Pulls at the same time: one download, one failure, no half.

use std::sync::Arc;
use std::time::Duration;

use holdfast_image::ErrorKind;

use crate::bed::{Bed, eventually};
use crate::images::{Layer, TestImage, files, noise, small};
use crate::needs_root;
use crate::registry::{Act, Registry};

fn two_layers(mark: &str) -> TestImage {
    let layer = |name: &str| Layer::gzip(files(&[(name, &noise(100_000, 3))]));
    TestImage::new(mark, vec![layer("a"), layer("b")])
}

#[tokio::test(flavor = "multi_thread")]
async fn many_pulls_share_each_download() {
    needs_root!();
    let (registry, bed) = (Registry::start().await, Bed::new().await);
    // Two images with the same layers.
    for repository in ["app", "app"] {
        registry.add(repository, "v1", &two_layers("one"));
        registry.add(repository, "v2", &two_layers("two"));
    }
    let pulls: Vec<_> = (0..16)
        .map(|at| {
            let (store, name) =
                (bed.store.clone(), registry.name("app", if at % 2 == 0 { "v1" } else { "v2" }));
            tokio::spawn(async move { store.pull(&name, None, None).await })
        })
        .collect();
    for pull in pulls {
        pull.await.unwrap().unwrap();
    }
    for layer in &two_layers("one").layers {
        assert_eq!(registry.count(&layer.digest()), 1);
    }
    assert_eq!(bed.store.list().len(), 2);
    bed.assert_consistent().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_failure_is_everybodys() {
    needs_root!();
    let (registry, bed) = (Registry::start().await, Bed::new().await);
    let image = small("x");
    registry.add("app", "v1", &image);
    let blob = image.layers[0].digest();
    registry.rule(move |request| request.path.ends_with(&blob).then_some(Act::Gate));
    let pulls: Vec<_> = (0..4)
        .map(|_| {
            let (store, name) = (bed.store.clone(), registry.name("app", "v1"));
            tokio::spawn(async move { store.pull(&name, None, None).await })
        })
        .collect();
    eventually("all have the configuration", || registry.count(&image.id()) == 4).await;
    eventually("the layer is asked for", || registry.count(&image.layers[0].digest()) == 1).await;
    // From here on the layer is another one.
    let mut other = image.layers[0].blob.clone();
    let middle = other.len() / 2;
    other[middle] ^= 1;
    registry.blob("app", &image.layers[0].digest(), &other);
    registry.open_gate();
    for pull in pulls {
        let error = pull.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DataLoss, "{error}");
    }
    bed.assert_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_is_dropped_leaves_nothing() {
    needs_root!();
    let (registry, bed) = (Registry::start().await, Bed::new().await);
    let image = two_layers("x");
    registry.add("app", "v1", &image);
    let first = image.layers[0].digest();
    // One layer is complete, the other one is in the middle.
    registry.rule(move |request| request.path.ends_with(&first).then_some(Act::Stall(50_000)));
    let name = registry.name("app", "v1");
    let pull = tokio::time::timeout(Duration::from_millis(500), bed.pull(&name));
    assert!(pull.await.is_err(), "the registry stalls");
    bed.assert_empty().await;
    registry.be_good();
    bed.pull(&name).await.unwrap();
    bed.assert_consistent().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_outlives_the_pull_that_began_it() {
    needs_root!();
    let (registry, bed) = (Registry::start().await, Bed::new().await);
    let image = small("x");
    registry.add("app", "v1", &image);
    let blob = image.layers[0].digest();
    registry.rule({
        let blob = blob.clone();
        move |request| request.path.ends_with(&blob).then_some(Act::Gate)
    });
    let spawn = || {
        let (store, name) = (bed.store.clone(), registry.name("app", "v1"));
        tokio::spawn(async move { store.pull(&name, None, None).await })
    };
    let first = spawn();
    eventually("the first pull is at the layer", || registry.count(&blob) == 1).await;
    let second = spawn();
    eventually("the second has the configuration", || registry.count(&image.id()) == 2).await;
    // It joins right after that; if it came too late it would start a download of its own, which also is correct.
    tokio::time::sleep(Duration::from_millis(100)).await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    registry.open_gate();
    assert_eq!(second.await.unwrap().unwrap().id, image.id());
    assert_eq!(registry.count(&blob), 1);
    bed.assert_consistent().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn downloads_are_limited_over_all_pulls() {
    needs_root!();
    let (registry, bed) = (Registry::start().await, Bed::with(2).await);
    let images: Vec<TestImage> = (0..4)
        .map(|at| {
            let layer =
                |part: u64| Layer::gzip(files(&[(&format!("{at}-{part}"), &noise(100_000, at * 10 + part))]));
            TestImage::new(&at.to_string(), (0..4).map(layer).collect())
        })
        .collect();
    for (at, image) in images.iter().enumerate() {
        registry.add("app", &at.to_string(), image);
        bed.hosts("unused", "");
    }
    // Configurations are blobs too, and are not counted by the limit: let them be there first.
    let ids: Vec<String> = images.iter().map(TestImage::id).collect();
    registry.rule(move |request| {
        let is_layer = request.is_blob() && !ids.iter().any(|id| request.path.ends_with(id));
        is_layer.then_some(Act::Gate)
    });
    let pulls: Vec<_> = (0..4)
        .map(|at| {
            let (store, name) = (bed.store.clone(), registry.name("app", &at.to_string()));
            tokio::spawn(async move { store.pull(&name, None, None).await })
        })
        .collect();
    let layers = |registry: &Registry| {
        images
            .iter()
            .flat_map(|image| &image.layers)
            .map(|layer| registry.count(&layer.digest()))
            .sum::<usize>()
    };
    eventually("two layers are under way", || layers(&registry) == 2).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(layers(&registry), 2);
    registry.open_gate();
    for pull in pulls {
        pull.await.unwrap().unwrap();
    }
    assert_eq!(layers(&registry), 16);
    bed.assert_consistent().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_and_removals_in_any_order() {
    needs_root!();
    let (registry, bed) = (Registry::start().await, Bed::new().await);
    for tag in ["v1", "v2", "v3"] {
        registry.add("app", tag, &two_layers(tag));
    }
    let registry = Arc::new(registry);
    let tasks: Vec<_> = (0..6)
        .map(|at| {
            let (store, registry) = (bed.store.clone(), Arc::clone(&registry));
            tokio::spawn(async move {
                for round in 0..10 {
                    let name = registry.name("app", ["v1", "v2", "v3"][(at + round) % 3]);
                    if at % 2 == 0 {
                        let image = store.pull(&name, None, None).await.unwrap();
                        let owner = format!("{at}");
                        // It may have been removed by now; if the lease is had, the layers are there.
                        if store.lease(&image.id, &owner).is_ok() {
                            assert!(
                                image.layers.iter().all(|layer| layer.join("..").join("layer.json").exists())
                            );
                            store.release(&owner);
                        }
                    } else {
                        store.remove(&name).await.unwrap();
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    bed.assert_consistent().await;
    for image in bed.store.list() {
        bed.store.remove(&image.id).await.unwrap();
    }
    bed.assert_empty().await;
}

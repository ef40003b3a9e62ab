//! A store whose records are those of an older program: one redb file.

use std::path::Path;

use redb::{Database, TableDefinition};
use serde_json::Value;

use crate::bed::{Bed, holders};
use crate::images::small;
use crate::needs_root;
use crate::registry::Registry;

const IMAGES: TableDefinition<&str, &[u8]> = TableDefinition::new("images");
const REFERENCES: TableDefinition<&str, &str> = TableDefinition::new("references");
const LAYERS: TableDefinition<&str, &[u8]> = TableDefinition::new("layers");
const LEASES: TableDefinition<(&str, &str), ()> = TableDefinition::new("leases");
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");

/// Makes the records those of the older program, which has had leases among them. `removed`: an image that its user has
/// removed, while a container holds it.
fn age(root: &Path, removed: &str) {
    std::fs::remove_file(root.join("store.redb")).unwrap();
    let database = Database::create(root.join("store.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(META).unwrap().insert("version", 1).unwrap();
    transaction.open_table(LAYERS).unwrap();
    for entry in std::fs::read_dir(root.join("images")).unwrap() {
        let path = entry.unwrap().path();
        if path.ends_with("whole") {
            continue;
        }
        let id = format!("sha256:{}", path.file_stem().unwrap().to_str().unwrap());
        let mut record: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        record["removed"] = (id == removed).into();
        let json = serde_json::to_vec(&record).unwrap();
        transaction.open_table(IMAGES).unwrap().insert(id.as_str(), json.as_slice()).unwrap();
        for name in record["references"].as_array().unwrap().iter().filter(|_| id != removed) {
            transaction.open_table(REFERENCES).unwrap().insert(name.as_str().unwrap(), id.as_str()).unwrap();
        }
        transaction.open_table(LEASES).unwrap().insert(("gone", id.as_str()), ()).unwrap();
    }
    transaction.commit().unwrap();
    drop(database);
    std::fs::remove_dir_all(root.join("images")).unwrap();
}

async fn filled(registry: &Registry) -> Bed {
    let bed = Bed::new().await;
    for mark in ["one", "two", "three"] {
        registry.add(mark, "v1", &small(mark));
        bed.pull(&registry.name(mark, "v1")).await.unwrap();
    }
    bed
}

#[tokio::test(flavor = "multi_thread")]
async fn old_records_are_taken_over() {
    needs_root!();
    let registry = Registry::start().await;
    let bed = filled(&registry).await;
    let mut want = bed.store.list();
    let three = small("three").id();
    want.retain(|image| image.id != three);
    let mut bed = bed.reopen_for(holders(&[("c1", &three)]), |root| age(root, &three)).await;
    for _ in 0..2 {
        assert_eq!(bed.store.list(), want, "with all their names");
        // The removed one is kept for its container, and for no lease that was stored.
        assert_eq!(bed.names("layers").len(), 3);
        let sign = std::fs::read_to_string(bed.root().join("store.redb")).unwrap();
        assert!(sign.contains("images"), "{sign}");
        assert!(!bed.root().join("store.redb.unreadable").exists());
        bed = bed.reopen_for(holders(&[("c1", &three)]), |_| ()).await;
    }
    let bed = bed.reopen(|_| ()).await;
    assert_eq!(bed.store.list(), want);
    bed.assert_consistent().await;
}

/// An older program finds no records that it can read, but knows that it is not the first one; what it leaves is as good as
/// what it was.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_program_between_two_of_ours() {
    needs_root!();
    let registry = Registry::start().await;
    let bed = filled(&registry).await;
    let [one, two, three] = ["one", "two", "three"].map(|mark| small(mark).id());
    let kept = std::fs::read(bed.root().join(format!("images/{}.json", &two[7..]))).unwrap();
    let bed = bed
        .reopen(|root| {
            age(root, "");
            // It has removed one image, given a name of one to another, and knows nothing of our records.
            let blob = root.join("blobs/sha256").join(&two[7..]);
            std::fs::remove_file(blob).unwrap();
            std::fs::create_dir(root.join("images")).unwrap();
            std::fs::write(root.join("images/whole"), "").unwrap();
            std::fs::write(root.join(format!("images/{}.json", &two[7..])), kept).unwrap();
            let database = Database::open(root.join("store.redb")).unwrap();
            let transaction = database.begin_write().unwrap();
            transaction.open_table(IMAGES).unwrap().remove(two.as_str()).unwrap();
            let mut references = transaction.open_table(REFERENCES).unwrap();
            references.insert(registry.name("two", "v1").as_str(), one.as_str()).unwrap();
            drop(references);
            transaction.commit().unwrap();
        })
        .await;
    assert_eq!(bed.store.get(&two).unwrap(), None);
    assert_eq!(bed.store.get(&registry.name("two", "v1")).unwrap().unwrap().id, one);
    assert_eq!(bed.store.get(&registry.name("three", "v1")).unwrap().unwrap().id, three);
    bed.assert_consistent().await;
}

type Damage = fn(&mut Vec<u8>);

#[tokio::test(flavor = "multi_thread")]
async fn old_records_that_cannot_be_read_cost_only_names() {
    needs_root!();
    let damages: [(&str, Damage); 6] = [
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
    let registry = Registry::start().await;
    let mut bed = filled(&registry).await;
    let want = bed.store.list();
    for (what, damage) in damages {
        bed = bed
            .reopen(|root| {
                age(root, "");
                let path = root.join("store.redb");
                let mut bytes = std::fs::read(&path).unwrap();
                damage(&mut bytes);
                std::fs::write(path, bytes).unwrap();
            })
            .await;
        assert!(bed.root().join("store.redb.unreadable").exists(), "{what}");
        let found = bed.store.list();
        assert_eq!(found.len(), 3, "{what}");
        for (found, want) in found.iter().zip(&want) {
            assert_eq!((&found.id, &found.layers, &found.config), (&want.id, &want.layers, &want.config));
            assert!(found.repo_tags.is_empty(), "{what}");
        }
        registry.forget_requests();
        for mark in ["one", "two", "three"] {
            bed.pull(&registry.name(mark, "v1")).await.unwrap();
            assert_eq!(registry.count(&small(mark).layers[0].digest()), 0, "{what}");
        }
        assert_eq!(bed.store.list(), want, "{what}");
        std::fs::remove_file(bed.root().join("store.redb.unreadable")).unwrap();
    }
}

/// Single bytes: most are harmless or found by a checksum; with panic = "abort" a panic would end the agent at each start.
#[tokio::test(flavor = "multi_thread")]
async fn any_byte_of_the_old_records_may_be_wrong() {
    needs_root!();
    let registry = Registry::start().await;
    let mut bed = filled(&registry).await;
    let mut bytes = Vec::new();
    bed = bed
        .reopen(|root| {
            age(root, "");
            bytes = std::fs::read(root.join("store.redb")).unwrap();
        })
        .await;
    let interesting = (0..bytes.len()).filter(|at| bytes[*at] != 0 || at % 997 == 0);
    let step = interesting.clone().count() / 60 + 1;
    for at in interesting.step_by(step) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0xff;
        bed = bed
            .reopen(|root| {
                std::fs::write(root.join("store.redb"), damaged).unwrap();
                std::fs::remove_dir_all(root.join("images")).unwrap();
            })
            .await;
        assert_eq!(bed.store.list().len(), 3, "byte {at}");
        assert!(bed.store.list().iter().all(|image| image.layers.iter().all(|layer| layer.is_dir())));
    }
    bed.assert_consistent().await;
}

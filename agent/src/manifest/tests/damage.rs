//! Nothing that is written in a manifest makes the program panic.

use proptest::prelude::*;

use super::{super::read, FULL, created};

/// A manifest with one line changed, doubled, or gone.
fn damaged() -> impl Strategy<Value = String> {
    let lines: Vec<&str> = FULL.lines().collect();
    let count = lines.len();
    let words = prop_oneof!["[-a-zA-Z0-9{}\\[\\]:,&*!|>'\"#%@~. ]{0,12}", Just(String::new())];
    (0..count, words, 0..4_u8).prop_map(move |(at, word, way)| {
        let mut lines: Vec<String> = FULL.lines().map(str::to_owned).collect();
        match way {
            0 => drop(lines.remove(at)),
            1 => lines.insert(at, lines[at].clone()),
            2 => lines[at].push_str(&word),
            _ => {
                let indent = lines[at].len() - lines[at].trim_start().len();
                lines[at] = format!("{}{word}", " ".repeat(indent));
            }
        }
        lines.join("\n")
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_manifest_makes_it_panic(text in damaged()) {
        if let Ok(pod) = read(text.as_bytes()) {
            for at in 0..pod.containers.len() {
                let _ = created(&pod, at, "");
            }
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in "\\PC{0,80}") {
        let _ = (read(&bytes), read(text.as_bytes()));
    }
}

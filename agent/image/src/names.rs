//! By which of its names an image is told to those who use it.

use holdfast_model::Image;

use crate::reference::Reference;

/// The names of an image in a container's status; `None`: it has none of that kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// `registry/repository:tag`.
    pub tag: Option<String>,
    /// `registry/repository@sha256:...`.
    pub digest: Option<String>,
}

/// The names of `image` for someone who asked for it by `asked`, the first that it knows: exactly such a name if it
/// has it, else one of the same repository; else its first. What is no reference (an id, free text) does not count.
pub fn names(image: &Image, asked: &[&str]) -> Names {
    let asked: Vec<Reference> = asked.iter().filter_map(|text| Reference::parse(text).ok()).collect();
    let tag = pick(&image.repo_tags, &asked);
    let by_tag = tag.as_deref().and_then(|tag| Reference::parse(tag).ok());
    let digest = pick(&image.repo_digests, &asked.into_iter().chain(by_tag).collect::<Vec<_>>());
    Names { tag, digest }
}

fn pick(names: &[String], asked: &[Reference]) -> Option<String> {
    let named = |reference: &Reference| {
        let (exact, repository) = (reference.to_string(), reference.name());
        let is_near =
            |name: &&String| name.strip_prefix(&repository).is_some_and(|rest| rest.starts_with([':', '@']));
        names.iter().find(|name| **name == exact).or_else(|| names.iter().find(is_near))
    };
    asked.iter().find_map(named).or(names.first()).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn the_names_that_were_asked_for_come_first() {
        let (other, busybox) =
            (format!("a.io/b@sha256:{HEX}"), format!("docker.io/library/busybox@sha256:{HEX}"));
        let port = format!("docker.io/library/busybox@sha256:{}", HEX.replace('0', "f"));
        let image = Image {
            repo_tags: ["a.io/b:1", "docker.io/library/busybox:1", "docker.io/library/busybox:2"]
                .map(str::to_owned)
                .into(),
            repo_digests: vec![other.clone(), busybox.clone(), port.clone()],
            ..Image::default()
        };
        let id = format!("sha256:{HEX}");
        let cases = [
            (vec!["", &id], "a.io/b:1", &other),
            (vec!["as a user wrote it", &id], "a.io/b:1", &other),
            (vec!["busybox:2", &id], "docker.io/library/busybox:2", &busybox),
            (vec!["", "busybox"], "docker.io/library/busybox:1", &busybox),
            (vec![&port, &id], "docker.io/library/busybox:1", &port),
            (vec!["a.io/b:9", "busybox:1"], "a.io/b:1", &other),
            (vec!["c.io/d"], "a.io/b:1", &other),
        ];
        for (asked, tag, digest) in cases {
            let want = Names { tag: Some(tag.to_owned()), digest: Some(digest.clone()) };
            assert_eq!(names(&image, &asked), want, "{asked:?}");
        }
        assert_eq!(names(&Image::default(), &["busybox"]), Names::default());
    }
}

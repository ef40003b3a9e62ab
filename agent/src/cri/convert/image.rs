//! Images, their references and the credentials of a pull.

use holdfast_cri::v1;
use holdfast_model::{Credentials, Image, ImageSpec};

use super::Invalid;

/// Which image a request means. An empty reference is an error.
pub fn image_spec(spec: Option<v1::ImageSpec>) -> Result<ImageSpec, Invalid> {
    // The caller puts the field's own name in front, so a missing message has an empty path here.
    let spec = spec.ok_or_else(|| Invalid::missing(""))?;
    if spec.image.is_empty() {
        return Err(Invalid::missing("image"));
    }
    let v1::ImageSpec { image, annotations, user_specified_image, runtime_handler, image_ref } = spec;
    Ok(ImageSpec { image, annotations, user_specified_image, runtime_handler, image_ref })
}

/// An image reference for an answer.
pub fn image_spec_to_wire(spec: &ImageSpec) -> v1::ImageSpec {
    let ImageSpec { image, annotations, user_specified_image, runtime_handler, image_ref } = spec.clone();
    v1::ImageSpec { image, annotations, user_specified_image, runtime_handler, image_ref }
}

/// Credentials of a pull; `None` when the message holds none.
pub fn credentials(auth: Option<v1::AuthConfig>) -> Option<Credentials> {
    let auth = auth?;
    let secrets = [&auth.username, &auth.password, &auth.auth, &auth.identity_token, &auth.registry_token];
    if secrets.iter().all(|secret| secret.is_empty()) {
        return None;
    }
    let v1::AuthConfig { username, password, auth, server_address, identity_token, registry_token } = auth;
    Some(Credentials { username, password, auth, server_address, identity_token, registry_token })
}

/// An image for ListImages and ImageStatus.
pub fn image_to_wire(image: &Image) -> v1::Image {
    let (uid, username) = user(&image.config.user);
    v1::Image {
        id: image.id.clone(),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        size: image.size_bytes,
        uid: uid.map(|value| v1::Int64Value { value }),
        username,
        spec: None,
        pinned: image.pinned,
    }
}

/// The user of an image as the kubelet wants it to decide on runAsNonRoot: a number as uid, a name as name, never a
/// name as uid 0. No user at all stays unsaid, which the kubelet reads as root.
fn user(user: &str) -> (Option<i64>, String) {
    let user = user.split_once(':').map_or(user, |(user, _group)| user);
    match user.parse::<u32>() {
        Ok(uid) => (Some(i64::from(uid)), String::new()),
        Err(_) => (None, user.to_owned()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use holdfast_model::ImageConfig;

    #[test]
    fn a_user_is_a_uid_or_a_name() {
        let cases = [
            ("", None, ""),
            ("0", Some(0), ""),
            ("1000", Some(1000), ""),
            ("1000:www", Some(1000), ""),
            ("www", None, "www"),
            ("www:1000", None, "www"),
            (":1000", None, ""),
            ("-1", None, "-1"),
            ("99999999999", None, "99999999999"),
        ];
        for (given, uid, name) in cases {
            assert_eq!(user(given), (uid, name.to_owned()), "{given:?}");
        }
    }

    #[test]
    fn an_image_shows_all_that_it_has() {
        let image = Image {
            id: "sha256:1".into(),
            repo_tags: vec!["r/a:1".into()],
            repo_digests: vec!["r/a@sha256:2".into()],
            size_bytes: 12,
            pinned: true,
            config: ImageConfig { user: "7:8".into(), ..Default::default() },
            layers: vec![],
        };
        let wire = image_to_wire(&image);
        assert_eq!((wire.id.as_str(), wire.size, wire.pinned), ("sha256:1", 12, true));
        assert_eq!((&wire.repo_tags, &wire.repo_digests), (&image.repo_tags, &image.repo_digests));
        assert_eq!((wire.uid.unwrap().value, wire.username.as_str()), (7, ""));
    }

    #[test]
    fn specs_go_there_and_back() {
        let wire = v1::ImageSpec {
            image: "a:1".into(),
            annotations: [("k".to_owned(), "v".to_owned())].into(),
            user_specified_image: "a".into(),
            runtime_handler: "runsc".into(),
            image_ref: "sha256:1".into(),
        };
        assert_eq!(image_spec_to_wire(&image_spec(Some(wire.clone())).unwrap()), wire);
        assert_eq!(image_spec(None).unwrap_err().within("image").to_string(), "image is missing");
        let unnamed = image_spec(Some(v1::ImageSpec::default())).unwrap_err();
        assert_eq!(unnamed.within("image").to_string(), "image.image is missing");
    }

    #[test]
    fn credentials_are_none_when_nothing_is_said() {
        let address = v1::AuthConfig { server_address: "r.example".into(), ..Default::default() };
        for auth in [None, Some(v1::AuthConfig::default()), Some(address.clone())] {
            assert_eq!(credentials(auth), None);
        }
        let token = v1::AuthConfig { registry_token: "t".into(), ..address };
        let converted = credentials(Some(token)).unwrap();
        assert_eq!(
            (converted.registry_token.as_str(), converted.server_address.as_str()),
            ("t", "r.example")
        );
    }
}

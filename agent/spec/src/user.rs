//! Who runs the command, as far as the request and the image's configuration say it.

use holdfast_model::{ContainerSecurity, ImageConfig, SupplementalGroupsPolicy};
use holdfast_pod::launch::UserRequest;

use crate::{
    error::{SpecError, invalid},
    text,
};

/// The request that is resolved inside the container's root. A name of the request wins over its number, and either
/// over the image's user with the image's group; a group of the request needs a user of the request.
pub fn request(security: &ContainerSecurity, image: &ImageConfig) -> Result<UserRequest, SpecError> {
    let field = |name: &str| format!("linux.security_context.{name}");
    let number = security.run_as_user.map(|id| text::id(&field("run_as_user"), id)).transpose()?;
    let group = security.run_as_group.map(|id| text::id(&field("run_as_group"), id)).transpose()?;
    let name = security.run_as_username.as_str();
    let user = match (name, number) {
        ("", None) if group.is_some() => {
            return Err(invalid(
                field("run_as_group"),
                "a group without a user: set run_as_user or run_as_username too",
            ));
        }
        ("", None) => image_user(image)?,
        ("", Some(number)) => number.to_string(),
        (name, _) if name.contains(|c: char| c == ':' || c.is_control()) => {
            let problem = format!("{name:?} is not the name of a user: no colon, no control characters");
            return Err(invalid(field("run_as_username"), problem));
        }
        (name, _) => name.to_owned(),
    };
    let supplemental_groups = security
        .supplemental_groups
        .iter()
        .enumerate()
        .map(|(index, id)| text::id(&field(&format!("supplemental_groups[{index}]")), *id))
        .collect::<Result<_, _>>()?;
    let strict_groups = security.supplemental_groups_policy == SupplementalGroupsPolicy::Strict;
    Ok(UserRequest { user, group, supplemental_groups, strict_groups })
}

/// Root if the image names nobody: whom the image's files give groups and a home as to anybody else.
fn image_user(image: &ImageConfig) -> Result<String, SpecError> {
    text::plain("image.config.User", &image.user)?;
    Ok(if image.user.is_empty() { "0".to_owned() } else { image.user.clone() })
}

/// The uid and gid that are known without the image's files, for the spec that people read; root if none is.
pub fn known_ids(request: &UserRequest) -> (u32, u32) {
    let (user, group) = request.user.split_once(':').unwrap_or((&request.user, ""));
    let number = |text: &str| text.parse::<u32>().ok();
    (number(user).unwrap_or(0), request.group.or_else(|| number(group)).unwrap_or(0))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn security(user: Option<i64>, group: Option<i64>, name: &str) -> ContainerSecurity {
        ContainerSecurity {
            run_as_user: user,
            run_as_group: group,
            run_as_username: name.into(),
            ..ContainerSecurity::default()
        }
    }

    #[test]
    fn who_wins() {
        for (user, group, name, image, expected, expected_group) in [
            (None, None, "", "", "0", None),
            (None, None, "", "app:staff", "app:staff", None),
            (Some(1000), None, "", "app:staff", "1000", None),
            (Some(0), Some(0), "", "app", "0", Some(0)),
            (Some(1000), Some(3000), "www", "app", "www", Some(3000)),
            (None, None, "www", "app", "www", None),
        ] {
            let image = ImageConfig { user: image.into(), ..ImageConfig::default() };
            let found = request(&security(user, group, name), &image).unwrap();
            assert_eq!((found.user.as_str(), found.group), (expected, expected_group));
        }
    }

    #[test]
    fn what_is_refused() {
        let image = ImageConfig { user: "app".into(), ..ImageConfig::default() };
        for (asked, part) in [
            (security(None, Some(1), ""), "run_as_group"),
            (security(Some(-1), None, ""), "run_as_user"),
            (security(Some(4_294_967_295), None, ""), "run_as_user"),
            (security(Some(4_294_967_296), None, ""), "run_as_user"),
            (security(Some(1), Some(-5), ""), "run_as_group"),
            (security(None, None, "app:root"), "run_as_username"),
            (security(None, None, "app\n"), "run_as_username"),
            (
                ContainerSecurity { supplemental_groups: vec![1, -1], ..Default::default() },
                "supplemental_groups[1]",
            ),
        ] {
            let error = request(&asked, &image).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        let image = ImageConfig { user: "a\0".into(), ..ImageConfig::default() };
        assert!(request(&security(None, None, ""), &image).is_err());
        assert!(request(&security(Some(1), None, ""), &image).is_ok(), "the image's is not used");
    }

    #[test]
    fn strictness_and_known_ids() {
        let strict = ContainerSecurity {
            supplemental_groups: vec![7],
            supplemental_groups_policy: SupplementalGroupsPolicy::Strict,
            ..security(Some(1000), None, "")
        };
        let found = request(&strict, &ImageConfig::default()).unwrap();
        assert!(found.strict_groups && found.supplemental_groups == [7]);
        for (user, group, ids) in
            [("", None, (0, 0)), ("1:2", None, (1, 2)), ("1:2", Some(3), (1, 3)), ("app:x", None, (0, 0))]
        {
            let request = UserRequest { user: user.into(), group, ..UserRequest::default() };
            assert_eq!(known_ids(&request), ids);
        }
    }
}

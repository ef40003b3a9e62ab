//! Who runs the command: a user request resolved against the image's /etc/passwd and /etc/group.
//!
//! Pure: the caller reads the two files (inside the container's root, with a cap on their size) and passes their
//! bytes. Text that is all digits is a number and never looked up as a name, and text that begins like a number is
//! no name: a crafted passwd line may not turn one user into another (CVE-2024-40635 and its kin).

use std::collections::BTreeSet;

use crate::{launch::UserRequest, protocol::ResolvedUser};

/// Most supplemental groups that setgroups(2) takes (NGROUPS_MAX).
pub const MAX_GROUPS: usize = 65536;

/// Why a user cannot be resolved. Every case is the request's or the image's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    /// Neither `user` nor `user:group`.
    #[error("user {0:?} is not of the form user, uid, user:group or uid:gid")]
    Form(String),
    /// Looks like a number and is none that Linux can use as an id.
    #[error(
        "{field} {text:?} is not an id from 0 to 4294967294: write such a number, or a name that begins with a letter"
    )]
    NotAnId {
        /// `user`, `group` or `supplemental group`.
        field: &'static str,
        /// The offending text.
        text: String,
    },
    /// A name without a usable line in /etc/passwd.
    #[error("user {0:?} is not in the image's /etc/passwd: name one that is, or give a numeric uid")]
    UnknownUser(String),
    /// A name without a usable line in /etc/group.
    #[error("group {0:?} is not in the image's /etc/group: name one that is, or give a numeric gid")]
    UnknownGroup(String),
    /// More groups than the kernel takes.
    #[error("user {user:?} would have {count} supplemental groups: the kernel takes at most {MAX_GROUPS}")]
    TooManyGroups {
        /// The user as it was asked for.
        user: String,
        /// How many it would have.
        count: usize,
    },
}

/// Resolves `request` against the bytes of the image's /etc/passwd and /etc/group (passwd(5), group(5); empty for a
/// file that is not there). Lines that are no entries are passed over; of several that match the first counts.
pub fn resolve(request: &UserRequest, passwd: &[u8], group: &[u8]) -> Result<ResolvedUser, UserError> {
    let (user, group_of_user) = split(&request.user)?;
    let (uid, entry) = find_user(user, passwd)?;
    let gid = match (request.group, group_of_user) {
        (Some(gid), _) => known_id("group", gid)?,
        (None, Some(text)) => find_group(text, group)?,
        (None, None) => entry.as_ref().map_or(0, |entry| entry.gid),
    };

    let mut groups = BTreeSet::from([gid]);
    for gid in &request.supplemental_groups {
        groups.insert(known_id("supplemental group", *gid)?);
    }
    if let Some(entry) = entry.as_ref().filter(|_| !request.strict_groups) {
        groups.extend(memberships(entry.name, group));
    }
    if groups.len() > MAX_GROUPS {
        return Err(UserError::TooManyGroups { user: request.user.clone(), count: groups.len() });
    }
    let home = entry.map_or_else(|| "/".to_owned(), |entry| entry.home);
    Ok(ResolvedUser { uid, gid, groups: groups.into_iter().collect(), home })
}

/// `user` or `user:group`; empty is root without a group of its own.
fn split(text: &str) -> Result<(&str, Option<&str>), UserError> {
    if text.is_empty() {
        return Ok(("0", None));
    }
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let wrong = |part: &str| part.is_empty() || part.contains(|c: char| c == ':' || c.is_control());
    if wrong(user) || group.is_some_and(wrong) {
        return Err(UserError::Form(text.to_owned()));
    }
    Ok((user, group))
}

/// A line of /etc/passwd.
struct Entry<'a> {
    name: &'a [u8],
    uid: u32,
    gid: u32,
    home: String,
}

fn find_user<'a>(text: &str, passwd: &'a [u8]) -> Result<(u32, Option<Entry<'a>>), UserError> {
    let mut entries = lines(passwd).filter_map(passwd_entry);
    if let Some(uid) = number("user", text)? {
        return Ok((uid, entries.find(|entry| entry.uid == uid)));
    }
    let entry = entries
        .find(|entry| entry.name == text.as_bytes())
        .ok_or_else(|| UserError::UnknownUser(text.to_owned()))?;
    Ok((entry.uid, Some(entry)))
}

fn find_group(text: &str, group: &[u8]) -> Result<u32, UserError> {
    if let Some(gid) = number("group", text)? {
        return Ok(gid);
    }
    lines(group)
        .filter_map(group_entry)
        .find(|(name, ..)| *name == text.as_bytes())
        .map(|(_, gid, _)| gid)
        .ok_or_else(|| UserError::UnknownGroup(text.to_owned()))
}

fn memberships<'a>(name: &'a [u8], group: &'a [u8]) -> impl Iterator<Item = u32> + 'a {
    lines(group)
        .filter_map(group_entry)
        .filter(move |(.., members)| members.split(|b| *b == b',').any(|member| member.trim_ascii() == name))
        .map(|(_, gid, _)| gid)
}

/// The id that `text` is, `None` for a name.
fn number(field: &'static str, text: &str) -> Result<Option<u32>, UserError> {
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) {
        return Ok(None);
    }
    strict_id(text.as_bytes()).map(Some).ok_or_else(|| UserError::NotAnId { field, text: text.to_owned() })
}

/// (uid_t) -1 means "leave as it is" to setresuid(2) and chown(2).
fn known_id(field: &'static str, id: u32) -> Result<u32, UserError> {
    if id == u32::MAX { Err(UserError::NotAnId { field, text: id.to_string() }) } else { Ok(id) }
}

/// One to ten digits, below `u32::MAX`.
fn strict_id(text: &[u8]) -> Option<u32> {
    if text.is_empty() || text.len() > 10 || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let id = text.iter().fold(0_u64, |id, digit| id * 10 + u64::from(digit - b'0'));
    u32::try_from(id).ok().filter(|id| *id != u32::MAX)
}

/// Lines that may be entries; `+` and `-` begin NIS directives, `#` a comment.
fn lines(file: &[u8]) -> impl Iterator<Item = &[u8]> {
    file.split(|b| *b == b'\n')
        .map(<[u8]>::trim_ascii)
        .filter(|line| line.first().is_some_and(|first| !matches!(first, b'#' | b'+' | b'-' | b':')))
}

/// `name:password:uid:gid:gecos:home:shell`, of which the last three may be absent.
fn passwd_entry(line: &[u8]) -> Option<Entry<'_>> {
    let mut fields = line.split(|b| *b == b':');
    let (name, _password) = (fields.next()?, fields.next()?);
    let (uid, gid) = (strict_id(fields.next()?)?, strict_id(fields.next()?)?);
    let home = fields
        .nth(1)
        .and_then(|home| std::str::from_utf8(home).ok())
        .filter(|home| home.starts_with('/') && !home.contains(char::is_control))
        .unwrap_or("/");
    Some(Entry { name, uid, gid, home: home.to_owned() })
}

/// `name:password:gid:member,member`, of which the last may be absent.
fn group_entry(line: &[u8]) -> Option<(&[u8], u32, &[u8])> {
    let mut fields = line.split(|b| *b == b':');
    let (name, _password) = (fields.next()?, fields.next()?);
    Some((name, strict_id(fields.next()?)?, fields.next().unwrap_or_default()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\n\
        # a comment\n\
        broken\n\
        neg:x:-1:0:::\n\
        huge:x:4294967296:0:::\n\
        minus:x:4294967295:0:::\n\
        4294967296:x:0:0::/root:\n\
        1234:x:0:0::/root:/bin/sh\n\
        65536x:x:0:0::/root:\n\
        -1:x:0:0::/root:\n\
        +nis::0:0:::\n\
        app:x:1000:1000:App:/home/app:/bin/sh\r\n\
        app:x:7:7:second:/:/bin/sh\n\
        www-data:x:33:33\n\
        rel:x:34:34::home:\n\
        blank:x: 35:35:::\n";
    const GROUP: &[u8] =
        b"root:x:0:\nstaff:x:50:app,www-data\nlast:x:60:bob, app\nbad:x:6o:app\nneg:x:-1:app\n\
        1000:x:0:app2\nself:x:1000:app\nshort:x:70\n";

    fn request(user: &str) -> UserRequest {
        UserRequest { user: user.into(), ..UserRequest::default() }
    }

    #[test]
    fn the_forms_that_images_and_requests_use() {
        let table: &[(&str, u32, u32, &[u32], &str)] = &[
            ("", 0, 0, &[0], "/root"),
            ("0", 0, 0, &[0], "/root"),
            ("root", 0, 0, &[0], "/root"),
            ("app", 1000, 1000, &[50, 60, 1000], "/home/app"),
            ("1000", 1000, 1000, &[50, 60, 1000], "/home/app"),
            ("app:staff", 1000, 50, &[50, 60, 1000], "/home/app"),
            ("app:70", 1000, 70, &[50, 60, 70, 1000], "/home/app"),
            ("1000:short", 1000, 70, &[50, 60, 70, 1000], "/home/app"),
            ("www-data", 33, 33, &[33, 50], "/"),
            ("rel", 34, 34, &[34], "/"),
            ("4242", 4242, 0, &[0], "/"),
            ("4242:4343", 4242, 4343, &[4343], "/"),
            ("4294967294", 4_294_967_294, 0, &[0], "/"),
            // The passwd line named 1234 says uid 0: digits are never a name.
            ("1234", 1234, 0, &[0], "/"),
            // The group line named 1000 says gid 0.
            ("app:1000", 1000, 1000, &[50, 60, 1000], "/home/app"),
        ];
        for (user, uid, gid, groups, home) in table {
            let found = resolve(&request(user), PASSWD, GROUP).unwrap();
            let expected =
                ResolvedUser { uid: *uid, gid: *gid, groups: groups.to_vec(), home: (*home).to_owned() };
            assert_eq!(found, expected, "user {user:?}");
        }
    }

    #[test]
    fn what_is_refused_is_named() {
        for (user, part) in [
            ("4294967296", "4294967296"),
            ("4294967295", "4294967295"),
            ("65536x", "65536x"),
            ("-1", "-1"),
            ("+1", "+1"),
            ("00000000001", "00000000001"),
            ("1e3", "1e3"),
            ("0x0", "0x0"),
            ("nobody", "nobody"),
            ("neg", "neg"),
            ("huge", "huge"),
            ("minus", "minus"),
            ("blank", "blank"),
            ("broken", "broken"),
            ("app:nogroup", "nogroup"),
            ("app:bad", "bad"),
            ("app:-1", "-1"),
            ("app:4294967295", "4294967295"),
            ("app:", "app:"),
            (":50", ":50"),
            (":", ":"),
            ("app:50:60", "app:50:60"),
            ("app\nroot", "app"),
        ] {
            let error = resolve(&request(user), PASSWD, GROUP).unwrap_err().to_string();
            assert!(error.contains(part), "user {user:?}: {error}");
        }
    }

    #[test]
    fn nothing_in_an_empty_image_is_root_by_name() {
        assert_eq!(resolve(&request("root"), b"", b"").unwrap_err(), UserError::UnknownUser("root".into()));
        assert_eq!(resolve(&request(""), b"", b"").unwrap().home, "/");
    }

    #[test]
    fn group_of_the_request_wins_and_groups_merge_or_not() {
        let mut asked = UserRequest {
            user: "app:staff".into(),
            group: Some(3000),
            supplemental_groups: vec![4000, 3000, 4000],
            strict_groups: false,
        };
        let merged = resolve(&asked, PASSWD, GROUP).unwrap();
        assert_eq!((merged.gid, merged.groups), (3000, vec![50, 60, 1000, 3000, 4000]));
        asked.strict_groups = true;
        assert_eq!(resolve(&asked, PASSWD, GROUP).unwrap().groups, [3000, 4000]);
        asked.supplemental_groups = vec![u32::MAX];
        assert!(resolve(&asked, PASSWD, GROUP).unwrap_err().to_string().contains("supplemental group"));
        asked.group = Some(u32::MAX);
        assert!(resolve(&asked, PASSWD, GROUP).unwrap_err().to_string().contains("group"));
    }

    #[test]
    fn more_groups_than_the_kernel_takes() {
        let asked =
            UserRequest { supplemental_groups: (1..=MAX_GROUPS as u32).collect(), ..UserRequest::default() };
        let error = resolve(&asked, b"", b"").unwrap_err();
        assert_eq!(error, UserError::TooManyGroups { user: String::new(), count: MAX_GROUPS + 1 });
    }

    proptest! {
        #[test]
        fn never_panics(user in ".{0,20}", passwd in any::<Vec<u8>>(), group in any::<Vec<u8>>()) {
            let _ = resolve(&request(&user), &passwd, &group);
        }

        #[test]
        fn lines_that_look_right_never_panic(
            user in "[a-z0-9:+-]{0,6}",
            passwd in "([a-z0-9+-]{0,3}(:[a-z0-9/-]{0,11}){0,7}\n){0,6}",
            group in "([a-z0-9+-]{0,3}(:[a-z0-9,-]{0,11}){0,4}\n){0,6}",
        ) {
            if let Ok(found) = resolve(&request(&user), passwd.as_bytes(), group.as_bytes()) {
                prop_assert!(found.groups.contains(&found.gid));
                prop_assert!(found.groups.is_sorted_by(|a, b| a < b));
                prop_assert!(found.home.starts_with('/'));
            }
        }

        #[test]
        fn a_number_stays_that_number(uid in any::<u32>(), other in any::<u32>(), gid in any::<u32>()) {
            let text = uid.to_string();
            let passwd = format!("{text}:x:{other}:{gid}::/x:\nroot:x:0:0::/:\n");
            let found = resolve(&request(&text), passwd.as_bytes(), b"").map(|found| found.uid);
            prop_assert_eq!(found.unwrap_or(u32::MAX), uid);
        }

        #[test]
        fn a_name_is_root_only_where_passwd_says_so(name in "[a-z_][a-z0-9_-]{0,8}", uid in "[0-9a-f -]{0,12}") {
            let passwd = format!("{name}:x:{uid}:0::/:\n");
            if let Ok(found) = resolve(&request(&name), passwd.as_bytes(), b"") {
                prop_assert_eq!(uid.parse::<u32>().ok(), Some(found.uid));
            }
        }
    }
}

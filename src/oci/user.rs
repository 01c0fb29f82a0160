//! Users of a container: resolves the users named by CRI and the image to numeric ids.
//!
//! Text that looks like a number is always a number, never a name. Otherwise an image could list a
//! user named `4294967296` with UID 0, and become root despite a check.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::Error;
use crate::backend::UserFiles;
use crate::model::container::ContainerSecurity;
use crate::model::security::SupplementalGroupsPolicy;

const SECURITY: &str = "linux.security_context";
/// OCI runtimes keep ids in a signed 32-bit number.
const MAX_ID: u32 = i32::MAX as u32;

/// The numeric identity a container's process gets.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ResolvedUser {
    /// UID.
    pub uid: u32,
    /// Primary GID.
    pub gid: u32,
    /// Supplementary groups, ascending, always including the primary one.
    pub additional_gids: Vec<u32>,
    /// Home directory in the image's /etc/passwd, if listed.
    pub home: Option<String>,
}

/// A reference to a user or group: a number or a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// A number, 0 to 2147483647.
    Id(u32),
    /// A name, to be looked up in the image.
    Name(String),
}

/// The `USER` of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageUser {
    /// The user.
    pub user: Reference,
    /// The group; `None` for the user's primary one.
    pub group: Option<Reference>,
}

/// The requested user and groups of a container's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UserRequest<'a> {
    /// `USER` of the image, used when the caller names no user.
    pub image_user: &'a str,
    /// The caller's UID.
    pub run_as_user: Option<u32>,
    /// The caller's user by name; a UID takes precedence.
    pub run_as_username: Option<&'a str>,
    /// The caller's GID; requires a user.
    pub run_as_group: Option<u32>,
    /// The caller's supplementary groups.
    pub supplemental_groups: &'a [u32],
    /// Whether the image's groups that list the user are added.
    pub policy: SupplementalGroupsPolicy,
}

impl<'a> UserRequest<'a> {
    /// From a container's security context and its image's `USER`.
    pub fn new(image_user: &'a str, security: &'a ContainerSecurity) -> Self {
        Self {
            image_user,
            run_as_user: security.run_as_user,
            run_as_username: security.run_as_username.as_deref(),
            run_as_group: security.run_as_group,
            supplemental_groups: &security.supplemental_groups,
            policy: security.supplemental_groups_policy,
        }
    }
}

/// Parses the `USER` of an image: `user[:group]`, each a name or a number. Empty means root.
pub fn parse_image_user(text: &str) -> Result<ImageUser, Error> {
    if text.is_empty() {
        return Ok(ImageUser { user: Reference::Id(0), group: Some(Reference::Id(0)) });
    }
    let refused = |problem| Error::image("User", format!("{text:?}: {problem}"));
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (text, None),
    };
    Ok(ImageUser {
        user: reference(user).map_err(refused)?,
        group: group.map(reference).transpose().map_err(refused)?,
    })
}

/// Whether [`resolve`] needs the image's files for this request; reading them requires mounting the
/// image. An invalid request needs none, since `resolve` refuses it.
pub fn needs_files(request: &UserRequest<'_>) -> bool {
    match wanted(request) {
        Ok(wanted) => {
            request.policy == SupplementalGroupsPolicy::Merge
                || !matches!(
                    wanted,
                    ImageUser { user: Reference::Id(_), group: Some(Reference::Id(_)) }
                )
        }
        Err(_) => false,
    }
}

/// Resolves a request using the files of the image.
///
/// # Errors
/// [`Error::Invalid`] or [`Error::Image`] for values out of range or malformed,
/// [`Error::UnknownUser`] and [`Error::UnknownGroup`] for names that the image does not have.
/// A number that the image does not list is fine; its group is then 0.
pub fn resolve(request: &UserRequest<'_>, files: &UserFiles) -> Result<ResolvedUser, Error> {
    check_groups(request.supplemental_groups)?;
    let wanted = wanted(request)?;
    let passwd = files.passwd.as_deref().unwrap_or_default();
    let (uid, entry) = match &wanted.user {
        Reference::Id(uid) => (*uid, passwd_entries(passwd).find(|entry| entry.uid == *uid)),
        Reference::Name(name) => {
            let entry = passwd_entries(passwd)
                .find(|entry| entry.name == name.as_bytes())
                .ok_or_else(|| Error::UnknownUser(name.clone()))?;
            (entry.uid, Some(entry))
        }
    };
    let groups = files.group.as_deref().unwrap_or_default();
    let gid = match &wanted.group {
        Some(Reference::Id(gid)) => *gid,
        Some(Reference::Name(name)) => {
            group_entries(groups)
                .find(|group| group.name == name.as_bytes())
                .ok_or_else(|| Error::UnknownGroup(name.clone()))?
                .gid
        }
        None => entry.as_ref().map_or(0, |entry| entry.gid),
    };

    let mut all: BTreeSet<u32> = request.supplemental_groups.iter().copied().collect();
    all.insert(gid);
    if let (SupplementalGroupsPolicy::Merge, Some(entry)) = (request.policy, &entry) {
        all.extend(group_entries(groups).filter(|g| g.lists(entry.name)).map(|group| group.gid));
    }
    Ok(ResolvedUser {
        uid,
        gid,
        additional_gids: all.into_iter().collect(),
        home: entry.and_then(|entry| entry.home()),
    })
}

/// The caller's user and group, else the image's.
fn wanted(request: &UserRequest<'_>) -> Result<ImageUser, Error> {
    let group = request.run_as_group.map(|gid| in_range("run_as_group", gid)).transpose()?;
    let group = group.map(Reference::Id);
    let user = match (request.run_as_user, request.run_as_username) {
        (Some(uid), _) => Some(Reference::Id(in_range("run_as_user", uid)?)),
        (None, Some(name)) if !name.is_empty() => Some(reference(name).map_err(|problem| {
            Error::invalid(format!("{SECURITY}.run_as_username"), format!("{name:?}: {problem}"))
        })?),
        (None, _) => None,
    };
    match (user, group) {
        (Some(user), group) => Ok(ImageUser { user, group }),
        (None, None) => parse_image_user(request.image_user),
        (None, Some(_)) => Err(Error::invalid(
            format!("{SECURITY}.run_as_group"),
            "needs run_as_user or run_as_username",
        )),
    }
}

/// Checks a list of supplementary groups.
pub(super) fn check_groups(gids: &[u32]) -> Result<(), Error> {
    for (index, gid) in gids.iter().enumerate() {
        in_range(&format!("supplemental_groups[{index}]"), *gid)?;
    }
    Ok(())
}

/// Checks that an id does not overflow in OCI runtimes.
pub(super) fn in_range(field: &str, id: u32) -> Result<u32, Error> {
    if id <= MAX_ID {
        Ok(id)
    } else {
        let problem = format!("{id} is greater than {MAX_ID}");
        Err(Error::invalid(format!("{SECURITY}.{field}"), problem))
    }
}

fn reference(text: &str) -> Result<Reference, &'static str> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return match text.parse::<u32>() {
            Ok(id) if id <= MAX_ID && digits == text => Ok(Reference::Id(id)),
            _ => Err("a number must be between 0 and 2147483647"),
        };
    }
    let unfit = |c: char| c == ':' || c == '/' || c.is_whitespace() || c.is_control();
    if text.is_empty() {
        Err("a user or group cannot be empty")
    } else if text.contains(unfit) {
        Err("a name cannot contain colons, slashes, spaces or control characters")
    } else {
        Ok(Reference::Name(text.to_owned()))
    }
}

/// A line of /etc/passwd: `name:password:uid:gid:comment:home:shell`.
struct PasswdEntry<'a> {
    name: &'a [u8],
    uid: u32,
    gid: u32,
    home: &'a [u8],
}

impl PasswdEntry<'_> {
    fn home(&self) -> Option<String> {
        let home = std::str::from_utf8(self.home).ok()?;
        (home.starts_with('/') && !home.contains(char::is_control)).then(|| home.to_owned())
    }
}

/// A line of /etc/group: `name:password:gid:member,member`.
struct GroupEntry<'a> {
    name: &'a [u8],
    gid: u32,
    members: &'a [u8],
}

impl GroupEntry<'_> {
    /// Whether it lists the user. A group with the user's own name is its primary group, and its
    /// list is ignored.
    fn lists(&self, user: &[u8]) -> bool {
        self.name != user && self.members.split(|&byte| byte == b',').any(|member| member == user)
    }
}

/// Malformed lines and those with invalid ids are skipped: reading an invalid id as 0 would make
/// the user root.
fn passwd_entries(content: &[u8]) -> impl Iterator<Item = PasswdEntry<'_>> {
    lines(content).filter_map(|line| {
        let mut fields = line.split(|&byte| byte == b':');
        let name = fields.next()?;
        let _password = fields.next()?;
        let (uid, gid) = (id(fields.next()?)?, id(fields.next()?)?);
        let home = fields.nth(1).unwrap_or_default();
        (!name.is_empty()).then_some(PasswdEntry { name, uid, gid, home })
    })
}

fn group_entries(content: &[u8]) -> impl Iterator<Item = GroupEntry<'_>> {
    lines(content).filter_map(|line| {
        let mut fields = line.split(|&byte| byte == b':');
        let name = fields.next()?;
        let _password = fields.next()?;
        let gid = id(fields.next()?)?;
        let members = fields.next().unwrap_or_default();
        (!name.is_empty()).then_some(GroupEntry { name, gid, members })
    })
}

fn lines(content: &[u8]) -> impl Iterator<Item = &[u8]> {
    content
        .split(|&byte| byte == b'\n')
        .map(<[u8]>::trim_ascii)
        .filter(|line| !line.is_empty() && !line.starts_with(b"#"))
}

fn id(text: &[u8]) -> Option<u32> {
    let digits = std::str::from_utf8(text).ok()?;
    let all_digits = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|id| all_digits && *id <= MAX_ID)
}

#[cfg(test)]
mod tests;

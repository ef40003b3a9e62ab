//! Who runs the command: the request resolved against the image's own files.

use std::os::fd::OwnedFd;
use std::path::Path;

use holdfast_pod::launch::UserRequest;
use holdfast_pod::protocol::ResolvedUser;
use holdfast_pod::user::resolve;
use holdfast_sys::path::Root;
use rustix::fs::{FileType, OFlags, fstat};
use rustix::io::Errno;

use super::launch::{Launch, process};
use crate::fault::{OrFail, Result, invalid};

const STAGE: &str = "find user";
/// What an image may have as /etc/passwd or /etc/group.
const LONGEST: usize = 1 << 20;

/// Finds the user. A launch that asks for nobody means the ids of the spec.
pub fn find(launch: &Launch, root: &Root) -> Result<ResolvedUser> {
    if launch.user == UserRequest::default() {
        return of_spec(launch);
    }
    let passwd = read(root, Path::new("/etc/passwd"))?;
    let group = read(root, Path::new("/etc/group"))?;
    resolve(&launch.user, &passwd, &group).map_err(|e| invalid(STAGE, e.to_string()))
}

fn of_spec(launch: &Launch) -> Result<ResolvedUser> {
    let user = process(launch)?.user();
    let mut groups = user.additional_gids().clone().unwrap_or_default();
    groups.push(user.gid());
    groups.sort_unstable();
    groups.dedup();
    let home = if user.uid() == 0 { "/root" } else { "/" };
    Ok(ResolvedUser { uid: user.uid(), gid: user.gid(), groups, home: home.to_owned() })
}

/// The file's bytes; none if it is not there. Never waits: it may be a FIFO, which has no writer, or a device.
fn read(root: &Root, path: &Path) -> Result<Vec<u8>> {
    let stage = format!("read the image's {}", path.display());
    let file = match root.open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY) {
        Ok(file) => file,
        Err(e) if e.is(Errno::NOENT) || e.is(Errno::NOTDIR) || e.is(Errno::LOOP) => return Ok(Vec::new()),
        Err(e) => return Err(e).or_fail(&stage),
    };
    let stat = fstat(&file).or_fail(&stage)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Ok(Vec::new());
    }
    read_capped(&file, &stage)
}

fn read_capped(file: &OwnedFd, stage: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 16 * 1024];
    loop {
        match rustix::io::read(file, &mut chunk) {
            Ok(0) => return Ok(bytes),
            Ok(len) => bytes.extend_from_slice(&chunk[..len]),
            Err(Errno::INTR) => {}
            Err(e) => return Err(e).or_fail(stage),
        }
        if bytes.len() > LONGEST {
            return Err(invalid(
                stage,
                format!("it is longer than {LONGEST} bytes: use an image with a shorter one"),
            ));
        }
    }
}

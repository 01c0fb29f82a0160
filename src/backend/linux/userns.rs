//! User namespaces, pinned like network namespaces, and the network namespaces they own.
//!
//! ```text
//! agent's thread              child
//!      ├── fork ────────────────┤ becomes the pod's root, unshares a user namespace
//!      │◄─────── ready ─────────┤
//!      ├ writes the id maps     │
//!      ├──────── go on ────────►┤ unshares a network namespace
//!      │◄─────── ready ─────────┤
//!      ├ pins both, sets lo up  │
//!      └── kill, wait ─────────►┘
//! ```
//! A process of many threads cannot enter a new user namespace, so a child has to. It lives for a
//! moment, never runs a program, and dies with the thread that made it.
#![allow(unsafe_code)]

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork};
use rustix::pipe::PipeFlags;
use rustix::process::set_parent_process_death_signal;
use rustix::thread::{CapabilitySets, capabilities, set_capabilities, set_thread_res_uid};

use super::super::Result;
use super::netns::{self, Folder};
use super::{absolute, failed, links, mounts};
use crate::model::security::{IdMapping, IdMappings};

/// Makes and pins a user namespace and, at `netns`, a network namespace that it owns. Goes on when
/// the caller is gone, then takes itself back.
pub(super) async fn create(
    folder: Arc<Folder>,
    path: PathBuf,
    ids: IdMappings,
    netns: Option<PathBuf>,
) -> Result<()> {
    absolute("userns path", &path)?;
    let undo = {
        let (folder, path, netns) = (Arc::clone(&folder), path.clone(), netns.clone());
        move || {
            netns.as_deref().map_or(Ok(()), |netns| folder.remove(netns))?;
            unpin(&path)
        }
    };
    netns::on_own_thread(move || make(&folder, &path, ids, netns.as_deref()), undo).await
}

fn make(folder: &Folder, path: &Path, ids: IdMappings, netns: Option<&Path>) -> Result<()> {
    netns::make_point(path)?;
    let made = make_at(folder, path, ids, netns);
    if made.is_err()
        && let Err(error) = unpin(path)
    {
        tracing::warn!(path = %path.display(), %error, "failed userns stays");
    }
    made
}

fn make_at(folder: &Folder, path: &Path, ids: IdMappings, netns: Option<&Path>) -> Result<()> {
    let tried = |error: io::Error| failed("make user namespace", path, error);
    let mut holder = Holder::start(ids).map_err(tried)?;
    holder.map(ids).map_err(tried)?;
    let Some(netns) = netns else { return netns::pin(&holder.link("user"), path) };
    holder.go_on().map_err(|error| failed("make network namespace", netns, error))?;
    folder.create(netns, |netns| {
        netns::pin(&holder.link("net"), netns)?;
        set_loopback_up(netns)
    })?;
    // Last: what came before is undone by whoever made it.
    netns::pin(&holder.link("user"), path).inspect_err(|_| {
        if let Err(error) = folder.remove(netns) {
            tracing::warn!(path = %netns.display(), %error, "failed netns stays");
        }
    })
}

fn unpin(path: &Path) -> Result<()> {
    mounts::detach(path)?;
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path, error)),
        _ => Ok(()),
    }
}

/// In the namespace itself: this thread ends there.
fn set_loopback_up(netns: &Path) -> Result<()> {
    let tried = |error: io::Error| failed("set lo up in", netns, error);
    let namespace = File::open(netns).map_err(tried)?;
    setns(namespace, CloneFlags::CLONE_NEWNET).map_err(|error| tried(error.into()))?;
    links::set_loopback_up().map_err(tried)
}

/// A child in a user namespace of its own. Dropping it ends it.
struct Holder {
    pid: Pid,
    orders: File,
    answers: File,
}

impl Holder {
    fn start(ids: IdMappings) -> io::Result<Self> {
        let (ordered, orders) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let (answers, answered) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let (root, _) = ids.root();
        let parent = rustix::process::getpid();
        // SAFETY: the child of a process with threads may only do what a signal handler may. It
        // makes system calls on what is on its stack, allocates nothing, takes no lock, and leaves
        // by `_exit` through `hold`, which does not return.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => {
                let mut holder =
                    Self { pid: child, orders: orders.into(), answers: answers.into() };
                drop((ordered, answered));
                holder.answer()?;
                Ok(holder)
            }
            ForkResult::Child => hold(&ordered, &answered, root, parent),
        }
    }

    /// Waits until the child has done its next step; its error else.
    fn answer(&mut self) -> io::Result<()> {
        let mut code = [0; 4];
        self.answers.read_exact(&mut code)?;
        match i32::from_ne_bytes(code) {
            0 => Ok(()),
            code => Err(io::Error::from_raw_os_error(code)),
        }
    }

    fn map(&self, ids: IdMappings) -> io::Result<()> {
        let line = |IdMapping { host_id, container_id, length }| {
            format!("{container_id} {host_id} {length}\n")
        };
        fs::write(format!("/proc/{}/uid_map", self.pid), line(ids.uids))?;
        fs::write(format!("/proc/{}/gid_map", self.pid), line(ids.gids))
    }

    fn go_on(&mut self) -> io::Result<()> {
        self.orders.write_all(&[1])?;
        self.answer()
    }

    /// A namespace of the child. It cannot be another process's: its PID is ours until we wait.
    fn link(&self, kind: &str) -> PathBuf {
        format!("/proc/{}/ns/{kind}", self.pid).into()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = kill(self.pid, Signal::SIGKILL);
        while let Err(nix::errno::Errno::EINTR) = waitpid(self.pid, None) {}
    }
}

/// The child: never returns.
fn hold(orders: &OwnedFd, answers: &OwnedFd, root: u32, parent: rustix::process::Pid) -> ! {
    let tell = |step: io::Result<()>| {
        let code = step.err().map_or(0, |error| error.raw_os_error().unwrap_or(-1));
        rustix::io::write(answers, &code.to_ne_bytes()).is_ok() && code == 0
    };
    let next = || rustix::io::read(orders, &mut [0_u8; 1]) == Ok(1);
    let entered = enter_userns(root, parent);
    if tell(entered) && next() && tell(unshare(CloneFlags::CLONE_NEWNET).map_err(Into::into)) {
        // The end of the pipe is the end of the parent.
        next();
    }
    // SAFETY: ends this process at once, without a destructor or exit handler of the parent's.
    unsafe { nix::libc::_exit(0) }
}

/// The namespace belongs to the pod's root: the kernel then counts what is used in it (inotify
/// instances, for one) against that user and not against the host's root. The capabilities are
/// kept, because hosts may deny user namespaces to the unprivileged.
fn enter_userns(root: u32, parent: rustix::process::Pid) -> io::Result<()> {
    let kept = capabilities(None)?;
    set_thread_res_uid(None, rustix::process::Uid::from_raw(root), None)?;
    set_capabilities(None, CapabilitySets { effective: kept.permitted, ..kept })?;
    // Only now: a change of user would take it back.
    set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    if rustix::process::getppid() != Some(parent) {
        return Err(io::Error::from_raw_os_error(nix::libc::ESRCH));
    }
    Ok(unshare(CloneFlags::CLONE_NEWUSER)?)
}

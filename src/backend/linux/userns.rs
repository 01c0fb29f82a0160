//! User namespaces, pinned like network namespaces, and the network namespaces that they own.
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
//! A multi-threaded process cannot enter a new user namespace, so a child process has to. It exists
//! for a moment, never executes a program, and dies with the thread that forked it.
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

/// Makes and pins a user namespace and, at `netns`, a network namespace that it owns. If the caller
/// is gone meanwhile, it is completed and then undone.
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
        tracing::warn!(path = %path.display(), %error, "cannot remove failed userns");
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
    // Last; on failure the caller undoes the earlier steps.
    netns::pin(&holder.link("user"), path).inspect_err(|_| {
        if let Err(error) = folder.remove(netns) {
            tracing::warn!(path = %netns.display(), %error, "cannot remove failed netns");
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

/// On this thread, which enters the namespace and ends there.
fn set_loopback_up(netns: &Path) -> Result<()> {
    let tried = |error: io::Error| failed("set lo up in", netns, error);
    let namespace = File::open(netns).map_err(tried)?;
    setns(namespace, CloneFlags::CLONE_NEWNET).map_err(|error| tried(error.into()))?;
    links::set_loopback_up().map_err(tried)
}

/// A child process in its own user namespace. Dropping it kills the child.
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
        // SAFETY: the child of a multi-threaded process may only do what a signal handler may. It
        // makes system calls on stack data, allocates nothing, takes no lock, and exits by `_exit`
        // in `hold`, which does not return.
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

    /// Waits until the child has done its next step, or returns its error.
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

    /// Path of a namespace of the child. It is valid, since its PID cannot be reused before it is
    /// reaped.
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
        // Returns at the end of the pipe, when the parent has closed it or died.
        next();
    }
    // SAFETY: ends this process at once, without running destructors or exit handlers of the
    // parent.
    unsafe { nix::libc::_exit(0) }
}

/// The namespace must be owned by the pod's root: the kernel then accounts its resources (for
/// example inotify instances) to that user and not to the host's root. Capabilities are kept, since
/// hosts may deny user namespaces to unprivileged processes.
fn enter_userns(root: u32, parent: rustix::process::Pid) -> io::Result<()> {
    let kept = capabilities(None)?;
    set_thread_res_uid(None, rustix::process::Uid::from_raw(root), None)?;
    set_capabilities(None, CapabilitySets { effective: kept.permitted, ..kept })?;
    // Only now, since changing the user would reset it.
    set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    if rustix::process::getppid() != Some(parent) {
        return Err(io::Error::from_raw_os_error(nix::libc::ESRCH));
    }
    Ok(unshare(CloneFlags::CLONE_NEWUSER)?)
}

//! The mounts of a container.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Volume, VolumeMount};

use super::kind::Kind;
use super::{Error, Volumes, file_name};
use crate::model::container::{ImageSpec, Mount, Propagation};
use crate::pod::Given;
use crate::pod::translate::expand;

/// What mounts depend on besides the pod.
#[derive(Debug, Clone, Copy)]
pub struct MountContext<'a> {
    /// The container's environment, for `subPathExpr`.
    pub env: &'a BTreeMap<String, String>,
    /// Number of earlier starts of the container.
    pub restart_count: u32,
    /// Whether the runtime handler supports recursive read-only mounts.
    pub recursive_read_only: bool,
}

/// A requested mount, for messages and checks.
#[derive(Clone, Copy)]
struct Asked<'a> {
    container: &'a Container,
    index: usize,
    mount: &'a VolumeMount,
}

impl Asked<'_> {
    fn wrong(&self, problem: impl Into<String>) -> Error {
        let (volume, container) = (self.mount.name.clone(), self.container.name.clone());
        Error::Mount { volume, container, problem: problem.into() }
    }
}

impl Volumes {
    /// The mounts of a container, in order; the last is the file for its termination message, which
    /// is created here. The volumes must exist ([`Volumes::setup`]).
    ///
    /// An image mount has the image's name from the spec; the caller has to pull it.
    pub async fn mounts(
        &self,
        given: &Given,
        container: &Container,
        context: &MountContext<'_>,
    ) -> Result<Vec<Mount>, Error> {
        let mut mounts = Vec::new();
        for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
            let mut volumes = given.spec().volumes.iter().flatten();
            let volume = volumes.find(|volume| volume.name == mount.name).ok_or_else(|| {
                let (volume, container) = (mount.name.clone(), container.name.clone());
                Error::NoVolume { volume, container }
            })?;
            let asked = Asked { container, index, mount };
            mounts.push(self.mount(given, volume, asked, context).await?);
        }
        mounts.extend(self.termination_mount(given.uid(), container, context).await?);
        Ok(mounts)
    }

    async fn mount(
        &self,
        given: &Given,
        volume: &Volume,
        asked: Asked<'_>,
        context: &MountContext<'_>,
    ) -> Result<Mount, Error> {
        let kind = Kind::of(volume);
        let sub = sub_path(asked, context.env)?;
        let mut mount = Mount {
            container_path: absolute(&asked.mount.mount_path),
            readonly: asked.mount.read_only.unwrap_or_default() || kind.has_content(),
            propagation: propagation(asked)?,
            recursive_read_only: recursive_read_only(asked, context)?,
            ..Mount::default()
        };
        if let Kind::Image(source) = &kind {
            let image = source.reference.clone().unwrap_or_default();
            let spec =
                ImageSpec { user_specified_image: image.clone(), image, ..ImageSpec::default() };
            mount.readonly = true;
            mount.image = Some(spec);
            mount.image_sub_path = sub.unwrap_or_default();
            return Ok(mount);
        }
        let path = match (&kind, self.volume_dir(given, &volume.name, &kind)?) {
            (Kind::HostPath(source), _) => PathBuf::from(&source.path),
            (_, Some(path)) => {
                // Files that belong only to this pod may be relabelled.
                mount.selinux_relabel = true;
                path
            }
            (_, None) => return Err(asked.wrong("its volume is not supported")),
        };
        let path = match sub {
            Some(sub) => self.bind_part(given, &path, Path::new(&sub), asked).await?,
            None => path,
        };
        mount.host_path = path.to_string_lossy().into_owned();
        Ok(mount)
    }

    /// A sub path is bind-mounted, so that nobody can replace it by a link before the container
    /// starts.
    async fn bind_part(
        &self,
        given: &Given,
        volume: &Path,
        sub: &Path,
        asked: Asked<'_>,
    ) -> Result<PathBuf, Error> {
        let target = self
            .pod_dir(given.uid())?
            .join("volume-subpaths")
            .join(file_name("volume", &asked.mount.name)?)
            .join(file_name("container", &asked.container.name)?)
            .join(asked.index.to_string());
        let bound = self.host.bind_sub_path(volume, sub, &target).await;
        bound.map_err(|source| Error::SubPath {
            volume: asked.mount.name.clone(),
            container: asked.container.name.clone(),
            source,
        })?;
        Ok(target)
    }
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

fn propagation(asked: Asked<'_>) -> Result<Propagation, Error> {
    match asked.mount.mount_propagation.as_deref().unwrap_or("None") {
        "None" => Ok(Propagation::Private),
        "HostToContainer" => Ok(Propagation::HostToContainer),
        "Bidirectional" => Ok(Propagation::Bidirectional),
        other => Err(asked.wrong(format!("invalid MountPropagation mode: {other:?}"))),
    }
}

fn recursive_read_only(asked: Asked<'_>, context: &MountContext<'_>) -> Result<bool, Error> {
    let mode = match asked.mount.recursive_read_only.as_deref() {
        None | Some("Disabled") => return Ok(false),
        Some(mode) => mode,
    };
    if !asked.mount.read_only.unwrap_or_default() {
        return Err(asked.wrong("recursiveReadOnly needs readOnly"));
    }
    if !matches!(asked.mount.mount_propagation.as_deref(), None | Some("None")) {
        return Err(asked.wrong("recursiveReadOnly needs mountPropagation None"));
    }
    match mode {
        "IfPossible" => Ok(context.recursive_read_only),
        "Enabled" if context.recursive_read_only => Ok(true),
        "Enabled" => Err(asked.wrong("recursiveReadOnly is not supported by the runtime")),
        other => Err(asked.wrong(format!("recursiveReadOnly: {other:?} is unknown"))),
    }
}

/// The requested sub path; `None` for the whole volume.
fn sub_path(asked: Asked<'_>, env: &BTreeMap<String, String>) -> Result<Option<String>, Error> {
    let given = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
    let mount = asked.mount;
    let sub = match (&mount.sub_path, &mount.sub_path_expr) {
        (_, Some(text)) if given(&mount.sub_path_expr) => expanded(text, env)
            .map_err(|name| asked.wrong(format!("missing value for {name:?}")))?,
        (Some(text), _) if given(&mount.sub_path) => text.clone(),
        _ => return Ok(None),
    };
    if sub.starts_with('/') {
        return Err(asked.wrong(format!("error SubPath `{sub}` must not be an absolute path")));
    }
    if Path::new(&sub).components().any(|part| part == Component::ParentDir) || sub.contains('\0') {
        let problem = format!("unable to provision SubPath `{sub}`: must not contain '..'");
        return Err(asked.wrong(problem));
    }
    Ok(Some(sub).filter(|sub| !sub.is_empty()))
}

/// Expands `$(NAME)`. Fails with the name of a missing variable.
fn expanded(text: &str, env: &BTreeMap<String, String>) -> Result<String, String> {
    let missing = RefCell::new(None);
    let expanded = expand(text, |name| {
        let value = env.get(name).cloned();
        if value.is_none() {
            missing.borrow_mut().get_or_insert_with(|| name.to_owned());
        }
        value
    });
    missing.into_inner().map_or(Ok(expanded), Err)
}

#[cfg(test)]
mod tests;

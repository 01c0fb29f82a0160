//! Deleting pods.

use std::sync::Arc;
use std::time::Duration;

use super::Pods;
use crate::clock::now;
use crate::pod::face::{Delete, Error, ObjectKey, Preconditions, Selector};
use crate::pod::object::PodKey;
use crate::pod::observe::doom;
use crate::pod::plan::{Role, wanted};
use crate::pod::record::Life;
use crate::pod::room::Entry;
use crate::pod::view::PodView;

impl Pods {
    pub(super) async fn delete_pods(&self, request: Delete) -> Result<Vec<PodView>, Error> {
        let argument = |field, message: &str| Error::Argument { field, message: message.into() };
        let only_objects = request.selector == Selector::default() && !request.objects.is_empty();
        if !request.objects.is_empty() && !request.dry_run {
            self.unkeep(&request.objects).await?;
        }
        if only_objects && !request.all {
            return Ok(Vec::new());
        }
        if request.selector == Selector::default() && !request.all {
            return Err(argument("selector", "it is empty; set all to delete all pods"));
        }
        if request.force && request.grace != Some(Duration::ZERO) {
            return Err(argument("force", "it needs a grace period of zero"));
        }
        if request.preconditions != Preconditions::default() && request.selector.name.is_empty() {
            return Err(argument("preconditions", "they need the name of a pod"));
        }
        let entries = self.selected(&request.selector)?;
        for entry in &entries {
            // Static pods are only deleted if named.
            if entry.life().given.source.is_static() && !request.selector.name.is_empty() {
                return Err(Error::Static(entry.key.clone()));
            }
            self.check(entry, &request.preconditions)?;
        }
        let mut views = Vec::new();
        for entry in entries.iter().filter(|entry| !entry.life().given.source.is_static()) {
            views.push(match request.dry_run {
                true => self.current(entry),
                false => {
                    // Who names a uid means this pod only.
                    if request.preconditions.uid.is_none() {
                        self.drop_followers(entry).await?;
                    }
                    self.end(entry, request.grace, request.force).await?
                }
            });
        }
        Ok(views)
    }

    /// Deletes the pods that wait for this one to go; they are never shown.
    async fn drop_followers(&self, entry: &Entry) -> Result<(), Error> {
        for next in self.room.followers(&entry.uid) {
            match self.change(&next, |life| life.delete(None, true, now())).await {
                Ok(_) | Err(Error::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Deletes stored config maps and secrets.
    async fn unkeep(&self, objects: &[ObjectKey]) -> Result<(), Error> {
        let _changing = self.changing.lock().await;
        let mut shelf = self.shelf().clone();
        let batch = shelf.remove(objects);
        self.room.deps.store.write(batch).await?;
        *self.shelf() = shelf;
        Ok(())
    }

    fn selected(&self, selector: &Selector) -> Result<Vec<Arc<Entry>>, Error> {
        let found = self.room.deps.hub.list(selector)?;
        let entries: Vec<_> =
            found.pods.iter().filter_map(|view| self.room.shown(&view.key())).collect();
        if entries.is_empty() && !selector.name.is_empty() {
            let namespace = match selector.namespace.as_str() {
                "" => "default",
                namespace => namespace,
            };
            return Err(Error::NotFound(PodKey::new(namespace, selector.name.clone())));
        }
        Ok(entries)
    }

    /// Starts to end a pod.
    pub(super) async fn end(
        &self,
        entry: &Arc<Entry>,
        grace: Option<Duration>,
        force: bool,
    ) -> Result<PodView, Error> {
        let life = self.change(entry, |life| life.delete(grace, force, now())).await?;
        let view = self.current(entry);
        if life.deletion.as_ref().is_some_and(|deletion| deletion.hidden) {
            self.room.hide(entry);
        }
        Ok(view)
    }

    /// Changes the record of a pod and wakes its task.
    pub(super) async fn change(
        &self,
        entry: &Entry,
        change: impl FnOnce(&mut Life),
    ) -> Result<Arc<Life>, Error> {
        let _turn = entry.turn.lock().await;
        if !self.room.has(&entry.uid) {
            return Err(Error::NotFound(entry.key.clone()));
        }
        let mut life = Life::clone(&entry.life());
        change(&mut life);
        self.room.save(&life).await?;
        let life = Arc::new(life);
        entry.set(life.clone());
        entry.changed.notify_one();
        Ok(life)
    }

    pub(super) async fn restart(&self, key: &PodKey, container: &str) -> Result<(), Error> {
        let entry = self.room.shown(key).ok_or_else(|| Error::NotFound(key.clone()))?;
        let life = entry.life();
        let problem = |message: &str| Error::Container {
            pod: key.clone(),
            container: container.to_owned(),
            message: message.to_owned(),
        };
        if life.is_ending() {
            let message = "it is ending".to_owned();
            return Err(Error::State { pod: key.clone(), message });
        }
        if life.units.get(container).is_none_or(|unit| unit.current.is_none()) {
            return Err(problem("there is no such container, or it was not started yet"));
        }
        let spec = wanted(life.given.spec());
        if spec.iter().any(|it| it.name == container && it.role == Role::Ephemeral) {
            return Err(problem("an ephemeral container is never restarted"));
        }
        self.change(&entry, |life| {
            let grace = life.grace();
            let unit = life.unit(container);
            if let Some(current) = &mut unit.current {
                let message = format!("Container {container} is restarted as asked for");
                doom(current, message, grace, now());
                unit.again = Some(current.id.clone());
            }
        })
        .await?;
        Ok(())
    }
}

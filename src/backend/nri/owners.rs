//! Ownership: each field of a container belongs to the plugin that set it.
//!
//! A plugin may remove another plugin's setting and then set its own, to override it. In NRI's
//! messages the owner of a removal is marked with a leading "-" before the plugin's name.

use super::proto::{CompoundFieldOwners, Field, FieldOwners, OwningPlugins};

/// Two plugins set the same field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("plugins {plugin:?} and {owner:?} both tried to set {what}")]
pub(super) struct Conflict {
    /// The second plugin.
    pub(super) plugin: String,
    /// The first plugin.
    pub(super) owner: String,
    /// The field, with the key if it has several entries.
    pub(super) what: String,
}

/// The owners in one request.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Owners(OwningPlugins);

impl Owners {
    /// The form for validators.
    pub(super) fn show(&self) -> OwningPlugins {
        self.0.clone()
    }

    fn of(&mut self, container: &str) -> &mut FieldOwners {
        self.0.owners.entry(container.to_owned()).or_default()
    }

    /// Makes `plugin` the owner of a field.
    pub(super) fn claim(&mut self, id: &str, field: Field, plugin: &str) -> Result<(), Conflict> {
        let owners = &mut self.of(id).simple;
        check(owners.get(&(field as i32)), plugin, || field.as_str_name().to_owned())?;
        owners.insert(field as i32, plugin.to_owned());
        Ok(())
    }

    /// Makes `plugin` the owner of one entry of a field.
    pub(super) fn claim_key(
        &mut self,
        id: &str,
        field: Field,
        key: &str,
        plugin: &str,
    ) -> Result<(), Conflict> {
        let CompoundFieldOwners { owners } = self.of(id).compound.entry(field as i32).or_default();
        check(owners.get(key), plugin, || format!("{} {key}", field.as_str_name()))?;
        owners.insert(key.to_owned(), plugin.to_owned());
        Ok(())
    }

    /// Adds an owner to a field that several plugins may extend.
    pub(super) fn share(&mut self, id: &str, field: Field, plugin: &str) {
        let owner = self.of(id).simple.entry(field as i32).or_default();
        if !owner.is_empty() {
            owner.push(',');
        }
        owner.push_str(plugin);
    }

    /// Removes the owner of a field.
    pub(super) fn clear(&mut self, id: &str, field: Field, plugin: &str) {
        if let Some(owner) = self.of(id).simple.get_mut(&(field as i32)) {
            *owner = format!("-{plugin}");
        }
    }

    /// Removes the owner of an entry.
    pub(super) fn clear_key(&mut self, id: &str, field: Field, key: &str, plugin: &str) {
        let entries = self.of(id).compound.get_mut(&(field as i32));
        if let Some(owner) = entries.and_then(|entries| entries.owners.get_mut(key)) {
            *owner = format!("-{plugin}");
        }
    }
}

fn check(
    owner: Option<&String>,
    plugin: &str,
    what: impl FnOnce() -> String,
) -> Result<(), Conflict> {
    let Some(owner) = owner else { return Ok(()) };
    match owner.strip_prefix('-') {
        Some(clearer) if clearer == plugin => Ok(()),
        cleared => Err(Conflict {
            plugin: plugin.to_owned(),
            owner: cleared.unwrap_or(owner).to_owned(),
            what: what(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_to_claim_is_refused() {
        let mut owners = Owners::default();
        owners.claim("c", Field::CgroupsPath, "00-a").unwrap();
        owners.claim_key("c", Field::Env, "HOME", "00-a").unwrap();
        owners.claim_key("c", Field::Env, "PATH", "01-b").unwrap();
        owners.claim("d", Field::CgroupsPath, "01-b").unwrap();
        let conflict = owners.claim("c", Field::CgroupsPath, "01-b").unwrap_err();
        assert_eq!(
            conflict.to_string(),
            "plugins \"01-b\" and \"00-a\" both tried to set CgroupsPath"
        );
        let conflict = owners.claim_key("c", Field::Env, "HOME", "01-b").unwrap_err();
        assert_eq!(conflict.what, "Env HOME");
        // The same field twice by one plugin is a conflict too, since one value would be lost.
        assert!(owners.claim("c", Field::CgroupsPath, "00-a").is_err());
    }

    #[test]
    fn who_takes_away_may_set() {
        let mut owners = Owners::default();
        owners.claim("c", Field::Args, "00-a").unwrap();
        owners.claim_key("c", Field::Env, "HOME", "00-a").unwrap();
        owners.clear("c", Field::Args, "01-b");
        owners.clear_key("c", Field::Env, "HOME", "01-b");
        assert_eq!(owners.claim("c", Field::Args, "02-c").unwrap_err().owner, "01-b");
        owners.claim("c", Field::Args, "01-b").unwrap();
        owners.claim_key("c", Field::Env, "HOME", "01-b").unwrap();
        let shown = owners.show().owners["c"].clone();
        assert_eq!(shown.simple[&(Field::Args as i32)], "01-b");
    }

    #[test]
    fn what_nobody_owns_cannot_be_cleared_and_what_is_shared_has_all_owners() {
        let mut owners = Owners::default();
        owners.clear_key("c", Field::Mounts, "/data", "00-a");
        owners.claim_key("c", Field::Mounts, "/data", "01-b").unwrap();
        owners.share("c", Field::OciHooks, "00-a");
        owners.share("c", Field::OciHooks, "01-b");
        let shown = owners.show().owners["c"].clone();
        assert_eq!(shown.simple[&(Field::OciHooks as i32)], "00-a,01-b");
    }
}

//! Brings the definitions of the catalog back to life, now or when they can be.
//!
//! A definition may be unusable for a while: its files are gone, or it reads a
//! table that is unusable itself. It stays in the catalog, and statements that
//! name it try again; what they then fail with names the first cause. Definitions
//! are tried until a pass brings nothing new, because a table that was replaced
//! is younger than the views that read it.
//!
//! Called by [`Database::open`] and by sessions: before planning, and after DDL.

use std::sync::Arc;

use mobula_execution::DEFAULT_CATALOG;
use mobula_plan::PlanError;
use mobula_udfs::{ActorSpec, FunctionSpec};

use crate::catalog::{Definition, ObjectKind};
use crate::{Database, ServerError, Session};

/// A definition that cannot be used now.
#[derive(Debug)]
pub(crate) struct Unusable {
    definition: Definition,
    /// One line, naming what it needs.
    reason: String,
}

impl Unusable {
    fn error(&self) -> ServerError {
        ServerError::Unusable {
            kind: self.definition.kind.name(),
            name: self.definition.name.clone(),
            reason: self.reason.clone(),
        }
    }
}

impl Database {
    /// Applies every stored definition, oldest first.
    pub(crate) async fn replay(self: &Arc<Self>) -> Result<(), ServerError> {
        let definitions = self.catalog().all()?;
        *self.unusable.lock().await = self.apply(definitions).await;
        Ok(())
    }

    /// Tries the unusable definitions again if `names` (`schema.name`) has one of
    /// them, and says what is still wrong with those named.
    pub(crate) async fn revive(self: &Arc<Self>, names: &[String]) -> Option<ServerError> {
        let mut unusable = self.unusable.lock().await;
        let named = |u: &Unusable| {
            let kind = u.definition.kind;
            let has_schema = !matches!(kind, ObjectKind::Function | ObjectKind::Actor);
            has_schema && names.contains(&u.definition.name)
        };
        if !unusable.iter().any(named) {
            return None;
        }
        let definitions = unusable.iter().map(|u| u.definition.clone()).collect();
        *unusable = self.apply(definitions).await;
        self.changed();
        unusable.iter().find(|u| named(u)).map(Unusable::error)
    }

    /// Plans the views anew that read `changed`, themselves or through other
    /// views: a plan holds the tables it was made over. `changed` is a name
    /// (`schema.name`), or a whole schema (`schema.`).
    ///
    /// # Errors
    /// The catalog cannot be read.
    pub(crate) async fn replan_readers(self: &Arc<Self>, changed: &str) -> Result<(), ServerError> {
        let stored = self.catalog().all()?.into_iter();
        let views: Vec<_> = stored.filter(|d| d.kind == ObjectKind::View).collect();
        if views.is_empty() {
            return Ok(());
        }
        let session = Session::new(Arc::clone(self));
        self.replan(readers_of(&session, changed, views)).await;
        Ok(())
    }

    /// Plans the views anew that call function `name`, or an actor of that name,
    /// themselves or through other views: a plan holds the code of what it calls.
    ///
    /// # Errors
    /// The catalog cannot be read.
    pub(crate) async fn replan_callers(self: &Arc<Self>, name: &str) -> Result<(), ServerError> {
        let stored = self.catalog().all()?.into_iter();
        let views = stored.filter(|d| d.kind == ObjectKind::View);
        let (callers, others): (Vec<_>, Vec<_>) = views.partition(|view| mentions(view, name));
        if callers.is_empty() {
            return Ok(());
        }
        let session = Session::new(Arc::clone(self));
        self.replan(with_readers(&session, callers, others)).await;
        Ok(())
    }

    async fn replan(self: &Arc<Self>, readers: Vec<Definition>) {
        let mut unusable = self.unusable.lock().await;
        for view in &readers {
            self.deregister(&view.name);
            unusable.retain(|u| u.definition != *view);
        }
        let failed = self.apply(readers).await;
        unusable.extend(failed);
    }

    fn deregister(&self, name: &str) {
        if let Some((schema, table)) = name.split_once('.')
            && let Some(catalog) = self.catalogs().catalog(DEFAULT_CATALOG)
            && let Some(schema) = catalog.schema(schema)
        {
            // It may be unusable, and so not be there.
            let _ = schema.deregister_table(table);
        }
    }

    /// Called when `name` was made anew or dropped.
    pub(crate) async fn forget_unusable(&self, kind: ObjectKind, name: &str) {
        let replaced = |d: &Definition| d.name == name && kind.sharing_names().contains(&d.kind);
        self.unusable
            .lock()
            .await
            .retain(|u| !replaced(&u.definition));
    }

    /// One line for each definition that cannot be used.
    pub async fn unusable(&self) -> Vec<String> {
        let unusable = self.unusable.lock().await;
        unusable.iter().map(|u| u.error().to_string()).collect()
    }

    async fn apply(self: &Arc<Self>, mut definitions: Vec<Definition>) -> Vec<Unusable> {
        loop {
            let before = definitions.len();
            let mut failed: Vec<Unusable> = vec![];
            for definition in definitions {
                if let Err(reason) = self.apply_one(&definition, &failed).await {
                    failed.push(Unusable { definition, reason });
                }
            }
            if failed.is_empty() || failed.len() == before {
                return failed;
            }
            definitions = failed.into_iter().map(|u| u.definition).collect();
        }
    }

    /// Applies one definition; the reason if it cannot be.
    async fn apply_one(
        self: &Arc<Self>,
        definition: &Definition,
        failed: &[Unusable],
    ) -> Result<(), String> {
        match definition.kind {
            ObjectKind::Function => self.apply_function(definition),
            ObjectKind::Actor => self.apply_actor(definition),
            _ => {
                let session = Session::new(Arc::clone(self));
                let cause = first_cause(&session, definition, failed);
                if let Some(reason) = cause {
                    return Err(reason);
                }
                session.replay(definition).await
            }
        }
        .map_err(|error| error.to_string())
    }

    fn apply_function(&self, definition: &Definition) -> Result<(), ServerError> {
        let spec = FunctionSpec::decode(&definition.body)?;
        if self.engine().functions().is_native(&spec.name) {
            let function = spec.name;
            return Err(PlanError::NativeName { function }.into());
        }
        self.engine().functions().insert(Arc::new(spec));
        Ok(())
    }

    /// It is built in the background: opening a database does not wait for models.
    fn apply_actor(&self, definition: &Definition) -> Result<(), ServerError> {
        let spec = Arc::new(ActorSpec::decode(&definition.body)?);
        let functions = self.engine().functions();
        if functions.is_native(&spec.name) {
            let function = spec.name.clone();
            return Err(PlanError::NativeName { function }.into());
        }
        self.engine().actors().start_later(Arc::clone(&spec))?;
        functions.insert_actor(&spec);
        Ok(())
    }
}

/// Whether the text of `view` has the name of a function; more often than it calls it.
fn mentions(view: &Definition, name: &str) -> bool {
    let text = String::from_utf8_lossy(&view.body).to_lowercase();
    // One that must be quoted may be written in several ways.
    name.contains('"') || text.contains(&name.to_lowercase())
}

/// Those of `views` that read `changed`, but for a view of that name itself.
fn readers_of(session: &Session, changed: &str, views: Vec<Definition>) -> Vec<Definition> {
    let others = views.into_iter().filter(|v| v.name != changed);
    let is_changed =
        |name: &str| name == changed || (changed.ends_with('.') && name.starts_with(changed));
    let reads_it = |view: &Definition| {
        let needs = session.names_read_by(view).unwrap_or_default();
        needs
            .iter()
            .any(|name| *name != view.name && is_changed(name))
    };
    let (first, others) = others.partition(reads_it);
    with_readers(session, first, others)
}

/// `readers`, and those of `others` that read them, themselves or through others.
fn with_readers(
    session: &Session,
    mut readers: Vec<Definition>,
    mut others: Vec<Definition>,
) -> Vec<Definition> {
    loop {
        let reads_it = |view: &Definition| {
            let needs = session.names_read_by(view).unwrap_or_default();
            let mut needs = needs.iter().filter(|name| **name != view.name);
            needs.any(|name| readers.iter().any(|reader| reader.name == *name))
        };
        let (more, rest): (Vec<_>, Vec<_>) = others.into_iter().partition(reads_it);
        if more.is_empty() {
            return readers;
        }
        readers.extend(more);
        others = rest;
    }
}

/// Why something that `definition` reads is unusable; a chain of views ends at
/// the table that started it.
fn first_cause(session: &Session, definition: &Definition, failed: &[Unusable]) -> Option<String> {
    let needs = session.names_read_by(definition).ok()?;
    let cause = failed
        .iter()
        .find(|u| u.definition.name != definition.name && needs.contains(&u.definition.name))?;
    Some(match cause.definition.kind {
        ObjectKind::View => cause.reason.clone(),
        _ => cause.error().to_string(),
    })
}

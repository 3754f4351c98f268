//! `CREATE FUNCTION` and `DROP FUNCTION`: compiled by a worker, then stored and
//! known to all sessions as one step; a temporary one is known to its session, and ends with it.

use std::sync::Arc;

use datafusion::logical_expr::LogicalPlan;
use mobula_plan::udf::{called_functions, check_name_is_free};
use mobula_plan::{CreateFunction, PlanError, check_overlap};

use super::{Outcome, Session};
use crate::ServerError;
use crate::catalog::{Definition, ObjectKind};

const DONE: Outcome = Outcome::Affected(None);

/// What is called as a function is, and is none.
enum Kind {
    Actor,
    Pool,
}

impl Session {
    pub(super) async fn create_function(
        &self,
        create: &CreateFunction,
    ) -> Result<Outcome, ServerError> {
        let name = &create.spec.name;
        let shared = self.database().engine().functions();
        if shared.is_native(name) {
            let function = name.clone();
            return Err(PlanError::NativeName { function }.into());
        }
        self.refuse_actor_name(name)?;
        if self.is_there(create)? {
            return Ok(DONE);
        }
        check_name_is_free(&self.state(), name)?;
        let mut spec = create.spec.clone();
        // Slow (a worker compiles the body), so not under the lock.
        spec.object = self.database().engine().describe_function(&spec).await?;
        check_overlap(&spec)?;
        if create.is_temporary {
            if !self.is_there(create)? {
                self.functions.insert(Arc::new(spec));
            }
            return Ok(DONE);
        }
        let _one_at_a_time = self.database().change().await;
        self.refuse_actor_name(name)?;
        if self.is_there(create)? {
            return Ok(DONE);
        }
        let definition = Definition {
            kind: ObjectKind::Function,
            name: name.clone(),
            body: spec.encode()?,
            location: None,
            default_schema: None,
        };
        self.database().catalog().put(&definition)?;
        shared.insert(Arc::new(spec));
        self.database().replan_callers(name).await?;
        Ok(DONE)
    }

    /// True when there is nothing to do; an error when the name is taken.
    fn is_there(&self, create: &CreateFunction) -> Result<bool, ServerError> {
        let name = &create.spec.name;
        let known = match create.is_temporary {
            true => self.functions.own(name).is_some(),
            false => self.database().engine().functions().get(name).is_some(),
        };
        if !known || create.or_replace {
            return Ok(false);
        }
        match create.if_not_exists {
            true => Ok(true),
            false => Err(ServerError::Exists {
                kind: "function",
                name: name.clone(),
                hint: "Use CREATE OR REPLACE FUNCTION",
            }),
        }
    }

    /// Refuses a `what` that others see, or that outlives this session, of a plan that calls a
    /// function of this session's own.
    pub(super) fn refuse_temporary_functions(
        &self,
        what: &'static str,
        plan: &LogicalPlan,
    ) -> Result<(), ServerError> {
        let called = called_functions(plan)?;
        match called
            .iter()
            .find(|f| self.functions.own(&f.name).is_some())
        {
            Some(own) => Err(ServerError::TemporaryFunction {
                what,
                function: own.name.clone(),
            }),
            None => Ok(()),
        }
    }

    /// Actors are called as functions are, so they share names.
    fn refuse_actor_name(&self, name: &str) -> Result<(), ServerError> {
        let (kind, hint) = match self.actor_kind(name) {
            None => return Ok(()),
            Some(Kind::Actor) => (
                "actor",
                "Functions and actors share names: choose another, or DROP ACTOR first",
            ),
            Some(Kind::Pool) => (
                "actor pool",
                "Functions and actors share names: choose another, or DROP ACTOR POOL first",
            ),
        };
        Err(ServerError::Exists {
            kind,
            name: name.to_owned(),
            hint,
        })
    }

    /// Whether `name` is that of an actor or a pool, and which.
    fn actor_kind(&self, name: &str) -> Option<Kind> {
        let functions = self.database().engine().functions();
        let is_pool = functions.pool(name).is_some();
        functions.is_actor(name).then_some(match is_pool {
            true => Kind::Pool,
            false => Kind::Actor,
        })
    }

    /// Drops the function that `name` means here: one of its own, or else one of all sessions.
    pub(super) async fn drop_function(
        &self,
        name: &str,
        if_exists: bool,
    ) -> Result<Outcome, ServerError> {
        if self.functions.remove(name).is_some() {
            return Ok(DONE);
        }
        let _one_at_a_time = self.database().change().await;
        let functions = self.database().engine().functions();
        let native = functions.is_native(name);
        let is_method = functions.get(name).is_some_and(|spec| spec.is_method());
        let known = !native && !is_method && functions.remove(name).is_some();
        let stored = self
            .database()
            .catalog()
            .remove(ObjectKind::Function, name)?;
        if stored {
            // One that a native function of its name had made unusable, perhaps.
            self.database()
                .forget_unusable(ObjectKind::Function, name)
                .await;
        } else if native {
            let function = name.to_owned();
            return Err(PlanError::NativeDrop { function }.into());
        } else if let Some(kind) = self.actor_kind(name) {
            return Err(ServerError::OtherKind {
                kind: "function",
                name: name.to_owned(),
                hint: match kind {
                    Kind::Actor => "It is an actor: use DROP ACTOR",
                    Kind::Pool => "It is an actor pool: use DROP ACTOR POOL",
                },
            });
        }
        if known {
            self.database().replan_callers(name).await?;
        }
        match known || stored || if_exists {
            true => Ok(DONE),
            false => Err(ServerError::Missing {
                kind: "function",
                name: name.to_owned(),
            }),
        }
    }
}

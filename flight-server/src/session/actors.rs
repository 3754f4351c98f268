//! `CREATE ACTOR` and `DROP ACTOR`: built by the engine, then stored and known to all
//! sessions as one step.

use std::sync::Arc;

use mobula_plan::udf::check_name_is_free;
use mobula_plan::{CreateActor, DropActor, PlanError, actor_methods};
use mobula_udfs::{ActorSpec, FunctionSpec};

use super::{Outcome, Session, while_awaited};
use crate::ServerError;
use crate::catalog::{Definition, ObjectKind};

const DONE: Outcome = Outcome::Affected(None);

impl Session {
    /// Makes an actor or a pool, unless `left` ends before it is built.
    pub(super) async fn create_actor(
        &self,
        create: &CreateActor,
        sql: &str,
        left: impl Future<Output = ()>,
    ) -> Result<Outcome, ServerError> {
        let name = &create.name;
        let engine = self.database().engine();
        if self.has_actor(create)? {
            return Ok(DONE);
        }
        check_name_is_free(&self.state(), name)?;
        let class = self.class_of(create)?;
        let described = engine.describe_methods(&class).await?;
        let mut spec = ActorSpec {
            name: name.clone(),
            class: class.as_ref().clone(),
            args: create.args.clone(),
            timeout: create.timeout,
            init_timeout: create.init_timeout,
            methods: vec![],
            demand: create.demand.over(&class.defaults.demand),
            pool: create.pool,
            member: 0,
        };
        spec.methods = actor_methods(&spec, described);
        check_callable(&spec)?;
        let spec = Arc::new(spec);
        // Slow (it may load a model), so not under the lock. Dropped below, it ends.
        let building = async {
            let built = engine.actors().build(Arc::clone(&spec), sql).await;
            built.map_err(ServerError::from)
        };
        let actor = while_awaited(building, left).await?;
        let replaced = {
            let _one_at_a_time = self.database().change().await;
            if self.has_actor(create)? {
                return Ok(DONE);
            }
            engine.actors().check_room_of(&actor)?;
            self.database().catalog().put(&Definition {
                kind: ObjectKind::Actor,
                name: name.clone(),
                body: spec.encode()?,
                location: None,
                default_schema: None,
            })?;
            let replaced = engine.actors().put(actor);
            engine.functions().insert_actor(&spec);
            self.database().replan_callers(name).await?;
            replaced
        };
        for replaced in replaced {
            engine.actors().end(replaced).await;
        }
        Ok(DONE)
    }

    /// True when there is nothing to do; an error when the name is taken.
    fn has_actor(&self, create: &CreateActor) -> Result<bool, ServerError> {
        let name = &create.name;
        let functions = self.database().engine().functions();
        let taken = |kind, hint| ServerError::Exists {
            kind,
            name: name.clone(),
            hint,
        };
        let Some(found) = functions.get(name) else {
            return Ok(false);
        };
        if functions.is_native(name) {
            let function = name.clone();
            return Err(PlanError::NativeName { function }.into());
        }
        if !found.is_method() {
            let hint = "Functions and actors share names: choose another";
            return Err(taken("function", hint));
        }
        let wants_pool = create.pool.is_some();
        // One that the catalog has and that could not be opened is of either kind.
        let is_pool = self.database().engine().actors().is_pool(name);
        let (kind, hint) = match (is_pool.unwrap_or(wants_pool), wants_pool) {
            (true, true) => ("actor pool", "Use CREATE OR REPLACE ACTOR POOL"),
            (false, false) => ("actor", "Use CREATE OR REPLACE ACTOR"),
            (true, false) => {
                let hint =
                    "It is no single actor, nor can one replace it: use DROP ACTOR POOL first";
                return Err(taken("actor pool", hint));
            }
            (false, true) => {
                let hint = "It is no pool, nor can one replace it: use DROP ACTOR first";
                return Err(taken("actor", hint));
            }
        };
        match (create.or_replace, create.if_not_exists) {
            (true, _) => Ok(false),
            (false, true) => Ok(true),
            (false, false) => Err(taken(kind, hint)),
        }
    }

    /// The function that an actor is to be made of.
    fn class_of(&self, create: &CreateActor) -> Result<Arc<FunctionSpec>, ServerError> {
        if self.functions.own(&create.class).is_some() {
            let function = create.class.clone();
            let what = match create.pool {
                Some(_) => "an actor pool",
                None => "an actor",
            };
            return Err(ServerError::TemporaryFunction { what, function });
        }
        let class = self.database().engine().functions().find(&create.class)?;
        let name = &create.class;
        let problem = if class.is_method() {
            format!("\"{name}\" is an actor itself. FROM takes a class")
        } else if !class.object.is_class() {
            format!("\"{name}\" is a def and keeps no state. FROM takes a class")
        } else if class.language != mobula_udfs::Language::Python {
            format!("\"{name}\" is native, a part of this program. FROM takes a class in Python")
        } else {
            return Ok(class);
        };
        Err(PlanError::new_actor(&create.name, create.pool.is_some(), problem).into())
    }

    pub(super) async fn drop_actor(&self, drop: &DropActor) -> Result<Outcome, ServerError> {
        let DropActor {
            name,
            if_exists,
            is_pool,
        } = drop;
        let engine = self.database().engine();
        let kind = match is_pool {
            true => "actor pool",
            false => "actor",
        };
        if engine
            .actors()
            .is_pool(name)
            .is_some_and(|is| is != *is_pool)
        {
            let hint = match is_pool {
                true => "It is one actor: use DROP ACTOR",
                false => "It is a pool: use DROP ACTOR POOL",
            };
            return Err(ServerError::OtherKind {
                kind,
                name: name.clone(),
                hint,
            });
        }
        let (known, stored, actor) = {
            let _one_at_a_time = self.database().change().await;
            let stored = self.database().catalog().remove(ObjectKind::Actor, name)?;
            let known = engine.functions().remove_actor(name);
            let actor = engine.actors().take(name);
            if known {
                self.database().replan_callers(name).await?;
            }
            (known, stored, actor)
        };
        if stored {
            self.database()
                .forget_unusable(ObjectKind::Actor, name)
                .await;
        }
        for actor in actor {
            engine.actors().end(actor).await;
        }
        match known || stored || *if_exists {
            true => Ok(DONE),
            false => Err(ServerError::Missing {
                kind,
                name: name.clone(),
            }),
        }
    }
}

/// Refuses an actor none of whose methods can be called.
fn check_callable(spec: &ActorSpec) -> Result<(), PlanError> {
    let problems = spec.methods.iter().map(|method| {
        let problem = method.actor.as_ref().and_then(|of| of.problem.as_deref());
        problem.map(|problem| format!("\"{}\" {problem}", method.name))
    });
    let Some(problems) = problems.collect::<Option<Vec<_>>>() else {
        return Ok(());
    };
    let problem = format!("none of its methods can be called: {}", problems.join("; "));
    let is_pool = spec.pool.is_some();
    Err(PlanError::new_actor(&spec.name, is_pool, problem))
}

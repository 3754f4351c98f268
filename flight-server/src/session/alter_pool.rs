//! `ALTER ACTOR POOL`: stored, and told to the pool, as one step.

use mobula_plan::{AlterPool, PlanError};
use mobula_udfs::ActorSpec;

use super::{Outcome, Session};
use crate::ServerError;
use crate::catalog::{Definition, ObjectKind};

impl Session {
    /// Returns before the pool has followed: it may have to wait for room.
    pub(super) async fn alter_pool(&self, alter: &AlterPool) -> Result<Outcome, ServerError> {
        let AlterPool {
            name,
            if_exists,
            options,
        } = alter;
        let actors = self.database().engine().actors();
        let _one_at_a_time = self.database().change().await;
        let Some(before) = actors.bounds(name) else {
            return match (actors.is_pool(name), if_exists) {
                (Some(_), _) => Err(ServerError::OtherKind {
                    kind: "actor pool",
                    name: name.clone(),
                    hint: "It is one actor: it cannot be altered, only replaced",
                }),
                (None, true) => Ok(Outcome::Affected(None)),
                (None, false) => Err(ServerError::Missing {
                    kind: "actor pool",
                    name: name.clone(),
                }),
            };
        };
        let bounds = options
            .over(before)
            .map_err(|problem| PlanError::ActorPool {
                pool: name.clone(),
                problem,
            })?;
        if let Some(spec) = actors.with_bounds(name, bounds)? {
            if let Err(error) = self.store_pool(&spec) {
                actors.set_bounds(name, before);
                return Err(error);
            }
            actors.set_bounds(name, bounds);
            let functions = self.database().engine().functions();
            functions.set_pool(name, Some(bounds));
        }
        Ok(Outcome::Affected(None))
    }

    fn store_pool(&self, spec: &ActorSpec) -> Result<(), ServerError> {
        self.database().catalog().put(&Definition {
            kind: ObjectKind::Actor,
            name: spec.name.clone(),
            body: spec.encode()?,
            location: None,
            default_schema: None,
        })
    }
}

//! `SET` and `RESET`: of one session, checked by whoever defined the setting.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use datafusion::common::DataFusionError;
use datafusion::config::ConfigField;
use datafusion::execution::{FunctionRegistry, SessionState};
use datafusion::logical_expr::{LogicalPlan, Statement};

use super::{Outcome, Session};
use crate::ServerError;

impl Session {
    /// Sets one option of this session, as `SET name = value` does.
    ///
    /// # Errors
    /// An unknown name or a value out of range.
    pub fn set_option(&self, name: &str, value: &str) -> Result<(), ServerError> {
        let state = self.context.state_ref();
        let mut state = state.write();
        if !name.contains('.') && mobula_plan::Setting::of(name).is_ok() {
            return Err(ServerError::ShortSetting { name: name.into() });
        }
        let set = state.config_mut().options_mut().set(name, value);
        // What fails may have set a part of it. Whoever plans reads the number before the
        // state, and waits for the lock there.
        self.settings.fetch_add(1, Ordering::Release);
        set.map_err(|error| bad_value(name, value, error))?;
        self.tell_schema(&state);
        tell_functions(&mut state)
    }

    /// Gives an option the value that a new session has: what file, environment
    /// and flags said, not what the program was built with.
    fn reset_option(&self, name: &str) -> Result<(), ServerError> {
        let fresh = Session::new(Arc::clone(self.database())).context.state();
        let entries = fresh.config_options().entries();
        let value = entries
            .into_iter()
            .find(|entry| entry.key == name)
            .and_then(|entry| entry.value);
        match value {
            Some(value) => self.set_option(name, &value),
            // Unknown, or known and unset by default: DataFusion tells them apart.
            None => {
                let state = self.context.state_ref();
                let mut state = state.write();
                let reset = state.config_mut().options_mut().reset(name);
                self.settings.fetch_add(1, Ordering::Release);
                reset?;
                self.tell_schema(&state);
                tell_functions(&mut state)
            }
        }
    }

    /// Temporary tables are found before those of the default schema.
    fn tell_schema(&self, state: &SessionState) {
        let schema = &state.config_options().catalog.default_schema;
        self.temporary.set_default_schema(schema);
    }

    pub(super) fn change_setting(&self, statement: &Statement) -> Result<Outcome, ServerError> {
        match statement {
            Statement::SetVariable(set) => self.set_option(&set.variable, &set.value)?,
            Statement::ResetVariable(reset) => self.reset_option(&reset.variable)?,
            _ => {}
        }
        Ok(Outcome::Affected(None))
    }
}

/// Some functions keep what they need of the settings (`now()` the time zone).
fn tell_functions(state: &mut SessionState) -> Result<(), ServerError> {
    let options = Arc::clone(state.config_options());
    let stale: Vec<_> = state
        .scalar_functions()
        .values()
        .filter_map(|function| function.inner().with_updated_config(&options))
        .collect();
    for function in stale {
        state.register_udf(Arc::new(function))?;
    }
    Ok(())
}

/// DataFusion's errors of wrong values name neither the key nor the value.
fn bad_value(name: &str, value: &str, error: DataFusionError) -> DataFusionError {
    let text = mobula_execution::classify(&error).message;
    match text.contains(name.trim_start_matches("mobula.")) {
        true => error,
        false => {
            DataFusionError::Configuration(format!("invalid value \"{value}\" for {name}: {text}"))
        }
    }
}

/// Statements that DataFusion knows and a session does not.
///
/// # Errors
/// [`ServerError::Unsupported`], with the way out.
pub(super) fn refuse_unsupported(plan: &LogicalPlan) -> Result<(), ServerError> {
    let LogicalPlan::Statement(statement) = plan else {
        return Ok(());
    };
    let what = match statement {
        Statement::SetVariable(_) | Statement::ResetVariable(_) => return Ok(()),
        Statement::Prepare(_) | Statement::Execute(_) | Statement::Deallocate(_) => {
            "PREPARE, EXECUTE and DEALLOCATE are not supported as statements. Prepare through the driver"
        }
        Statement::TransactionStart(_) | Statement::TransactionEnd(_) => {
            "transactions are not supported: each statement stands alone. Turn on autocommit"
        }
    };
    Err(ServerError::Unsupported { what })
}

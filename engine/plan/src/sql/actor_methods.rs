//! The methods of a class as functions of a named actor.
//!
//! A worker tells their types as texts (`DescribedMethod`); they become Arrow types as
//! those of CREATE FUNCTION do. A method whose types are no SQL types is kept with the
//! reason: only its calls fail.

use arrow::datatypes::DataType;
use mobula_udfs::{
    ActorSpec, CallDefaults, Demand, DescribedMethod, FunctionSpec, MethodOf, ObjectKind, Param,
    ParamKind, Returns, Volatility,
};

use super::statement::{MobulaStatement, parse_statements};
use crate::error::PlanError;

/// The method that an actor's own name stands for.
const CALL: &str = "__call__";

/// Why an async one cannot be called, as workers say it of others.
const IS_ASYNC: &str = "is async, which is not supported. Use a plain def";

/// The functions of `actor`, whose class has the methods that a worker `described`.
pub fn actor_methods(actor: &ActorSpec, described: Vec<DescribedMethod>) -> Vec<FunctionSpec> {
    let class = &actor.class;
    let defaults = CallDefaults {
        timeout: actor.timeout.or(class.defaults.timeout),
        init_timeout: actor.init_timeout.or(class.defaults.init_timeout),
        ..CallDefaults::default()
    };
    let call = FunctionSpec {
        name: actor.name.clone(),
        // A process that answers one call after the other.
        object: ObjectKind::Class,
        defaults: CallDefaults {
            concurrency: None,
            min_workers: None,
            timeout: defaults.timeout,
            init_timeout: defaults.init_timeout,
            // The actor has what it asks for; its calls ask for nothing.
            demand: Demand::default(),
            ..class.defaults.clone()
        },
        actor: Some(MethodOf {
            actor: actor.name.clone(),
            method: CALL.to_owned(),
            by_row: false,
            problem: class.object.is_async().then(|| IS_ASYNC.to_owned()),
        }),
        ..class.clone()
    };
    let methods = described.into_iter().map(|method| FunctionSpec {
        defaults: CallDefaults {
            batch_format: method.batches,
            ..defaults.clone()
        },
        ..self::method(&call, method)
    });
    std::iter::once(call.clone()).chain(methods).collect()
}

/// `described` beside `call`, the actor's own.
fn method(call: &FunctionSpec, described: DescribedMethod) -> FunctionSpec {
    let actor = &call.name;
    let sql_name = described.name.to_lowercase();
    let mut problem = described.problem.clone();
    let declared = match problem {
        Some(_) => None,
        None => match declared(&sql_name, &described) {
            Ok(declared) => Some(declared),
            Err(error) => {
                problem = Some(format!("has types that are no SQL types: {error}"));
                None
            }
        },
    };
    let (params, returns) = declared.unwrap_or_else(|| {
        let params = described.params.iter().map(|param| Param {
            name: param.name.to_lowercase(),
            kind: ParamKind::Value(DataType::Null),
        });
        (params.collect(), Returns::Scalar(DataType::Null))
    });
    FunctionSpec {
        name: format!("{actor}.{sql_name}"),
        params,
        returns,
        // Said of `__call__` alone.
        strict: false,
        volatility: Volatility::Volatile,
        actor: Some(MethodOf {
            actor: actor.clone(),
            method: described.name,
            by_row: described.batches.is_none(),
            problem,
        }),
        ..call.clone()
    }
}

/// Its parameters and what it returns, as if CREATE FUNCTION had declared them.
fn declared(name: &str, described: &DescribedMethod) -> Result<(Vec<Param>, Returns), PlanError> {
    let params = described.params.iter().map(|param| {
        let sql_type = param.sql_type.as_deref().unwrap_or_default();
        format!("{} {sql_type}", quoted(&param.name.to_lowercase()))
    });
    let sql = format!(
        "CREATE FUNCTION {}({}) RETURNS {} LANGUAGE python AS 'a method'",
        quoted(name),
        params.collect::<Vec<_>>().join(", "),
        described.returns.as_deref().unwrap_or_default(),
    );
    let mut read = parse_statements(&sql)?;
    match (read.pop(), read.is_empty()) {
        (Some(MobulaStatement::CreateFunction(create)), true) => {
            Ok((create.spec.params, create.spec.returns))
        }
        _ => Err(PlanError::SyntaxWithoutPlace {
            message: "a type ends where it should not".to_owned(),
        }),
    }
}

/// `name` as SQL has it whatever it is, a keyword too.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use mobula_udfs::{BatchFormat, DescribedParam, Language};

    use super::*;

    fn actor() -> ActorSpec {
        let class = FunctionSpec {
            object: ObjectKind::Class,
            language: Language::Python,
            body: "class counter: ...".into(),
            defaults: CallDefaults {
                batch_size: Some(7),
                concurrency: Some(3),
                ..CallDefaults::default()
            },
            ..FunctionSpec::native_scalar("counter", [("x", DataType::Int64)], DataType::Int64)
        };
        ActorSpec {
            name: "c".into(),
            class,
            args: vec![],
            timeout: Some(std::time::Duration::from_secs(3)),
            init_timeout: None,
            methods: vec![],
            demand: Demand::default(),
            pool: None,
            member: 0,
        }
    }

    fn described(params: &[(&str, &str)], returns: &str) -> DescribedMethod {
        DescribedMethod {
            name: "Add".into(),
            params: params
                .iter()
                .map(|(name, sql_type)| DescribedParam {
                    name: (*name).to_owned(),
                    sql_type: Some((*sql_type).to_owned()),
                })
                .collect(),
            returns: Some(returns.to_owned()),
            batches: None,
            problem: None,
        }
    }

    fn made(described: DescribedMethod) -> FunctionSpec {
        let mut all = actor_methods(&actor(), vec![described]);
        assert_eq!(all.len(), 2);
        all.remove(1)
    }

    #[test]
    fn the_actor_itself_is_its_call_and_has_one_worker() {
        let all = actor_methods(&actor(), vec![]);
        let [call] = all.as_slice() else {
            panic!("{all:?}");
        };
        assert_eq!((call.name.as_str(), call.column_name()), ("c", "c"));
        assert_eq!(call.params, actor().class.params);
        assert_eq!(
            (call.defaults.batch_size, call.defaults.concurrency),
            (Some(7), None)
        );
        assert_eq!(
            call.defaults.timeout,
            Some(std::time::Duration::from_secs(3))
        );
    }

    #[test]
    fn what_is_said_of_the_class_holds_for_its_call_and_for_no_other_method() {
        let mut immutable = actor();
        immutable.class.volatility = Volatility::Immutable;
        let all = actor_methods(&immutable, vec![described(&[("x", "BIGINT")], "BIGINT")]);
        let said: Vec<_> = all.iter().map(|method| method.volatility).collect();
        assert_eq!(said, [Volatility::Immutable, Volatility::Volatile]);
    }

    #[test]
    fn texts_become_types_and_what_does_not_fit_is_kept_with_the_reason() {
        let add = made(described(
            &[("x", "BIGINT"), ("By", "DECIMAL(10,2)")],
            "DOUBLE[]",
        ));
        assert_eq!((add.name.as_str(), add.column_name()), ("c.add", "add"));
        let names: Vec<_> = add.params.iter().map(|p| p.name.as_str()).collect();
        assert_eq!(names, ["x", "by"]);
        assert_eq!(
            add.params[1].kind,
            ParamKind::Value(DataType::Decimal128(10, 2))
        );
        assert!(matches!(add.returns, Returns::Scalar(DataType::List(_))));
        assert_eq!(add.defaults.batch_size, None);
        let method = add.actor.unwrap();
        assert_eq!(
            (method.method.as_str(), method.by_row, method.problem),
            ("Add", true, None)
        );

        let rows = made(DescribedMethod {
            batches: Some(BatchFormat::Pandas),
            ..described(&[("rows", "TABLE")], "TABLE(x BIGINT)")
        });
        assert!(rows.takes_table() && rows.is_table());
        assert_eq!(rows.defaults.batch_format, Some(BatchFormat::Pandas));
        assert!(!rows.actor.unwrap().by_row);

        for (described, problem) in [
            (
                described(&[("x", "KITTEN(3)")], "BIGINT"),
                "has types that are no SQL types: ",
            ),
            (
                described(&[("x", "INT); DROP TABLE t; --")], "BIGINT"),
                "has types that are no SQL types: ",
            ),
            (
                described(&[("x", "BIGINT")], "TABLE(x BIGINT)"),
                "has types that are no SQL types: ",
            ),
            (
                DescribedMethod {
                    problem: Some("says no type".into()),
                    ..described(&[("x", "")], "")
                },
                "says no type",
            ),
        ] {
            let found = made(described).actor.unwrap().problem.unwrap();
            assert!(found.starts_with(problem), "{found}");
        }
    }
}

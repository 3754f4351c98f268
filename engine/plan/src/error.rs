//! What planning refuses, each refusal with its way out.
//!
//! Every variant is the user's to repair (a syntax, a name, an option), so
//! front ends answer them as invalid arguments. Inside DataFusion they travel
//! as [`DataFusionError::External`] and are found again by downcast.

use datafusion::common::DataFusionError;

use crate::sql::call_options;

/// A statement, setting or plan that cannot be planned.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    #[error("syntax error at line {line}, column {column}: {message}")]
    Syntax {
        message: String,
        line: u64,
        column: u64,
    },
    #[error("syntax error: {message}")]
    SyntaxWithoutPlace { message: String },
    #[error("parameter {name} {problem}")]
    Parameter { name: String, problem: String },
    #[error("unknown setting \"{key}\"{hint}")]
    UnknownSetting { key: String, hint: String },
    #[error("invalid value \"{value}\" for mobula.{key}: expected {expected}")]
    SettingValue {
        key: &'static str,
        value: String,
        expected: String,
    },
    #[error(
        "mobula.{key} is fixed while the process runs. Give it as a flag, in MOBULA_{} or in the configuration file",
        key.to_uppercase()
    )]
    ProcessSetting { key: &'static str },
    #[error("functions in language \"{language}\" are not supported. Write LANGUAGE python")]
    Language { language: String },
    #[error("cannot create function \"{function}\": {problem}")]
    Declaration { function: String, problem: String },
    #[error("cannot create function \"{function}\": the type of {what} is not supported")]
    DeclaredType {
        function: String,
        what: String,
        #[source]
        source: DataFusionError,
    },
    #[error("cannot create actor \"{actor}\": {problem}")]
    Actor { actor: String, problem: String },
    #[error("cannot create actor pool \"{pool}\": {problem}")]
    NewPool { pool: String, problem: String },
    #[error("cannot alter actor pool \"{pool}\": {problem}")]
    ActorPool { pool: String, problem: String },
    #[error("cannot create split \"{split}\": {problem}")]
    Split { split: String, problem: String },
    #[error("actor \"{actor}\" has no method \"{method}\". {has}")]
    NoMethod {
        actor: String,
        method: String,
        has: String,
    },
    #[error(
        "function \"{function}\" is called with {words}, and it gives each row a value of its own. \
         Leave that out"
    )]
    CallWords {
        function: String,
        words: &'static str,
    },
    #[error("method \"{method}\" {problem}")]
    Method { method: String, problem: String },
    #[error("function \"{function}\" is built in. Choose another name")]
    BuiltIn { function: String },
    #[error("function \"{function}\" is native, a part of this program. Choose another name")]
    NativeName { function: String },
    #[error("function \"{function}\" is native, a part of this program, and cannot be dropped")]
    NativeDrop { function: String },
    #[error(
        "this session does not know Mobula's operators. Build it with SessionStateBuilderExt::with_mobula"
    )]
    NoMobula,
    #[error(
        "unknown function \"{function}\". CREATE FUNCTION makes one; SHOW FUNCTIONS lists them{hint}"
    )]
    UnknownFunction { function: String, hint: String },
    #[error(
        "unknown option \"{option}\" of {owner}. Options are {}{hint}",
        call_options::listed()
    )]
    UnknownOption {
        owner: String,
        option: String,
        hint: String,
    },
    #[error("{owner} has no option \"{option}\". {instead}")]
    OptionElsewhere {
        owner: String,
        option: String,
        instead: &'static str,
    },
    #[error(
        "option \"{option}\" is for functions that return a table, and \"{function}\" returns a value: all columns of its input pass by it anyway"
    )]
    TableOption { function: String, option: String },
    #[error(
        "option \"{option}\" is for async functions, which a worker calls many times at once, and \"{function}\" is none. Write it as async def, or leave the option out"
    )]
    AsyncOption {
        function: String,
        option: &'static str,
    },
    #[error(
        "function \"{function}\" has a rate_limit, which its workers share, and concurrency => NULL, which does not say how many there are. Give a count"
    )]
    RateOfAnyWorkers { function: String },
    #[error(
        "function \"{function}\" is called with {option} => \"{column}\", and its input has no such column ({columns})"
    )]
    PromisedColumn {
        function: String,
        option: &'static str,
        column: String,
        columns: String,
    },
    #[error(
        "function \"{function}\" is declared row_preserving, but gave {given} for {sent}. Return one row per row, or declare it without"
    )]
    RowsNotPreserved {
        function: String,
        sent: String,
        given: String,
    },
    #[error("option \"{option}\" of {owner} is given twice")]
    OptionTwice { owner: String, option: String },
    #[error("invalid value {value} for option \"{option}\" of {owner}: expected {expected}")]
    OptionValue {
        owner: String,
        option: String,
        value: String,
        expected: String,
    },
    #[error("cannot plan {join}: {problem}")]
    MergedKey { join: String, problem: String },
    #[error("cannot plan {operator}: {problem}")]
    Relation {
        operator: &'static str,
        problem: String,
    },
    #[error(
        "parameter \"{parameter}\" of function \"{function}\" finds no column of its name in the input ({columns}). Rename a column with AS inside the query{hint}"
    )]
    NoColumn {
        function: String,
        parameter: String,
        columns: String,
        hint: String,
    },
    #[error(
        "the input of function \"{function}\" has two columns named \"{column}\". Rename one with AS inside the query"
    )]
    ColumnTwice { function: String, column: String },
    #[error(
        "the input already has a column \"{column}\", the name of the function's result. Rename it with AS inside the query"
    )]
    ResultName { column: String },
    #[error(
        "argument {position} (\"{parameter}\") of function \"{function}\" must be {wanted}, not {found}. Write a CAST"
    )]
    ArgumentType {
        function: String,
        parameter: String,
        position: usize,
        wanted: String,
        found: String,
    },
    #[error("function \"{function}\" takes {}, not {found}", arguments(*wanted))]
    ArgumentCount {
        function: String,
        wanted: usize,
        found: usize,
    },
    #[error(
        "function \"{function}\" returns a table. Call it as FROM map_batches(TABLE(query), {function})"
    )]
    TableFunction { function: String },
    #[error(
        "the input of function \"{function}\" has an ORDER BY over a column that it does not select. Select that column as well"
    )]
    OrderNotSelected { function: String },
    #[error(
        "function \"{function}\" leaves out rows that fail (on_error => '{on_error}'), which an expression cannot. Call it as FROM map(TABLE(query), {function}), or declare it WITH (on_error = 'null')"
    )]
    DropsRows { function: String, on_error: String },
    #[error(
        "function \"{function}\" gets whole rows. Call it as FROM filter(TABLE(query), {function})"
    )]
    RowFunction { function: String },
    #[error(
        "filter needs a function that returns BOOLEAN, and \"{function}\" returns something else. Call it by map, and compare its result in WHERE"
    )]
    NotBoolean { function: String },
    #[error(
        "function \"{function}\" cannot be called inside {place}, where it would run for rows that must not reach it. Call it in a subquery first and use its result here"
    )]
    GuardedCall { function: String, place: String },
    #[error(
        "function \"{function}\" cannot be called in {place}. Call it in a subquery first and use its result here"
    )]
    MisplacedCall { function: String, place: String },
    #[error(
        "function \"{function}\" cannot be called in the condition of a {join} JOIN with columns of both sides or declared VOLATILE: rows without a partner are treated apart, so it would have to run while joining. Call it in a subquery over an inner join of both sides and join with that"
    )]
    JoinCall { function: String, join: String },
}

impl PlanError {
    /// What is wrong with the parameter written as `name`.
    pub fn parameter(name: &str, problem: impl Into<String>) -> Self {
        Self::Parameter {
            name: name.to_owned(),
            problem: problem.into(),
        }
    }

    /// Why the actor, or pool, called `name` cannot be created.
    pub fn new_actor(name: &str, is_pool: bool, problem: String) -> Self {
        let name = name.to_owned();
        match is_pool {
            true => Self::NewPool {
                pool: name,
                problem,
            },
            false => Self::Actor {
                actor: name,
                problem,
            },
        }
    }
}

fn arguments(n: usize) -> String {
    match n {
        1 => "1 argument".to_owned(),
        n => format!("{n} arguments"),
    }
}

impl From<PlanError> for DataFusionError {
    fn from(error: PlanError) -> Self {
        Self::External(Box::new(error))
    }
}

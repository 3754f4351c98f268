//! Declarations as read, and what is refused with which words.

use expect_test::{Expect, expect};

use crate::{MobulaStatement, parse_statements};

fn check(sql: &str, expected: Expect) {
    let text = match parse_statements(sql).map(|mut s| s.pop()) {
        Ok(Some(MobulaStatement::CreateFunction(create))) => format!("{create:#?}"),
        Ok(other) => format!("{other:?}"),
        Err(error) => error.to_string(),
    };
    expected.assert_eq(&text);
}

#[test]
fn a_scalar_function() {
    check(
        "CREATE OR REPLACE FUNCTION Net(price DOUBLE, \"Discount\" DECIMAL(15, 2)) RETURNS DOUBLE
         LANGUAGE python IMMUTABLE STRICT AS $$
def net(price, discount):
    return price * (1 - discount)
$$",
        expect![[r#"
            CreateFunction {
                or_replace: true,
                is_temporary: false,
                if_not_exists: false,
                spec: FunctionSpec {
                    name: "net",
                    language: Python,
                    params: [
                        Param {
                            name: "price",
                            kind: Value(
                                Float64,
                            ),
                        },
                        Param {
                            name: "Discount",
                            kind: Value(
                                Decimal128(
                                    15,
                                    2,
                                ),
                            ),
                        },
                    ],
                    returns: Scalar(
                        Float64,
                    ),
                    object: Function,
                    volatility: Immutable,
                    strict: true,
                    body: "\ndef net(price, discount):\n    return price * (1 - discount)\n",
                    defaults: CallDefaults {
                        batch_size: None,
                        concurrency: None,
                        batch_format: None,
                        on_error: None,
                        max_errors: None,
                        max_error_ratio: None,
                        min_workers: None,
                        retry_exceptions: None,
                        max_retries: None,
                        zero_copy_batch: None,
                        preserve_order: None,
                        timeout: None,
                        init_timeout: None,
                        passthrough: [],
                        row_preserving: false,
                        reads: None,
                        demand: Demand {
                            cpus: None,
                            gpus: None,
                            memory_bytes: None,
                            custom: {},
                            labels: LabelSelector(
                                [],
                            ),
                            placement: Spread,
                        },
                        overlap: Overlap {
                            max_in_flight: None,
                            rate_limit: None,
                        },
                        snapshot_every: None,
                    },
                    actor: None,
                },
            }"#]],
    );
}

#[test]
fn a_table_function_with_clauses_in_another_order() {
    check(
        "CREATE FUNCTION IF NOT EXISTS chunks(docs TABLE) AS $$def chunks(b): yield b$$
         WITH (batch_size = 64, concurrency = 2, batch_format = 'pyarrow')
         LANGUAGE python RETURNS TABLE(id BIGINT, chunk VARCHAR, v FLOAT[])",
        expect![[r#"
            CreateFunction {
                or_replace: false,
                is_temporary: false,
                if_not_exists: true,
                spec: FunctionSpec {
                    name: "chunks",
                    language: Python,
                    params: [
                        Param {
                            name: "docs",
                            kind: Table,
                        },
                    ],
                    returns: Table(
                        Schema {
                            fields: [
                                Field {
                                    name: "id",
                                    data_type: Int64,
                                    nullable: true,
                                },
                                Field {
                                    name: "chunk",
                                    data_type: Utf8,
                                    nullable: true,
                                },
                                Field {
                                    name: "v",
                                    data_type: List(
                                        Field {
                                            data_type: Float32,
                                            nullable: true,
                                        },
                                    ),
                                    nullable: true,
                                },
                            ],
                            metadata: {},
                        },
                    ),
                    object: Function,
                    volatility: Volatile,
                    strict: false,
                    body: "def chunks(b): yield b",
                    defaults: CallDefaults {
                        batch_size: Some(
                            64,
                        ),
                        concurrency: Some(
                            2,
                        ),
                        batch_format: Some(
                            Pyarrow,
                        ),
                        on_error: None,
                        max_errors: None,
                        max_error_ratio: None,
                        min_workers: None,
                        retry_exceptions: None,
                        max_retries: None,
                        zero_copy_batch: None,
                        preserve_order: None,
                        timeout: None,
                        init_timeout: None,
                        passthrough: [],
                        row_preserving: false,
                        reads: None,
                        demand: Demand {
                            cpus: None,
                            gpus: None,
                            memory_bytes: None,
                            custom: {},
                            labels: LabelSelector(
                                [],
                            ),
                            placement: Spread,
                        },
                        overlap: Overlap {
                            max_in_flight: None,
                            rate_limit: None,
                        },
                        snapshot_every: None,
                    },
                    actor: None,
                },
            }"#]],
    );
}

#[test]
fn refused_declarations() {
    let with = |clauses: &str| {
        format!("CREATE FUNCTION f(a INT) RETURNS INT LANGUAGE python {clauses} AS 'x'")
    };
    check(
        "CREATE FUNCTION f(a INT) RETURNS INT LANGUAGE sql AS $$ a + 1 $$",
        expect![[r#"functions in language "sql" are not supported. Write LANGUAGE python"#]],
    );
    check(
        "CREATE FUNCTION f(a INT) RETURNS INT AS $$x$$",
        expect![[r#"cannot create function "f": LANGUAGE is missing. Write LANGUAGE python"#]],
    );
    check(
        "CREATE FUNCTION f(a INT) RETURNS INT RETURN a + 1",
        expect![
            "syntax error at line 1, column 38: expected RETURNS, LANGUAGE, IMMUTABLE, STABLE, VOLATILE, STRICT, WITH, AS or the end of the statement, found RETURN"
        ],
    );
    check(
        "CREATE FUNCTION f(a INT) LANGUAGE python AS $$x$$",
        expect![[
            r#"cannot create function "f": RETURNS is missing. Write RETURNS type or RETURNS TABLE(column type, …)"#
        ]],
    );
    check(
        "CREATE FUNCTION f(a INT) RETURNS INT LANGUAGE python",
        expect![[r#"cannot create function "f": its body is missing. Write AS $$ … $$"#]],
    );
    check(
        "CREATE FUNCTION f(INT) RETURNS INT LANGUAGE python AS $$x$$",
        expect![
            "syntax error at line 1, column 22: expected a type after the parameter's name, found )"
        ],
    );
    check(
        "CREATE FUNCTION f(a INT, A INT) RETURNS INT LANGUAGE python AS $$x$$",
        expect![[r#"cannot create function "f": parameter "a" is declared twice"#]],
    );
    check(
        "CREATE FUNCTION f(a POINT) RETURNS INT LANGUAGE python AS $$x$$",
        expect![[
            r#"cannot create function "f": the type of parameter "a" (POINT) is not supported"#
        ]],
    );
    check(
        "CREATE FUNCTION s.f(a INT) RETURNS INT LANGUAGE python AS $$x$$",
        expect![[
            r#"cannot create function "s.f": its name must not have a schema: functions are in none"#
        ]],
    );
    check(
        "CREATE FUNCTION f(a TABLE) RETURNS INT LANGUAGE python AS $$x$$",
        expect![[
            r#"cannot create function "f": a function with a TABLE parameter must return a table, or BOOLEAN for filter. Write RETURNS TABLE(column type, …)"#
        ]],
    );
    check(
        "CREATE FUNCTION f(a INT) RETURNS TABLE(x INT) LANGUAGE python AS $$x$$",
        expect![[
            r#"cannot create function "f": a function that returns a table takes exactly one parameter, of type TABLE"#
        ]],
    );
    check(
        "CREATE FUNCTION f(a TABLE) RETURNS TABLE(x INT, x INT) LANGUAGE python AS $$x$$",
        expect![[r#"cannot create function "f": RETURNS TABLE has two columns named "x""#]],
    );
    check(
        &with("LANGUAGE python"),
        expect![[r#"cannot create function "f": LANGUAGE is given twice"#]],
    );
    check(
        &with("WITH (num_gpus = 1.5)"),
        expect![[
            r#"invalid value 1.5 for option "num_gpus" of function "f": expected a share below 1 with at most three decimals, a whole number up to 1024, or NULL"#
        ]],
    );
    check(
        &with("WITH (batchsize = 1)"),
        expect![[
            r#"unknown option "batchsize" of function "f". Options are batch_size, concurrency, batch_format, zero_copy_batch, preserve_order, schema, timeout, init_timeout, retry_exceptions, max_retries, on_error, max_errors, max_error_ratio, passthrough, row_preserving, reads, volatility, strict, snapshot_every, num_cpus, num_gpus, memory, resources, label_selector, placement, max_in_flight and rate_limit. Did you mean "batch_size"?"#
        ]],
    );
    check(
        &with("WITH (batch_size = 0)"),
        expect![[
            r#"invalid value 0 for option "batch_size" of function "f": expected a count from 1 to 1048576, or NULL"#
        ]],
    );
    check(
        &with("WITH (batch_size = 2, batch_size = 3)"),
        expect![[r#"option "batch_size" of function "f" is given twice"#]],
    );
    check(
        &with("WITH (concurrency = '1..4')"),
        expect![[r#"
            CreateFunction {
                or_replace: false,
                is_temporary: false,
                if_not_exists: false,
                spec: FunctionSpec {
                    name: "f",
                    language: Python,
                    params: [
                        Param {
                            name: "a",
                            kind: Value(
                                Int32,
                            ),
                        },
                    ],
                    returns: Scalar(
                        Int32,
                    ),
                    object: Function,
                    volatility: Volatile,
                    strict: false,
                    body: "x",
                    defaults: CallDefaults {
                        batch_size: None,
                        concurrency: Some(
                            4,
                        ),
                        batch_format: None,
                        on_error: None,
                        max_errors: None,
                        max_error_ratio: None,
                        min_workers: Some(
                            1,
                        ),
                        retry_exceptions: None,
                        max_retries: None,
                        zero_copy_batch: None,
                        preserve_order: None,
                        timeout: None,
                        init_timeout: None,
                        passthrough: [],
                        row_preserving: false,
                        reads: None,
                        demand: Demand {
                            cpus: None,
                            gpus: None,
                            memory_bytes: None,
                            custom: {},
                            labels: LabelSelector(
                                [],
                            ),
                            placement: Spread,
                        },
                        overlap: Overlap {
                            max_in_flight: None,
                            rate_limit: None,
                        },
                        snapshot_every: None,
                    },
                    actor: None,
                },
            }"#]],
    );
    check(
        &with("WITH (batch_format = 'arrow')"),
        expect![[
            r#"invalid value 'arrow' for option "batch_format" of function "f": expected 'numpy', 'pyarrow', 'pandas', 'polars' or 'rows'"#
        ]],
    );
    check(
        &with("PARALLEL SAFE"),
        expect![
            "syntax error at line 1, column 54: expected RETURNS, LANGUAGE, IMMUTABLE, STABLE, VOLATILE, STRICT, WITH, AS or the end of the statement, found PARALLEL"
        ],
    );
    check(
        "CREATE FUNCTION f(a INT) RETURNS INT LANGUAGE python AS",
        expect![
            "syntax error at line 1, column 56: expected the body as $$ … $$ or a string, found the end of the text"
        ],
    );
}

#[test]
fn what_a_table_function_promises() {
    let with = |options: &str| {
        format!(
            "CREATE FUNCTION f(t TABLE) RETURNS TABLE(k BIGINT, v BIGINT) LANGUAGE python WITH ({options}) AS 'x'"
        )
    };
    let sql = with("passthrough = 'k', row_preserving = true, reads = 'k, x'");
    let Ok(Some(MobulaStatement::CreateFunction(create))) =
        parse_statements(&sql).map(|mut s| s.pop())
    else {
        panic!("{sql}");
    };
    let promised = create.spec.defaults;
    assert_eq!(promised.passthrough, ["k"]);
    assert!(promised.row_preserving);
    assert_eq!(promised.reads, Some(vec!["k".to_owned(), "x".to_owned()]));
    for (options, expected) in [
        (
            "passthrough = 'k, w'",
            "cannot create function \"f\": passthrough names \"w\", which RETURNS TABLE has not",
        ),
        (
            "row_preserving = 1",
            "invalid value 1 for option \"row_preserving\" of function \"f\": expected true or false",
        ),
        (
            "reads = 'a,,b'",
            "invalid value 'a,,b' for option \"reads\" of function \"f\": expected names of columns, as in 'a, b'",
        ),
    ] {
        let error = parse_statements(&with(options)).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
    let scalar = "CREATE FUNCTION f(a INT) RETURNS INT LANGUAGE python WITH (reads = 'a') AS 'x'";
    let error = parse_statements(scalar).unwrap_err().to_string();
    assert!(
        error.contains("\"reads\" is for functions that return a table"),
        "{error}"
    );
}

#[test]
fn temporary_ones_are_named_so_in_either_word() {
    let rest = "FUNCTION f(x BIGINT) RETURNS BIGINT LANGUAGE python AS 'x'";
    for (head, or_replace, is_temporary) in [
        ("CREATE", false, false),
        ("create temp", false, true),
        ("CREATE TEMPORARY", false, true),
        ("CREATE OR REPLACE", true, false),
        ("CREATE OR REPLACE TEMP", true, true),
        ("CREATE OR REPLACE TEMPORARY", true, true),
    ] {
        let sql = format!("{head} {rest}");
        let statement = parse_statements(&sql).unwrap().pop();
        let Some(MobulaStatement::CreateFunction(create)) = statement else {
            panic!("{sql}: {statement:?}");
        };
        let found = (create.or_replace, create.is_temporary);
        assert_eq!(found, (or_replace, is_temporary), "{sql}");
    }
    // Other things that are temporary are not for this parser.
    let table = parse_statements("CREATE TEMP TABLE t AS SELECT 1")
        .unwrap()
        .pop();
    assert!(matches!(table, Some(MobulaStatement::DataFusion(_))));
}

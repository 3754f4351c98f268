//! Errors: the right code, one line, short enough to arrive.

use super::*;
use crate::status::TEXT_LIMIT;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_statements_are_blamed_in_one_line() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let cases = [
        ("SELEC 1", "SELEC"),
        ("SELECT 1 +", ""),
        ("SELECT no_such_column", "no_such_column"),
        ("SELECT no_such_function(1)", "no_such_function"),
        ("SELECT 'a' + DATE '2020-01-01' + ARRAY[1]", ""),
        ("SELECT 1; SELECT 2", ""),
        ("", ""),
        ("SET mobula.no_such_setting = 1", "no_such_setting"),
        ("SELECT $1", "none were bound"),
    ];
    for (sql, named) in cases {
        let refused = run(&mut client, sql).await.expect_err(sql);
        assert_eq!(
            refused.code(),
            Code::InvalidArgument,
            "{sql}: {}",
            refused.message()
        );
        assert_readable(&refused);
        assert!(
            refused.message().contains(named),
            "{sql}: {}",
            refused.message()
        );
    }
    let refused = run(&mut client, "SELECT * FROM no_such_table").await;
    let refused = refused.expect_err("no_such_table");
    assert_eq!(refused.code(), Code::NotFound);
    assert!(
        refused
            .message()
            .starts_with("table \"no_such_table\" does not exist"),
        "{}",
        refused.message()
    );
    // After all of these the session still works.
    assert_eq!(value(&mut client, "SELECT 1").await, "1");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_in_mid_stream_have_their_code_too() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let sql = "SELECT 10 / (value - 90000) FROM generate_series(1, 100000)";
    let refused = run(&mut client, sql).await.unwrap_err();
    assert_code(&refused, Code::InvalidArgument);
    assert_readable(&refused);
    assert!(
        refused.message().to_lowercase().contains("divi"),
        "{}",
        refused.message()
    );
    server.stop().await;
}

/// The text that lists all valid fields must not burst the client's headers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_texts_are_cut_to_what_arrives() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let columns: Vec<String> = (0..900)
        .map(|n| format!("{n} AS a_rather_long_column_name_{n}"))
        .collect();
    let sql = format!("SELECT missing FROM (SELECT {}) t", columns.join(", "));
    let refused = run(&mut client, &sql).await.unwrap_err();
    assert_code(&refused, Code::InvalidArgument);
    assert_readable(&refused);
    assert!(refused.message().contains("missing"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_statements_are_refused() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let sql = format!("SELECT '{}'", "x".repeat(settings().sql_max_bytes));
    let refused = run(&mut client, &sql).await.unwrap_err();
    assert_code(&refused, Code::InvalidArgument);
    assert!(refused.message().contains("mobula.sql_max_bytes"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_missing_says_so() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let transaction = client.begin_transaction().await.unwrap_err();
    assert_code(&status_of(transaction), Code::Unimplemented);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_is_malformed_and_harms_nobody() {
    let server = TestServer::start().await;
    let mut raw = server.raw().await;
    let garbage = vec![0xff_u8; 40];
    let info = raw
        .get_flight_info(FlightDescriptor::new_cmd(garbage.clone()))
        .await;
    assert_code(&info.unwrap_err(), Code::InvalidArgument);
    let path = raw
        .get_flight_info(FlightDescriptor::new_path(vec!["a".to_owned()]))
        .await;
    assert!(path.is_err());
    let ticket = raw.do_get(Ticket::new(garbage)).await;
    assert_code(&ticket.unwrap_err(), Code::InvalidArgument);
    let mut client = server.client().await;
    assert_eq!(value(&mut client, "SELECT 1").await, "1");
    server.stop().await;
}

fn assert_readable(status: &Status) {
    let text = status.message();
    assert!(!text.is_empty() && text.len() <= TEXT_LIMIT, "{text}");
    assert!(!text.contains('\n'), "{text}");
    for noise in [
        "External error",
        "DataFusionError",
        "backtrace",
        "Diagnostic",
        "SchemaError(",
    ] {
        assert!(!text.contains(noise), "{text}");
    }
}

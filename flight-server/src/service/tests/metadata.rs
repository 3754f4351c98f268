//! Catalogs, schemas, tables, keys, types.

use arrow::array::AsArray;
use arrow::datatypes::DataType;
use arrow_flight::IpcMessage;
use arrow_flight::sql::{
    CommandGetCrossReference, CommandGetDbSchemas, CommandGetExportedKeys, CommandGetImportedKeys,
    CommandGetPrimaryKeys, CommandGetTables, CommandGetXdbcTypeInfo,
};

use super::*;

async fn texts(client: &mut Client, info: FlightInfo, column: &str) -> Vec<String> {
    let blocks = read(client, &info).await.unwrap();
    let mut found = Vec::new();
    for block in &blocks {
        assert_eq!(block.schema(), announced(&info));
        let column = block.column_by_name(column).unwrap().as_string::<i32>();
        found.extend(column.iter().flatten().map(str::to_owned));
    }
    found
}

fn asked(table: Option<&str>, types: &[&str]) -> CommandGetTables {
    CommandGetTables {
        catalog: None,
        db_schema_filter_pattern: None,
        table_name_filter_pattern: table.map(str::to_owned),
        table_types: types.iter().map(ToString::to_string).collect(),
        include_schema: false,
    }
}

async fn tables(client: &mut Client, asked: CommandGetTables) -> Vec<String> {
    let info = client.get_tables(asked).await.unwrap();
    texts(client, info, "table_name").await
}

async fn server_with_tables() -> (TestServer, Client) {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    for sql in [
        "CREATE TABLE line_one AS SELECT 1 AS n, arrow_cast('t', 'Utf8View') AS t",
        "CREATE TABLE linetwo AS SELECT 1 AS n",
        "CREATE VIEW peak AS SELECT 1 AS n",
    ] {
        run(&mut client, sql).await.unwrap();
    }
    (server, client)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn catalogs_and_schemas_are_listed_without_a_filter() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let info = client.get_catalogs().await.unwrap();
    let catalogs = texts(&mut client, info, "catalog_name").await;
    let current = value(
        &mut client,
        "SELECT value FROM information_schema.df_settings WHERE name = 'datafusion.catalog.default_catalog'",
    )
    .await;
    assert!(catalogs.contains(&current), "{catalogs:?}");
    let info = client
        .get_db_schemas(CommandGetDbSchemas::default())
        .await
        .unwrap();
    let schemas = texts(&mut client, info, "db_schema_name").await;
    assert!(schemas.contains(&"public".to_owned()), "{schemas:?}");
    let elsewhere = CommandGetDbSchemas {
        catalog: Some("nowhere".to_owned()),
        db_schema_filter_pattern: None,
    };
    let info = client.get_db_schemas(elsewhere).await.unwrap();
    assert!(texts(&mut client, info, "db_schema_name").await.is_empty());
    let patterned = CommandGetDbSchemas {
        catalog: Some(current),
        db_schema_filter_pattern: Some("pub%".to_owned()),
    };
    let info = client.get_db_schemas(patterned).await.unwrap();
    assert_eq!(texts(&mut client, info, "db_schema_name").await, ["public"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_are_found_by_pattern() {
    let (server, mut client) = server_with_tables().await;
    let all = tables(&mut client, asked(None, &[])).await;
    for name in ["line_one", "linetwo", "peak"] {
        assert!(all.iter().any(|found| found == name), "{all:?}");
    }
    assert_eq!(
        tables(&mut client, asked(Some("line%"), &[])).await,
        ["line_one", "linetwo"]
    );
    assert_eq!(
        tables(&mut client, asked(Some("line_two"), &[])).await,
        Vec::<String>::new()
    );
    assert_eq!(
        tables(&mut client, asked(Some("line\\_one"), &[])).await,
        ["line_one"]
    );
    assert_eq!(
        tables(&mut client, asked(Some("line__ne"), &[])).await,
        ["line_one"]
    );
    let whole = Some("SELECT * FROM line_one");
    assert!(tables(&mut client, asked(whole, &[])).await.is_empty());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn table_types_know_no_case_and_their_alias() {
    let (server, mut client) = server_with_tables().await;
    let grafana = asked(Some("%"), &["BASE TABLE", "table"]);
    let info = client.get_tables(grafana.clone()).await.unwrap();
    assert!(
        texts(&mut client, info, "table_type")
            .await
            .iter()
            .all(|shown| shown == "BASE TABLE")
    );
    assert!(
        tables(&mut client, grafana)
            .await
            .contains(&"linetwo".to_owned())
    );
    let views = tables(&mut client, asked(Some("%"), &["view"])).await;
    assert!(views.contains(&"peak".to_owned()) && !views.contains(&"linetwo".to_owned()));
    let info = client.get_table_types().await.unwrap();
    let types = texts(&mut client, info, "table_type").await;
    assert_eq!(types, ["LOCAL TEMPORARY", "TABLE", "VIEW"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn table_schemas_are_those_of_a_scan() {
    let (server, mut client) = server_with_tables().await;
    let mut wanted = asked(Some("line_one"), &[]);
    let info = client.get_tables(wanted.clone()).await.unwrap();
    assert_eq!(announced(&info).fields().len(), 4);
    wanted.include_schema = true;
    let info = client.get_tables(wanted).await.unwrap();
    assert_eq!(announced(&info).fields().len(), 5);
    let blocks = read(&mut client, &info).await.unwrap();
    let bytes = blocks[0].column(4).as_binary::<i32>().value(0);
    let listed = Schema::try_from(IpcMessage(bytes.to_vec().into())).unwrap();
    let scan = client
        .execute("SELECT * FROM line_one".to_owned(), None)
        .await
        .unwrap();
    assert_eq!(&listed, announced(&scan).as_ref());
    assert_eq!(listed.field(1).data_type(), &DataType::Utf8);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn key_commands_are_empty_with_their_columns() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let table = || "t".to_owned();
    let primary = client
        .get_primary_keys(CommandGetPrimaryKeys {
            table: table(),
            ..Default::default()
        })
        .await
        .unwrap();
    let exported = client
        .get_exported_keys(CommandGetExportedKeys {
            table: table(),
            ..Default::default()
        })
        .await
        .unwrap();
    let imported = client
        .get_imported_keys(CommandGetImportedKeys {
            table: table(),
            ..Default::default()
        })
        .await
        .unwrap();
    let crossed = client
        .get_cross_reference(CommandGetCrossReference {
            pk_table: table(),
            fk_table: table(),
            ..Default::default()
        })
        .await
        .unwrap();
    let columns = "catalog_name db_schema_name table_name column_name key_sequence key_name";
    assert_eq!(names(&announced(&primary)).join(" "), columns);
    for info in [&exported, &imported, &crossed] {
        let schema = announced(info);
        assert_eq!(schema.fields().len(), 13);
        assert_eq!(schema.field(11).data_type(), &DataType::UInt8);
        assert!(!schema.field(2).is_nullable() && schema.field(9).is_nullable());
    }
    for info in [primary, exported, imported, crossed] {
        let blocks = read(&mut client, &info).await.unwrap();
        assert_eq!(blocks.iter().map(RecordBatch::num_rows).sum::<usize>(), 0);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn types_can_be_asked_for_one_by_one() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let info = client
        .get_xdbc_type_info(CommandGetXdbcTypeInfo { data_type: None })
        .await
        .unwrap();
    let all = texts(&mut client, info, "type_name").await;
    for name in [
        "BIGINT",
        "VARCHAR",
        "DECIMAL",
        "TIMESTAMP",
        "DATE",
        "BOOLEAN",
    ] {
        assert!(all.iter().any(|found| found == name), "{all:?}");
    }
    let dates = CommandGetXdbcTypeInfo {
        data_type: Some(91),
    };
    let info = client.get_xdbc_type_info(dates).await.unwrap();
    assert_eq!(texts(&mut client, info, "type_name").await, ["DATE"]);
    server.stop().await;
}

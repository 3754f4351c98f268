//! SqlInfo: every code, in the leg that drivers cast it from.

use std::collections::BTreeMap;

use arrow::array::AsArray;
use arrow::datatypes::UInt32Type;
use arrow_flight::sql::SqlInfo;

use super::*;

const TEXT: i8 = 0;
const FLAG: i8 = 1;
const NUMBER: i8 = 2;
const BITS: i8 = 3;
const LIST: i8 = 4;
const MAP: i8 = 5;

/// The leg of each code, as ADBC and JDBC read it.
fn leg_of(code: u32) -> i8 {
    match code {
        0..=2 | 6 | 7 | 504 | 513 | 514 | 529..=531 => TEXT,
        8
        | 100
        | 101
        | 503
        | 505
        | 507
        | 522
        | 525
        | 526
        | 528
        | 533..=535
        | 538
        | 540
        | 564
        | 567..=571 => BITS,
        541..=555 | 557..=562 => NUMBER,
        508..=512 => LIST,
        517 => MAP,
        _ => FLAG,
    }
}

async fn legs(client: &mut Client, codes: Vec<SqlInfo>) -> BTreeMap<u32, i8> {
    let info = client.get_sql_info(codes).await.unwrap();
    let mut found = BTreeMap::new();
    for block in read(client, &info).await.unwrap() {
        assert_eq!(block.schema(), announced(&info));
        let codes = block.column(0).as_primitive::<UInt32Type>();
        let values = block.column(1).as_union();
        found.extend(
            codes
                .values()
                .iter()
                .enumerate()
                .map(|(row, code)| (*code, values.type_id(row))),
        );
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_request_means_all_and_every_leg_is_right() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let found = legs(&mut client, vec![]).await;
    let expected: Vec<u32> = (0..=11).chain(100..=101).chain(500..=576).collect();
    assert_eq!(found.keys().copied().collect::<Vec<_>>(), expected);
    for (code, leg) in found {
        assert_eq!(leg, leg_of(code), "code {code}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn single_codes_can_be_asked_for() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let asked = vec![SqlInfo::FlightSqlServerTransaction];
    assert_eq!(legs(&mut client, asked).await, BTreeMap::from([(8, BITS)]));
    let asked = vec![SqlInfo::FlightSqlServerName, SqlInfo::SqlKeywords];
    assert_eq!(
        legs(&mut client, asked).await,
        BTreeMap::from([(0, TEXT), (508, LIST)])
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn functions_are_listed_by_kind() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let info = client
        .get_sql_info(vec![SqlInfo::SqlNumericFunctions])
        .await
        .unwrap();
    let blocks = read(&mut client, &info).await.unwrap();
    let value = blocks[0].column(1).as_union().value(0);
    let list = value.as_list::<i32>().value(0);
    let functions: Vec<_> = list.as_string::<i32>().iter().flatten().collect();
    assert!(functions.contains(&"sqrt"), "{functions:?}");
    assert!(!functions.contains(&"upper"));
    server.stop().await;
}

//! Who is who: tokens, connections, options, limits, ends.

use std::collections::HashMap;
use std::time::Instant;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::*;
use crate::service::session_options::{
    CLOSED, CloseSessionResult, GetSessionOptionsResult, INVALID_NAME, INVALID_VALUE, OptionValue,
    SessionOptionValue, SetSessionOptionsRequest, SetSessionOptionsResult,
};

const BATCH_SIZE: &str = "SELECT value FROM information_schema.df_settings WHERE name = 'datafusion.execution.batch_size'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_stay_within_a_connection() {
    let server = TestServer::start().await;
    let (mut one, mut two) = (server.client().await, server.client().await);
    let before = value(&mut two, BATCH_SIZE).await;
    run(&mut one, "SET datafusion.execution.batch_size = 77")
        .await
        .unwrap();
    assert_eq!(value(&mut one, BATCH_SIZE).await, "77");
    assert_eq!(value(&mut two, BATCH_SIZE).await, before);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_carries_its_session_over_connections() {
    let server = TestServer::start().await;
    let mut one = server.client().await;
    let payload = one.handshake("anyone", "anything").await.unwrap();
    let token = one.token().expect("a token in the header").clone();
    assert_eq!(payload, token.as_bytes());
    run(&mut one, "SET datafusion.execution.batch_size = 78")
        .await
        .unwrap();
    let mut two = server.client().await;
    two.set_token(token);
    assert_eq!(value(&mut two, BATCH_SIZE).await, "78");
    drop(one);
    assert_eq!(value(&mut two, BATCH_SIZE).await, "78");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_token_is_no_session() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    client.set_token("made-up".to_owned());
    let refused = run(&mut client, "SELECT 1").await.unwrap_err();
    assert_code(&refused, Code::Unauthenticated);
    assert_eq!(server.sessions.count(), 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_ends_with_its_connection() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    client.execute("SELECT 1".to_owned(), None).await.unwrap();
    assert_eq!((server.sessions.count(), server.tickets.count()), (1, 1));
    drop(client);
    eventually("the session's end", || {
        (server.sessions.count(), server.tickets.count()) == (0, 0)
    })
    .await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_are_limited() {
    let server = TestServer::start_with(ServiceSettings {
        max_sessions: 2,
        ..settings()
    })
    .await;
    let (mut one, mut two, mut three) = (
        server.client().await,
        server.client().await,
        server.client().await,
    );
    run(&mut one, "SELECT 1").await.unwrap();
    run(&mut two, "SELECT 1").await.unwrap();
    let refused = run(&mut three, "SELECT 1").await.unwrap_err();
    assert_code(&refused, Code::ResourceExhausted);
    assert!(refused.message().contains("mobula.max_sessions"));
    drop(one);
    eventually("a free place", || server.sessions.count() == 1).await;
    run(&mut three, "SELECT 1").await.unwrap();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_limited() {
    let server = TestServer::start_with(ServiceSettings {
        max_sessions: 1,
        ..settings()
    })
    .await;
    let held = (server.channel().await, server.channel().await);
    let address = server.url.trim_start_matches("grpc://");
    let mut third = TcpStream::connect(address).await.unwrap();
    let closed = tokio::time::timeout(SOON, third.read(&mut [0; 1]))
        .await
        .unwrap();
    assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
    drop(held);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_sessions_end_and_used_ones_stay() {
    let server = TestServer::start().await;
    let (mut idle, mut busy) = (server.client().await, server.client().await);
    idle.handshake("a", "b").await.unwrap();
    busy.handshake("a", "b").await.unwrap();
    let info = busy
        .execute(super::cancel::ENDLESS.to_owned(), None)
        .await
        .unwrap();
    let stream = busy.do_get(ticket(&info)).await.unwrap();
    // A session on which a query runs is not idle, however long it takes.
    server
        .sessions
        .sweep(Instant::now() + 2 * settings().session_ttl);
    assert_eq!(server.sessions.count(), 1);
    let refused = run(&mut idle, "SELECT 1").await.unwrap_err();
    assert_code(&refused, Code::Unauthenticated);
    drop(stream);
    eventually("the query's end", || server.tickets.count() == 0).await;
    assert_eq!(value(&mut busy, "SELECT 3").await, "3");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_a_session_forgets_it() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    client.handshake("a", "b").await.unwrap();
    let info = client.execute("SELECT 1".to_owned(), None).await.unwrap();
    let answers = act(&mut client, "CloseSession", vec![]).await.unwrap();
    let answer = CloseSessionResult::decode(answers[0].body.clone()).unwrap();
    assert_eq!(answer.status, CLOSED);
    assert_eq!((server.sessions.count(), server.tickets.count()), (0, 0));
    let gone = read(&mut client, &info).await.unwrap_err();
    assert_code(&gone, Code::NotFound);
    let again = act(&mut client, "CloseSession", vec![]).await.unwrap_err();
    assert_code(&again, Code::Unauthenticated);
    server.stop().await;
}

fn text(value: &str) -> SessionOptionValue {
    SessionOptionValue {
        option_value: Some(OptionValue::Text(value.to_owned())),
    }
}

async fn options(client: &mut Client) -> HashMap<String, SessionOptionValue> {
    let answers = act(client, "GetSessionOptions", vec![]).await.unwrap();
    GetSessionOptionsResult::decode(answers[0].body.clone())
        .unwrap()
        .session_options
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn options_are_set_one_by_one() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let asked = SetSessionOptionsRequest {
        session_options: HashMap::from([
            ("schema".to_owned(), text("public")),
            ("datafusion.execution.batch_size".to_owned(), text("79")),
            ("no_such_option".to_owned(), text("1")),
            ("catalog".to_owned(), text("nowhere")),
            ("mobula.nothing".to_owned(), SessionOptionValue::default()),
        ]),
    };
    let answers = act(&mut client, "SetSessionOptions", asked.encode_to_vec())
        .await
        .unwrap();
    let answer = SetSessionOptionsResult::decode(answers[0].body.clone()).unwrap();
    let mut errors: Vec<_> = answer
        .errors
        .iter()
        .map(|(name, error)| (name.as_str(), error.value))
        .collect();
    errors.sort_unstable();
    assert_eq!(
        errors,
        [
            ("catalog", INVALID_VALUE),
            ("mobula.nothing", INVALID_VALUE),
            ("no_such_option", INVALID_NAME)
        ]
    );
    assert_eq!(value(&mut client, BATCH_SIZE).await, "79");
    assert_eq!(
        options(&mut client).await.get("schema"),
        Some(&text("public"))
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn asking_for_options_opens_no_session() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    assert!(options(&mut client).await.is_empty());
    assert_eq!(server.sessions.count(), 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_listed_action_is_known() {
    let server = TestServer::start().await;
    let mut raw = server.raw().await;
    let listed = raw
        .list_actions(arrow_flight::Empty {})
        .await
        .unwrap()
        .into_inner();
    let listed: Vec<_> = listed.try_collect().await.unwrap();
    assert_eq!(listed.len(), crate::service::actions::ACTIONS.len());
    let mut client = server.client().await;
    for action in listed {
        if let Err(refused) = act(&mut client, &action.r#type, vec![]).await {
            assert_code(&refused, Code::InvalidArgument);
        }
    }
    let unknown = act(&mut client, "MakeTea", vec![]).await.unwrap_err();
    assert_code(&unknown, Code::Unimplemented);
    assert!(unknown.message().contains("MakeTea"));
    server.stop().await;
}

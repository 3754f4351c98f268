//! Mobula inside a program of one's own, with functions in Rust: `lib.rs`.
//!
//!     cargo run --release --bin embed
//!
//! `docs/guide/native.md` tells about it; its code stands here, and the tests below
//! hold it to that.

use std::error::Error;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::util::pretty::pretty_format_batches;
use datafusion::common::Result as DataFusionResult;
use datafusion::dataframe::DataFrame;
use datafusion::prelude::{SessionContext, col, lit};
use futures::TryStreamExt;
use mobula_embed_example::functions;
use mobula_execution::{Engine, EngineSettings};
use mobula_plan::{Call, MobulaDataFrame, MobulaOptions};
use mobula_udfs::Literal;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    println!("{}", answers().await?);
    Ok(())
}

/// Everything this program shows, as text.
async fn answers() -> Result<String, Box<dyn Error>> {
    let engine = engine()?;
    let context = session(&engine)?;

    // A native function in SQL, as any other function.
    let sql = "SELECT x, length_of(x, x + 1) AS length
               FROM (VALUES (0.0), (3.0), (NULL)) AS t(x) ORDER BY length";
    let lengths = rows(&engine, context.sql(sql).await?).await?;

    // The operators of SQL, as methods of a DataFrame.
    let lines = context.sql("SELECT 'the quick brown fox' AS line").await?;
    let words = lines
        .map_batches("words")?
        .filter(col("letters").gt(lit(3)))?;
    let words = rows(&engine, words).await?;

    // An actor with a constructor argument, over rows in an order.
    let series = context.sql("SELECT CAST(value AS DOUBLE) AS x FROM generate_series(1, 4)");
    let series = series.await?.sort(vec![col("x").sort(true, false)])?;
    let smoothed = Call::of("smoothed").arg("weight", Literal::Float(0.5));
    let smoothed = rows(&engine, series.map_batches(smoothed)?).await?;

    let texts = [&lengths, &words, &smoothed].map(|rows| pretty_format_batches(rows));
    let texts = texts.into_iter().map(|text| Ok(text?.to_string()));
    Ok(texts
        .collect::<Result<Vec<_>, Box<dyn Error>>>()?
        .join("\n"))
}

/// An engine of this process alone: no socket, no other process.
fn engine() -> Result<Arc<Engine>, Box<dyn Error>> {
    let settings = EngineSettings {
        options: MobulaOptions::default(),
        // Started only if SQL calls a Python function.
        python: "python3".into(),
    };
    Ok(Engine::embedded_with(settings, functions()?)?)
}

/// DataFusion's context over a session of `engine`.
fn session(engine: &Arc<Engine>) -> DataFusionResult<SessionContext> {
    let options = engine.options().clone();
    let state = engine.session_state(
        "example",
        engine.new_catalogs()?,
        engine.functions(),
        options,
    );
    Ok(SessionContext::new_with_state(state))
}

/// The rows of `frame`. Run by the engine, which knows whether there are executors.
async fn rows(engine: &Engine, frame: DataFrame) -> DataFusionResult<Vec<RecordBatch>> {
    let (state, plan) = frame.into_parts();
    engine.run(&state, plan).await?.stream.try_collect().await
}

#[cfg(test)]
mod tests {
    use mobula_plan::{MobulaStatement, parse_statements};

    use super::*;

    const PAGE: &str = include_str!("../../../docs/guide/native.md");

    const SERVER: &str = include_str!("bin/mobula-with-functions.rs");

    /// What stands between "```LANGUAGE" and "```".
    fn blocks(language: &str) -> Vec<&'static str> {
        let fence = format!("```{language}\n");
        let blocks = PAGE.split(&fence).skip(1);
        let blocks: Vec<_> = blocks.filter_map(|rest| rest.split("```").next()).collect();
        assert!(!blocks.is_empty(), "the page has no {language}");
        blocks
    }

    #[tokio::test]
    async fn it_prints_what_the_page_says() {
        let found = answers().await.unwrap();
        assert_eq!(found, blocks("text")[0].trim_end());
    }

    #[test]
    fn the_code_of_the_page_is_this_code() {
        let code = [include_str!("main.rs"), include_str!("lib.rs"), SERVER].concat();
        let flat = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        for block in blocks("rust") {
            let block = flat(block);
            assert!(flat(&code).contains(&block), "{block}");
        }
    }

    #[tokio::test]
    async fn the_sql_of_the_page_runs() {
        let engine = engine().unwrap();
        let state = session(&engine).unwrap().state();
        for block in blocks("sql") {
            for statement in parse_statements(block).unwrap() {
                let MobulaStatement::DataFusion(statement) = statement else {
                    panic!("{block}");
                };
                let plan = state.statement_to_plan(*statement).await.unwrap();
                let run = engine.run(&state, plan).await.unwrap();
                let _: Vec<RecordBatch> = run.stream.try_collect().await.unwrap();
            }
        }
    }
}

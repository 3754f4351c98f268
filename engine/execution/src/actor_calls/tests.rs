//! The wire form: what is written is read, and what was not written is refused.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, RecordBatchOptions, StringArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema};
use arrow_flight::{FlightData, FlightDescriptor};
use mobula_udfs::{
    BatchFormat, CallDefaults, CallMode, ErrorPolicy, FailedRow, FunctionSpec, Handling, Language,
    MethodOf, ObjectKind, Priority, Returns, RowFailure, UdfCall, UdfError, UdfErrorClass,
    Volatility,
};

use super::CREDITS;
use super::pool::Way;
use super::wire::*;

fn block(rows: i64) -> RecordBatch {
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter(
        (0..rows).map(|n| (n % 3 > 0).then_some(n)),
    ));
    let texts = (0..rows).map(|n| (n % 5 > 0).then(|| "x".repeat(n as usize % 50)));
    let texts: ArrayRef = Arc::new(StringArray::from_iter(texts));
    RecordBatch::try_from_iter_with_nullable([("n", numbers, true), ("t", texts, true)]).unwrap()
}

fn call(actor: Option<MethodOf>) -> UdfCall {
    let spec = FunctionSpec {
        name: "a.add".into(),
        language: Language::Python,
        params: vec![],
        returns: Returns::Scalar(DataType::Int64),
        object: ObjectKind::Class,
        volatility: Volatility::Volatile,
        strict: false,
        body: String::new(),
        defaults: CallDefaults::default(),
        actor,
    };
    UdfCall {
        spec: Arc::new(spec),
        mode: CallMode::Map,
        args: vec![],
        batch_size: None,
        batch_format: BatchFormat::Numpy,
        errors: ErrorPolicy::default(),
        handling: Handling::default(),
        input: block(0).schema(),
        output: Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, true)])),
        timeout: Some(Duration::from_millis(1500)),
        max_errors: Some(7),
        steps: vec![],
        query: "q".into(),
        priority: Priority {
            is_interactive: true,
            is_said: true,
        },
    }
}

fn method() -> Option<MethodOf> {
    Some(MethodOf {
        actor: "a".into(),
        method: "add".into(),
        by_row: true,
        problem: None,
    })
}

#[test]
fn blocks_round_trip_in_one_message_or_many() {
    for (rows, message_bytes, more_than) in [(1, 1 << 20, 0), (1000, 1 << 20, 0), (1000, 2000, 10)]
    {
        let block = block(rows);
        let writer = BlockWriter::new(&block.schema(), message_bytes);
        let reader = BlockReader::new(&block.schema());
        reader.check_opening(&writer.opening()).unwrap();
        // A slice, whose buffers start elsewhere.
        for block in [block.clone(), block.slice(rows as usize / 2, 1)] {
            let pieces = writer.write(&block).unwrap();
            assert!(block.num_rows() == 1 || pieces.len() > more_than);
            let read = pieces.iter().map(|piece| {
                assert!(piece.data.data_body.len() < 4 * message_bytes);
                assert_eq!(rows_of(&piece.data), Ok(piece.rows as u64));
                reader.read(&piece.data, piece.rows as u64).unwrap()
            });
            let read = read.collect::<Vec<_>>();
            assert_eq!(concat_batches(&block.schema(), &read).unwrap(), block);
        }
    }
}

#[test]
fn a_block_without_columns_keeps_its_rows() {
    let schema = Arc::new(Schema::empty());
    let options = RecordBatchOptions::new().with_row_count(Some(7));
    let block = RecordBatch::try_new_with_options(Arc::clone(&schema), vec![], &options).unwrap();
    let pieces = BlockWriter::new(&schema, 1 << 20).write(&block).unwrap();
    let read = BlockReader::new(&schema).read(&pieces[0].data, 7).unwrap();
    assert_eq!(read.num_rows(), 7);
}

#[test]
fn a_row_that_no_message_holds_names_the_setting() {
    let text: ArrayRef = Arc::new(StringArray::from(vec!["a".to_owned(), "x".repeat(50_000)]));
    let block = RecordBatch::try_from_iter([("t", text)]).unwrap();
    let unsendable = BlockWriter::new(&block.schema(), 10_000)
        .write(&block)
        .unwrap_err();
    let error = unsendable.of("a.add", "http://h:1/");
    assert_eq!(error.class(), UdfErrorClass::Setup);
    let text = error.to_string();
    assert!(
        text.contains("\"a.add\"") && text.contains("`exchange_message_bytes`"),
        "{text}"
    );
}

#[test]
fn garbage_is_refused_and_says_why() {
    let block = block(100);
    let writer = BlockWriter::new(&block.schema(), 1 << 20);
    let reader = BlockReader::new(&block.schema());
    let whole = writer.write(&block).unwrap().remove(0).data;
    assert!(
        reader
            .read(&whole, 99)
            .unwrap_err()
            .contains("100 rows instead of 99")
    );
    for length in [0, 1, 64, whole.data_body.len() - 64] {
        let mut cut = whole.clone();
        cut.data_body = cut.data_body.slice(..length);
        assert!(reader.read(&cut, 100).is_err(), "{length}");
    }
    for length in [0, 3, 8, 20, whole.data_header.len() - 1] {
        let mut cut = whole.clone();
        cut.data_header = cut.data_header.slice(..length);
        assert!(
            reader.read(&cut, 100).is_err() && rows_of(&cut).is_err(),
            "{length}"
        );
    }
    // A schema is no block, nor a block a schema; other columns are not ours.
    assert!(reader.read(&writer.opening(), 0).is_err());
    assert!(reader.check_opening(&whole).is_err());
    let other = BlockWriter::new(&call(None).output, 1 << 20);
    assert!(reader.check_opening(&other.opening()).is_err());
    let row = block.slice(0, 1).project(&[0]).unwrap();
    let narrow = other.write(&row).unwrap().remove(0).data;
    assert!(reader.read(&narrow, 1).is_err());
}

#[test]
fn bytes_that_lie_about_their_texts_are_refused() {
    let block = block(100);
    let reader = BlockReader::new(&block.schema());
    let writer = BlockWriter::new(&block.schema(), 1 << 20);
    let whole = writer.write(&block).unwrap().remove(0).data;
    let mut refused = 0;
    for at in (0..whole.data_body.len()).step_by(7) {
        let mut body = whole.data_body.to_vec();
        body[at] ^= 0xFF;
        let mut bent = whole.clone();
        bent.data_body = body.into();
        // Other numbers are as good as any; offsets and texts are not.
        refused += usize::from(reader.read(&bent, 100).is_err());
    }
    assert!(refused > 10, "{refused}");
}

#[test]
fn an_opening_carries_the_call_and_what_the_session_says() {
    let sent = call(method());
    let writer = BlockWriter::new(&sent.input, 1 << 20);
    let named = Way {
        pool: None,
        member: String::new(),
        credits: CREDITS,
        lane: None,
    };
    let (call_of, way, _) = opened(&opening(&sent, &writer, &named).unwrap()).unwrap();
    assert_eq!((call_of, way.pool, way.credits), (sent, None, CREDITS));
    let no_method = opening(&call(None), &writer, &named).unwrap();
    assert!(
        opened(&no_method)
            .unwrap_err()
            .contains("no method of an actor")
    );
    assert!(
        opened(&writer.opening())
            .unwrap_err()
            .contains("no command")
    );
    for command in [&b"\x08"[..], b"garbage", b""] {
        let descriptor = FlightDescriptor::new_cmd(command.to_vec());
        let message = FlightData::new().with_descriptor(descriptor);
        let problem = opened(&message).unwrap_err();
        assert!(problem.contains("it names no call"), "{problem}");
    }
}

#[test]
fn failed_rows_round_trip_and_must_be_of_the_block() {
    let reason = RowFailure {
        error_type: "ValueError".into(),
        message: "no".into(),
        traceback: "Traceback".into(),
    };
    for reason in [None, Some(reason)] {
        let row = FailedRow { row: 4, reason };
        let sent = failed_to_wire(row.clone());
        assert_eq!(failed_from_wire(sent.clone(), 5), Ok(row));
        assert!(
            failed_from_wire(sent, 4)
                .unwrap_err()
                .contains("row 4 of 4")
        );
    }
}

#[test]
fn what_another_process_says_keeps_class_place_and_traceback() {
    let error = UdfError::Remote(Box::new(mobula_udfs::RemoteFailure {
        class: UdfErrorClass::User,
        message: "function \"a.add\" failed: ValueError: no".into(),
        place: "http://h:1/".into(),
        traceback: Some("Traceback".into()),
    }));
    let wrapped = datafusion::common::DataFusionError::External(Box::new(error));
    let status = crate::wire_error::to_status(&wrapped, "http://e:2/");
    let found = crate::classify(&crate::wire_error::from_status(&status, "http://e:2/"));
    assert_eq!(found.class, crate::ErrorClass::User);
    assert_eq!(found.message, "function \"a.add\" failed: ValueError: no");
    assert_eq!(found.executor.as_deref(), Some("http://h:1/"));
    assert_eq!(found.detail.as_deref(), Some("Traceback"));
}

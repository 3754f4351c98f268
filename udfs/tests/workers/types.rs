//! Every Arrow type there and back, through both batch formats.

use std::sync::Arc;

use arrow::array::*;
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::*;
use arrow::temporal_conversions::MILLISECONDS_IN_DAY;
use mobula_udfs::BatchFormat;

use crate::bench::*;

/// Three rows of each type, the middle one NULL.
pub fn columns() -> Vec<ArrayRef> {
    let mut all = numbers();
    all.extend(texts());
    all.extend(times());
    all.extend(nested());
    all
}

fn numbers() -> Vec<ArrayRef> {
    vec![
        Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)])),
        Arc::new(Int8Array::from(vec![Some(i8::MIN), None, Some(i8::MAX)])),
        Arc::new(Int16Array::from(vec![Some(i16::MIN), None, Some(i16::MAX)])),
        Arc::new(Int32Array::from(vec![Some(i32::MIN), None, Some(i32::MAX)])),
        Arc::new(Int64Array::from(vec![Some(i64::MIN), None, Some(i64::MAX)])),
        Arc::new(UInt8Array::from(vec![Some(0), None, Some(u8::MAX)])),
        Arc::new(UInt16Array::from(vec![Some(0), None, Some(u16::MAX)])),
        Arc::new(UInt32Array::from(vec![Some(0), None, Some(u32::MAX)])),
        Arc::new(UInt64Array::from(vec![Some(0), None, Some(u64::MAX)])),
        arrow::compute::cast(
            &Float32Array::from(vec![Some(1.5), None, Some(65_504.0)]),
            &DataType::Float16,
        )
        .unwrap(),
        Arc::new(Float32Array::from(vec![Some(1.5), None, Some(f32::MAX)])),
        Arc::new(Float64Array::from(vec![
            Some(-0.0),
            None,
            Some(f64::MIN_POSITIVE),
        ])),
        Arc::new(
            Decimal128Array::from(vec![Some(-12345), None, Some(99_999_999_999)])
                .with_precision_and_scale(15, 2)
                .unwrap(),
        ),
        Arc::new(
            Decimal256Array::from(vec![
                Some(i256::from(7)),
                None,
                Some(i256::from_i128(i128::MAX)),
            ])
            .with_precision_and_scale(60, 10)
            .unwrap(),
        ),
    ]
}

fn texts() -> Vec<ArrayRef> {
    let text = vec![Some(""), None, Some("naïve 🐟 text beyond twelve bytes")];
    let bytes: Vec<Option<&[u8]>> = vec![Some(b""), None, Some(b"\x00\xff raw")];
    let fixed = vec![Some(b"abc".as_slice()), None, Some(b"\x00\x01\x02")];
    let dictionary: DictionaryArray<Int32Type> = text.iter().copied().collect();
    vec![
        Arc::new(StringArray::from(text.clone())),
        Arc::new(LargeStringArray::from(text.clone())),
        Arc::new(StringViewArray::from(text)),
        Arc::new(BinaryArray::from(bytes.clone())),
        Arc::new(LargeBinaryArray::from(bytes.clone())),
        Arc::new(BinaryViewArray::from(bytes)),
        Arc::new(
            FixedSizeBinaryArray::try_from_sparse_iter_with_size(fixed.into_iter(), 3).unwrap(),
        ),
        Arc::new(dictionary),
    ]
}

fn times() -> Vec<ArrayRef> {
    let at = vec![Some(-1_000_000_007), None, Some(1_700_000_000_123_456)];
    vec![
        Arc::new(Date32Array::from(vec![Some(-1), None, Some(20_000)])),
        Arc::new(Date64Array::from(vec![
            Some(0),
            None,
            Some(MILLISECONDS_IN_DAY * 9),
        ])),
        Arc::new(TimestampSecondArray::from(vec![
            Some(-5),
            None,
            Some(1_700_000_000),
        ])),
        Arc::new(TimestampMillisecondArray::from(vec![
            Some(-5),
            None,
            Some(1_700_000_000_123),
        ])),
        Arc::new(TimestampMicrosecondArray::from(at.clone())),
        Arc::new(TimestampMicrosecondArray::from(at.clone()).with_timezone("UTC")),
        Arc::new(TimestampNanosecondArray::from(at.clone()).with_timezone("Europe/Rome")),
        Arc::new(TimestampNanosecondArray::from(at)),
        Arc::new(Time32SecondArray::from(vec![Some(0), None, Some(86_399)])),
        Arc::new(Time64MicrosecondArray::from(vec![
            Some(1),
            None,
            Some(86_399_999_999),
        ])),
        Arc::new(DurationMicrosecondArray::from(vec![
            Some(-3),
            None,
            Some(3),
        ])),
        Arc::new(IntervalMonthDayNanoArray::from(vec![
            Some(IntervalMonthDayNano::new(1, -2, 3_000)),
            None,
            Some(IntervalMonthDayNano::new(0, 0, 0)),
        ])),
    ]
}

fn nested() -> Vec<ArrayRef> {
    let nulls = || Some(NullBuffer::from(vec![true, false, true]));
    let list = ListArray::from_iter_primitive::<Float32Type, _, _>(vec![
        Some(vec![Some(1.0), None]),
        None,
        Some(vec![]),
    ]);
    let large = LargeListArray::from_iter_primitive::<Int64Type, _, _>(vec![
        Some(vec![Some(1), Some(2)]),
        None,
        Some(vec![Some(3)]),
    ]);
    let fixed = FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(
        vec![
            Some(vec![Some(1.0), Some(2.0)]),
            None,
            Some(vec![Some(3.0), None]),
        ],
        2,
    );
    let fields = Fields::from(vec![
        Field::new("a", DataType::Int64, true),
        Field::new("b", DataType::Utf8, true),
    ]);
    let a: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None, None]));
    let b: ArrayRef = Arc::new(StringArray::from(vec![Some("x"), None, Some("y")]));
    let rows: ArrayRef = Arc::new(StructArray::new(fields, vec![a, b], nulls()));
    let item = Arc::new(Field::new("item", rows.data_type().clone(), true));
    let offsets = OffsetBuffer::from_lengths([1, 0, 2]);
    let lists_of_rows = ListArray::new(item, offsets, Arc::clone(&rows), nulls());
    let mut maps = MapBuilder::new(None, StringBuilder::new(), Int64Builder::new());
    for (entries, is_valid) in [(2, true), (0, false), (1, true)] {
        for i in 0..entries {
            maps.keys().append_value(format!("k{i}"));
            maps.values().append_option((i > 0).then_some(i));
        }
        maps.append(is_valid).unwrap();
    }
    let maps = maps.finish();
    vec![
        Arc::new(list),
        Arc::new(large),
        Arc::new(fixed),
        rows,
        Arc::new(lists_of_rows),
        Arc::new(maps),
        Arc::new(NullArray::new(3)),
    ]
}

#[tokio::test]
async fn every_type_comes_back_as_it_went() {
    let manager = manager();
    for column in columns() {
        for format in [BatchFormat::Numpy, BatchFormat::Pyarrow] {
            let kind = column.data_type().clone();
            let mut same = Case::scalar(
                "same",
                &[("x", kind.clone())],
                kind.clone(),
                "def same(x): return x",
            );
            same.batch_format = format;
            let pool = same.pool(&manager, 1);
            // Whole, without the NULL, and a slice that starts at one.
            for (start, len) in [(0, 3), (0, 1), (1, 2)] {
                let sent = column.slice(start, len);
                let block = RecordBatch::try_new(Arc::clone(&same.input), vec![Arc::clone(&sent)]);
                let got = run(&pool, block.unwrap()).await;
                let got =
                    got.unwrap_or_else(|e| panic!("{kind} as {format}: {e}\n{:?}", e.traceback()));
                assert_eq!(got.column(0).as_ref(), sent.as_ref(), "{kind} as {format}");
            }
        }
    }
    assert_eq!(manager.workers().len(), 1, "one worker serves all");
    manager.shutdown().await;
}

#[tokio::test]
async fn numpy_has_the_natural_type() {
    let types: Vec<(&str, ArrayRef)> = vec![
        ("int32", Arc::new(Int32Array::from(vec![1, 2]))),
        ("bool", Arc::new(BooleanArray::from(vec![true, false]))),
        ("datetime64[D]", Arc::new(Date32Array::from(vec![1, 2]))),
        (
            "datetime64[us]",
            Arc::new(TimestampMicrosecondArray::from(vec![1, 2]).with_timezone("UTC")),
        ),
        ("object", Arc::new(StringArray::from(vec!["a", "b"]))),
        (
            "object",
            Arc::new(
                Decimal128Array::from(vec![1, 2])
                    .with_precision_and_scale(9, 2)
                    .unwrap(),
            ),
        ),
        (
            "float32",
            Arc::new(
                FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(
                    vec![
                        Some(vec![Some(1.0), Some(2.0), Some(3.0)]),
                        Some(vec![Some(4.0), Some(5.0), Some(6.0)]),
                    ],
                    3,
                ),
            ),
        ),
    ];
    let manager = manager();
    for (name, column) in types {
        let kind = column.data_type().clone();
        let body = format!(
            "
import numpy as np
def f(x):
    assert type(x) is np.ndarray, type(x)
    assert str(x.dtype) == '{name}', x.dtype
    assert x.shape == ((2, 3) if x.dtype == 'float32' else (2,)), x.shape
    assert x.dtype in ('object', 'bool', 'datetime64[D]') or not x.flags.writeable
    return [1, 2]"
        );
        let f = Case::scalar("f", &[("x", kind)], DataType::Int64, &body);
        let block = RecordBatch::try_new(Arc::clone(&f.input), vec![column]).unwrap();
        let out = run(&f.pool(&manager, 1), block).await.unwrap();
        assert_eq!(values(&out), [Some(1), Some(2)]);
    }
    manager.shutdown().await;
}

#[tokio::test]
async fn matrices_are_vectors_a_row_and_numbers_widen() {
    let item = Arc::new(Field::new("item", DataType::Float32, true));
    let manager = manager();
    for (kind, returned) in [
        (
            DataType::List(Arc::clone(&item)),
            "np.arange(6, dtype='f8').reshape(2, 3)",
        ),
        (
            DataType::FixedSizeList(Arc::clone(&item), 3),
            "np.arange(6).reshape(2, 3).astype('f4')",
        ),
        (
            DataType::List(item),
            "[np.arange(3, dtype='f4'), [3.0, 4.0, 5.0]]",
        ),
    ] {
        let body = format!("\nimport numpy as np\ndef f(x):\n    return {returned}");
        let f = Case::scalar("f", &[("x", DataType::Int64)], kind.clone(), &body);
        let out = run(&f.pool(&manager, 1), counting(2)).await.unwrap();
        let out = arrow::compute::cast(
            out.column(0),
            &DataType::List(Arc::new(Field::new("item", DataType::Float32, true))),
        )
        .unwrap();
        let row = out.as_list::<i32>().value(1);
        assert_eq!(
            row.as_primitive::<Float32Type>().values(),
            &[3.0, 4.0, 5.0],
            "{returned}"
        );
    }
    let widened = Case::scalar(
        "f",
        &[("x", DataType::Int64)],
        DataType::Decimal128(10, 2),
        "def f(x): return x / 4",
    );
    let out = run(&widened.pool(&manager, 1), counting(2)).await.unwrap();
    assert_eq!(out.column(0).as_primitive::<Decimal128Type>().value(1), 25);
    manager.shutdown().await;
}

#[tokio::test]
async fn lists_of_one_length_in_lists_are_tensors() {
    let kind = |item: DataType, size| {
        DataType::FixedSizeList(Arc::new(Field::new("item", item, true)), size)
    };
    let tensor = kind(kind(DataType::UInt8, 2), 3);
    let whole = "np.arange(12, dtype='u1').reshape(2, 3, 2)";
    let manager = manager();
    let lists = DataType::new_list(DataType::new_list(DataType::UInt8, true), true);
    for (kind, made) in [
        (&tensor, format!("list({whole})")),
        (&tensor, format!("pandas.Series(list({whole}))")),
        (&lists, whole.to_owned()),
        (&lists, format!("list({whole})")),
        (
            &lists,
            format!("np.array([*{whole}, None], dtype=object)[:2]"),
        ),
        // Not all alike.
        (&lists, format!("[{whole}[0].tolist(), {whole}[1]]")),
    ] {
        let body = format!("\nimport numpy as np, pandas\ndef made(x):\n    return {made}");
        let case = Case::scalar("made", &[("x", DataType::Int64)], kind.clone(), &body);
        let out = run(&case.pool(&manager, 1), counting(2)).await;
        let out = out.unwrap_or_else(|error| panic!("{made}: {error}"));
        let out = arrow::compute::cast(out.column(0), &lists).unwrap();
        let row = out.as_list::<i32>().value(1);
        let last = row.as_list::<i32>().value(2);
        assert_eq!(
            last.as_primitive::<UInt8Type>().values(),
            &[10, 11],
            "{made}"
        );
    }
    for (made, check) in [
        (
            whole,
            "x.shape == (2, 3, 2) and x.dtype == 'u1' and x[1, 2, 0] == 10",
        ),
        // A NULL is in no array of numbers.
        (
            "[[[0, 1], None, [4, 5]], None]",
            "x.shape == (2,) and x[1] is None and x[0][1] is None and list(x[0][2]) == [4, 5]",
        ),
    ] {
        let body = format!("\nimport numpy as np\ndef made(x):\n    return {made}");
        let case = Case::scalar("made", &[("x", DataType::Int64)], tensor.clone(), &body);
        let block = run(&case.pool(&manager, 1), counting(2)).await.unwrap();
        let body = format!("\ndef seen(x):\n    return [{check}] * len(x)");
        let seen = Case::scalar("seen", &[("x", tensor.clone())], DataType::Boolean, &body);
        let out = run(&seen.pool(&manager, 1), block.clone()).await.unwrap();
        assert_eq!(out.column(0).as_boolean().true_count(), 2, "{made}");
    }
    manager.shutdown().await;
}

/// `column` as the extension type `name`.
fn extension(column: ArrayRef, name: &str, metadata: &str) -> RecordBatch {
    let field = Field::new("x", column.data_type().clone(), true).with_metadata(
        [
            ("ARROW:extension:name".to_owned(), name.to_owned()),
            ("ARROW:extension:metadata".to_owned(), metadata.to_owned()),
        ]
        .into(),
    );
    RecordBatch::try_new(Arc::new(Schema::new(vec![field])), vec![column]).unwrap()
}

#[tokio::test]
async fn extension_types_reach_user_code() {
    let tensors = FixedSizeListArray::from_iter_primitive::<Float64Type, _, _>(
        [Some([1.0, 2.0, 3.0, 4.0]), None].map(|t| t.map(|t| t.map(Some))),
        4,
    );
    let whole = tensors.slice(0, 1);
    let shape = r#"{"shape":[2,2]}"#;
    let ids = FixedSizeBinaryArray::try_from_iter([[7_u8; 16]].into_iter()).unwrap();
    let tensor = |array: &FixedSizeListArray| {
        extension(Arc::new(array.clone()), "arrow.fixed_shape_tensor", shape)
    };
    let uuid = extension(Arc::new(ids), "arrow.uuid", "");
    let manager = manager();
    for (block, format, check) in [
        (
            tensor(&whole),
            BatchFormat::Numpy,
            "x.shape == (1, 2, 2) and x[0, 1, 0] == 3",
        ),
        (
            tensor(&tensors),
            BatchFormat::Numpy,
            "x[0].shape == (2, 2) and x[0][1, 1] == 4 and x[1] is None",
        ),
        (
            tensor(&tensors),
            BatchFormat::Pyarrow,
            "isinstance(x.type, pa.FixedShapeTensorType) and x.type.shape == [2, 2]",
        ),
        (
            tensor(&whole),
            BatchFormat::Polars,
            "x.to_list() == [[1, 2, 3, 4]]",
        ),
        (
            tensor(&whole),
            BatchFormat::Pandas,
            "list(x[0]) == [1, 2, 3, 4]",
        ),
        (
            uuid.clone(),
            BatchFormat::Rows,
            "x == uuid.UUID(bytes=bytes([7] * 16))",
        ),
        (uuid, BatchFormat::Numpy, "x[0] == bytes([7] * 16)"),
    ] {
        let take = match format {
            BatchFormat::Rows => "rows[0]['x']",
            BatchFormat::Pyarrow => "rows.column('x')",
            _ => "rows['x']",
        };
        let body = format!(
            "
import uuid
import pyarrow as pa
def f(rows):
    x = {take}
    assert {check}, (type(x), x)
    return {{'y': [1]}}"
        );
        let body = match format {
            BatchFormat::Rows => body.replace("{'y': [1]}", "[{'y': 1}]"),
            _ => body,
        };
        let mut case = Case::table("f", &[("y", DataType::Int64)], &body).in_format(format);
        case.input = block.schema();
        let out = run(&case.pool(&manager, 1), block).await;
        let out = out.unwrap_or_else(|e| panic!("{format}: {e}\n{:?}", e.traceback()));
        assert_eq!(values(&out), [Some(1)]);
    }
    manager.shutdown().await;
}
